"""The families' networks as their papers and configuration files describe them: plain PyTorch, one
head at a time, no `transformers`.

Each takes the checkpoint's own config and weights and gives fp32 logits [B, S, V] for tokens [B, S]
and mask [B, S] (1 = a token). Every position attends to every position that holds a token; in SDAR
and LLaDA2 only to those of its own block and of the blocks before it.
"""

import math

import torch
from torch.nn.functional import gelu, layer_norm, silu


def rms(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotated(x, theta):
    """Rotary positions (Su et al. 2021) on x [S, d]: the pair (i, i + d/2) is turned by position /
    theta^(2i/d)."""
    width = x.shape[1]
    return turned(x, [theta ** (-2 * i / width) for i in range(width // 2)])


def turned(x, frequencies):
    """The pair (i, i + d/2) is turned by position · frequency i."""
    positions, width = x.shape
    out = torch.empty_like(x)
    for s in range(positions):
        for i in range(width // 2):
            angle = s * frequencies[i]
            a, b = x[s, i], x[s, i + width // 2]
            out[s, i] = a * math.cos(angle) - b * math.sin(angle)
            out[s, i + width // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def attend(q, k, v, mask, window=None, block=None):
    """One head: q, k, v [S, d]; mask [S]; |i − j| ≤ window where there is one; ⌊i/b⌋ ≥ ⌊j/b⌋ where
    there are blocks of b."""
    scores = q @ k.T / math.sqrt(q.shape[1])
    scores = scores.masked_fill(mask[None] == 0, -torch.inf)
    if block is not None:
        for i in range(len(q)):
            for j in range(len(q)):
                if i // block < j // block:
                    scores[i, j] = -torch.inf
    if window is not None:
        places = torch.arange(len(q))
        scores = scores.masked_fill((places[:, None] - places).abs() > window, -torch.inf)
    rows = scores.softmax(-1).nan_to_num(
        0.0
    )  # padded positions far from any token see nothing; what they give does not matter
    return rows @ v


def heads(x, n):
    return x.split(x.shape[1] // n, dim=1)


def linear(w, name, x):
    out = x @ w[name + ".weight"].T
    return out + w[name + ".bias"] if name + ".bias" in w else out


def attention(w, name, x, mask, n_heads, n_kv, theta, eps, out_name="o_proj", block=None):
    """Grouped-query attention with rotary positions; q and k are normed for each head where the
    checkpoint has such norms."""
    q, k, v = (
        heads(linear(w, f"{name}.{part}", x), n)
        for part, n in (("q_proj", n_heads), ("k_proj", n_kv), ("v_proj", n_kv))
    )
    results = []
    for i in range(n_heads):
        qi, ki, vi = q[i], k[i * n_kv // n_heads], v[i * n_kv // n_heads]
        if f"{name}.q_norm.weight" in w:
            qi, ki = (
                rms(qi, w[f"{name}.q_norm.weight"], eps),
                rms(ki, w[f"{name}.k_norm.weight"], eps),
            )
        results.append(attend(rotated(qi, theta), rotated(ki, theta), vi, mask, block=block))
    return linear(w, f"{name}.{out_name}", torch.cat(results, 1))


def swiglu(w, x, gate, up, down):
    return linear(w, down, silu(linear(w, gate, x)) * linear(w, up, x))


def each_row(one):
    """A network for one row [S] as one for a batch."""
    return lambda config, w, tokens, mask: torch.stack(
        [one(config, w, t, m) for t, m in zip(tokens, mask, strict=True)]
    )


@each_row
def llada(c, w, tokens, mask):
    """LLaDA (Nie et al. 2025, App. B): OLMo's file format, Llama's blocks, no causal mask."""
    eps, x = c["rms_norm_eps"], w["model.transformer.wte.weight"][tokens]
    for n in range(c["n_layers"]):
        b = f"model.transformer.blocks.{n}"
        h = rms(x, w[f"{b}.attn_norm.weight"], eps)
        x = x + attention(
            w, b, h, mask, c["n_heads"], c["n_kv_heads"], c["rope_theta"], eps, "attn_out"
        )
        h = rms(x, w[f"{b}.ff_norm.weight"], eps)
        x = x + swiglu(w, h, f"{b}.ff_proj", f"{b}.up_proj", f"{b}.ff_out")
    x = rms(x, w["model.transformer.ln_f.weight"], eps)
    return (
        linear(w, "model.transformer.ff_out", x)
        if not c["weight_tying"]
        else x @ w["model.transformer.wte.weight"].T
    )


def experts(c, w, name, x):
    """LLaDA-MoE's feed-forward layer: softmax over all experts, the best k, their weights as they
    are unless norm_topk_prob."""
    shares = (x @ w[f"{name}.gate.weight"].T).softmax(-1)
    out = torch.zeros_like(x)
    for s in range(len(x)):
        best = shares[s].sort(descending=True).indices[: c["num_experts_per_tok"]]
        total = shares[s, best].sum() if c["norm_topk_prob"] else 1.0
        for e in best.tolist():
            b = f"{name}.experts.{e}"
            out[s] += (
                shares[s, e]
                / total
                * swiglu(w, x[s : s + 1], f"{b}.gate_proj", f"{b}.up_proj", f"{b}.down_proj")[0]
            )
    return out


@each_row
def qwen(c, w, tokens, mask):
    """Qwen2, Qwen3, Llama and LLaDA-MoE names: what Dream, A2D, LLaDA-MoE and SDAR checkpoints
    hold."""
    eps, x = c["rms_norm_eps"], w["model.embed_tokens.weight"][tokens]
    for n in range(c["num_hidden_layers"]):
        b = f"model.layers.{n}"
        h = rms(x, w[f"{b}.input_layernorm.weight"], eps)
        x = x + attention(
            w,
            f"{b}.self_attn",
            h,
            mask,
            c["num_attention_heads"],
            c["num_key_value_heads"],
            c["rope_theta"],
            eps,
            block=c.get("block_size"),
        )
        h = rms(x, w[f"{b}.post_attention_layernorm.weight"], eps)
        routed = f"{b}.mlp.gate.weight" in w
        x = x + (
            experts(c, w, f"{b}.mlp", h)
            if routed
            else swiglu(w, h, *(f"{b}.mlp.{part}_proj" for part in ("gate", "up", "down")))
        )
    x = rms(x, w["model.norm.weight"], eps)
    return x @ w["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"].T


def dream(c, w, tokens, mask):
    """Dream (Ye et al. 2025): the output at position i predicts token i + 1, so position p is read
    at p − 1 (0 at 0)."""
    logits = qwen(c, w, tokens, mask)
    return torch.stack([logits[:, max(p - 1, 0)] for p in range(tokens.shape[1])], 1)


def grouped_experts(c, w, name, x):
    """LLaDA2's feed-forward layer: sigmoid scores; the bias counts for the choice only; the groups
    with the largest sums of their two best scores stay, and of their experts the best k; their
    scores without bias, divided by their sum, are scaled; one shared expert is added."""
    scores = (x.double() @ w[f"{name}.gate.weight"].T.double()).sigmoid()
    chosen_by = scores + w[f"{name}.gate.expert_bias"].double()
    groups, each = c["n_group"], c["num_experts"] // c["n_group"]
    out = swiglu(w, x, *(f"{name}.shared_experts.{part}_proj" for part in ("gate", "up", "down")))
    for s in range(len(x)):
        parts = [list(range(g * each, (g + 1) * each)) for g in range(groups)]
        values = [sum(sorted(float(chosen_by[s, e]) for e in part)[-2:]) for part in parts]
        best_groups = sorted(range(groups), key=lambda g: -values[g])[: c["topk_group"]]
        allowed = [e for g in best_groups for e in parts[g]]
        best = sorted(allowed, key=lambda e: -float(chosen_by[s, e]))[: c["num_experts_per_tok"]]
        total = sum(float(scores[s, e]) for e in best) if len(best) > 1 else 1.0
        for e in best:
            b = f"{name}.experts.{e}"
            share = float(scores[s, e]) / total * c["routed_scaling_factor"]
            names = (f"{b}.{part}_proj" for part in ("gate", "up", "down"))
            out[s] += share * swiglu(w, x[s : s + 1], *names)[0]
    return out


@each_row
def llada2(c, w, tokens, mask, block=32):
    """LLaDA2.0: q, k and v in one matrix, norms over each head of q and k, rotary positions on the
    first half of a head, one or more dense layers and then experts."""
    eps, size = c["rms_norm_eps"], c["head_dim"]
    n_heads, n_kv = c["num_attention_heads"], c["num_key_value_heads"]
    turned, block = int(size * c["partial_rotary_factor"]), c.get("block_size", block)

    def placed(x):
        return torch.cat([rotated(x[:, :turned], c["rope_theta"]), x[:, turned:]], 1)

    x = w["model.word_embeddings.weight"][tokens]
    for n in range(c["num_hidden_layers"]):
        b = f"model.layers.{n}"
        h = rms(x, w[f"{b}.input_layernorm.weight"], eps)
        both = heads(linear(w, f"{b}.attention.query_key_value", h), n_heads + 2 * n_kv)
        results = []
        for i in range(n_heads):
            kv = i * n_kv // n_heads
            q = rms(both[i], w[f"{b}.attention.query_layernorm.weight"], eps)
            k = rms(both[n_heads + kv], w[f"{b}.attention.key_layernorm.weight"], eps)
            v = both[n_heads + n_kv + kv]
            results.append(attend(placed(q), placed(k), v, mask, block=block))
        x = x + linear(w, f"{b}.attention.dense", torch.cat(results, 1))
        h = rms(x, w[f"{b}.post_attention_layernorm.weight"], eps)
        if n < c["first_k_dense_replace"]:
            x = x + swiglu(w, h, *(f"{b}.mlp.{part}_proj" for part in ("gate", "up", "down")))
        else:
            x = x + grouped_experts(c, w, f"{b}.mlp", h)
    return rms(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T


def normed(w, name, x, eps):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w.get(f"{name}.bias"), eps)


@each_row
def bert(c, w, tokens, mask):
    """BERT (Devlin et al. 2019) and RoBERTa: learned positions, norms behind each sum; RoBERTa
    counts positions from padding id + 1."""
    roberta, eps = c["model_type"] == "roberta", c["layer_norm_eps"]
    p = "roberta." if roberta else "bert."
    places = torch.arange(len(tokens))
    if roberta:
        real = tokens != c["pad_token_id"]
        places = torch.where(real, real.cumsum(0) + c["pad_token_id"], c["pad_token_id"])
    x = (
        w[f"{p}embeddings.word_embeddings.weight"][tokens]
        + w[f"{p}embeddings.position_embeddings.weight"][places]
    )
    x = normed(
        w, f"{p}embeddings.LayerNorm", x + w[f"{p}embeddings.token_type_embeddings.weight"][0], eps
    )
    n_heads = c["num_attention_heads"]
    for n in range(c["num_hidden_layers"]):
        b = f"{p}encoder.layer.{n}"
        q, k, v = (
            heads(linear(w, f"{b}.attention.self.{part}", x), n_heads)
            for part in ("query", "key", "value")
        )
        h = torch.cat([attend(q[i], k[i], v[i], mask) for i in range(n_heads)], 1)
        x = normed(
            w,
            f"{b}.attention.output.LayerNorm",
            x + linear(w, f"{b}.attention.output.dense", h),
            eps,
        )
        h = linear(w, f"{b}.output.dense", gelu(linear(w, f"{b}.intermediate.dense", x)))
        x = normed(w, f"{b}.output.LayerNorm", x + h, eps)
    if roberta:
        x = normed(w, "lm_head.layer_norm", gelu(linear(w, "lm_head.dense", x)), eps)
        return x @ w[f"{p}embeddings.word_embeddings.weight"].T + w["lm_head.bias"]
    x = normed(
        w,
        "cls.predictions.transform.LayerNorm",
        gelu(linear(w, "cls.predictions.transform.dense", x)),
        eps,
    )
    return x @ w[f"{p}embeddings.word_embeddings.weight"].T + w["cls.predictions.bias"]


@each_row
def modernbert(c, w, tokens, mask):
    """ModernBERT (Warner et al. 2024): norms before, rotary positions, GeGLU, every third layer
    global and the others in a window."""
    eps, n_heads = c["norm_eps"], c["num_attention_heads"]
    x = normed(w, "model.embeddings.norm", w["model.embeddings.tok_embeddings.weight"][tokens], eps)
    for n in range(c["num_hidden_layers"]):
        b = f"model.layers.{n}"
        everywhere = n % c["global_attn_every_n_layers"] == 0
        theta, window = (
            (c["global_rope_theta"], None)
            if everywhere
            else (c["local_rope_theta"], c["local_attention"] // 2)
        )
        h = x if n == 0 else normed(w, f"{b}.attn_norm", x, eps)
        q, k, v = (heads(part, n_heads) for part in linear(w, f"{b}.attn.Wqkv", h).chunk(3, 1))
        h = torch.cat(
            [
                attend(rotated(q[i], theta), rotated(k[i], theta), v[i], mask, window)
                for i in range(n_heads)
            ],
            1,
        )
        x = x + linear(w, f"{b}.attn.Wo", h)
        a, gate = linear(w, f"{b}.mlp.Wi", normed(w, f"{b}.mlp_norm", x, eps)).chunk(2, 1)
        x = x + linear(w, f"{b}.mlp.Wo", gelu(a) * gate)
    x = normed(w, "model.final_norm", x, eps)
    x = normed(w, "head.norm", gelu(linear(w, "head.dense", x)), eps)
    return x @ w["model.embeddings.tok_embeddings.weight"].T + w["decoder.bias"]


def yarn(width, rope):
    """YaRN's frequencies (Peng et al. 2023): those that turn more than beta_fast times within the
    original length stay, those below beta_slow are divided by the factor, between it is a ramp."""
    theta, original = rope["rope_theta"], rope["original_max_position_embeddings"]

    def place(turns):
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(place(rope["beta_fast"])), 0)
    high = min(math.ceil(place(rope["beta_slow"])), width - 1)
    found = []
    for i in range(width // 2):
        ramp = min(max((i - low) / max(high - low, 0.001), 0), 1)
        plain = theta ** (-2 * i / width)
        found.append(plain / rope["factor"] * ramp + plain * (1 - ramp))
    return found


@each_row
def nemotron(c, w, tokens, mask):
    """Nemotron-Labs-Diffusion: the last b tokens are the block, in which all see all; those before
    see what stands before them. Queries beyond the original length are scaled."""
    eps, x, rope = c["rms_norm_eps"], w["encoder.embed_tokens.weight"][tokens], c["rope_parameters"]
    size = int(mask.sum())
    start = max(size - c["block_size"], 0)
    n_heads, n_kv = c["num_attention_heads"], c["num_key_value_heads"]
    frequencies = yarn(c["head_dim"], rope)
    hidden = torch.ones(len(tokens), len(tokens), dtype=torch.bool)
    for i in range(len(tokens)):
        for j in range(size):
            hidden[i, j] = not (j <= i or (i >= start and j >= start))
    far = torch.arange(len(tokens)) // rope["original_max_position_embeddings"]
    scale = 1 + rope["llama_4_scaling_beta"] * (1.0 + far).log().to(x.dtype)
    for n in range(c["num_hidden_layers"]):
        b = f"encoder.layers.{n}"
        h = rms(x, w[f"{b}.input_layernorm.weight"], eps)
        q, k, v = (
            heads(linear(w, f"{b}.self_attn.{part}", h), count)
            for part, count in (("q_proj", n_heads), ("k_proj", n_kv), ("v_proj", n_kv))
        )
        results = []
        for i in range(n_heads):
            own = i * n_kv // n_heads
            query = turned(q[i], frequencies) * scale[:, None]
            scores = query @ turned(k[own], frequencies).T / math.sqrt(c["head_dim"])
            results.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[own])
        x = x + linear(w, f"{b}.self_attn.o_proj", torch.cat(results, 1))
        h = rms(x, w[f"{b}.post_attention_layernorm.weight"], eps)
        x = x + swiglu(w, h, f"{b}.mlp.gate_proj", f"{b}.mlp.up_proj", f"{b}.mlp.down_proj")
    return linear(w, "diffusion_head", rms(x, w["encoder.norm.weight"], eps))


NETWORKS = {
    "llada": llada,
    "dream": dream,
    "a2d-qwen2": qwen,
    "a2d-qwen3": qwen,
    "a2d-llama": qwen,
    "llada_moe": qwen,
    "sdar": qwen,
    "sdar_moe": qwen,
    "llada2_moe": llada2,
    "nemotron": nemotron,
    "bert": bert,
    "roberta": bert,
    "modernbert": modernbert,
}
