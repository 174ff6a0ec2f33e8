"""Decoding as one would write it first: one row at a time, no padding, no sharing, plain Python;
and the heuristics' rules in words."""

import torch

MASKED = None


def decode_row(
    model, prompt, choose, length, block_length, temperature=0.0, uniform=None, allowed=()
):
    """One row. `choose(c, margin, entropy, eligible, step) -> positions to reveal`.
    Returns tokens, NFE, reveal steps.

    Above temperature 0 tokens are drawn, with `uniform` [L, V], one number for each position and
    token; the confidence of a position is then the probability of the token that was drawn.
    `allowed` holds for the first positions the tokens that may stand there, or None.
    """
    y, revealed = [MASKED] * length, [-1] * length
    step = 0
    while MASKED in y and step < length:
        tokens = torch.tensor(
            [[*prompt, *(model.mask_id if token is MASKED else token for token in y)]]
        )
        logits = model.logits(tokens, torch.ones_like(tokens))[0, len(prompt) :].double()
        logits[:, list(model.never_ids)] = -torch.inf
        for k, ids in enumerate(allowed):
            if ids is not None:
                own = logits[k, ids].clone()
                logits[k] = -torch.inf
                logits[k, ids] = own
        p = logits.softmax(-1)
        top = p.sort(-1, descending=True).values
        token = p.argmax(-1)
        if temperature > 0:
            gumbel = -(-(uniform.double() + 2.0**-25).log()).log()
            token = (logits / temperature + gumbel).argmax(-1)
        entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
        block = y.index(MASKED) // block_length
        eligible = [k for k in range(length) if y[k] is MASKED and k // block_length == block]
        chosen = choose(
            p.gather(1, token[:, None])[:, 0].tolist(),
            (top[:, 0] - top[:, 1]).tolist(),
            entropy.tolist(),
            eligible,
            step,
        )
        for k in chosen:
            assert k in eligible
            y[k], revealed[k] = int(token[k]), step
        step += 1
    return [model.mask_id if token is MASKED else token for token in y], step, revealed


def decode_block_row(model, prompt, choose, length):
    """One row of a block-causal model, greedily: the whole canvas is forwarded at every step, block
    after block until a finished one holds an end of text. With a causal context that is all up to
    the current block, and the first block begins behind the prompt. Returns tokens, NFE, reveal
    steps."""
    size, causal = model.attention_block, model.causal_context
    first = len(prompt) if causal else len(prompt) // size * size
    behind = -(-(len(prompt) + length - first) // size) * size - (len(prompt) - first)
    canvas = [*prompt, *[MASKED] * behind]
    revealed, step = [-1] * len(canvas), 0
    for start in range(first, len(canvas), size):
        block = range(start, start + size)
        while any(canvas[k] is MASKED for k in block):
            seen = canvas[: start + size] if causal else canvas
            tokens = torch.tensor([[model.mask_id if t is MASKED else t for t in seen]])
            logits = model.logits(tokens, torch.ones_like(tokens))[0].double()
            logits[:, list(model.never_ids)] = -torch.inf
            p = logits.softmax(-1)
            top = p.sort(-1, descending=True).values
            entropy = -(p * p.clamp(min=1e-300).log()).sum(-1)
            eligible = [k for k in block if canvas[k] is MASKED]
            margins = (top[:, 0] - top[:, 1]).tolist()
            for k in choose(top[:, 0].tolist(), margins, entropy.tolist(), eligible, step):
                assert k in eligible
                canvas[k], revealed[k] = int(p[k].argmax()), step
            step += 1
        if any(canvas[k] in model.eos_ids for k in block if k >= len(prompt)):
            break
    answer = range(len(prompt), len(prompt) + length)
    tokens = [model.eos_ids[0] if canvas[k] is MASKED else canvas[k] for k in answer]
    return tokens, step, [revealed[k] for k in answer]


def block_diffusion_loop(model, prompt, length, steps, threshold=None):
    """The loop with which SDAR and LLaDA2.0 are published, at temperature 0: each block has `steps`
    turns; a turn reveals the masked positions more confident than the threshold ("dynamic"), or if
    those are fewer than the turn's number, or there is no threshold ("static"), as many of the most
    confident. Returns tokens and how many turns revealed something."""
    size = model.attention_block
    total = -(-(len(prompt) + length) // size)
    x = torch.full((1, total * size), model.mask_id)
    x[0, : len(prompt)] = torch.tensor(prompt)
    numbers = [size // steps + (i < size % steps) for i in range(steps)]
    turns = 0
    for n in range(len(prompt) // size, total):
        begin, end = n * size, (n + 1) * size
        seen = x[:, :end]
        for number in numbers:
            masked = x[0, begin:end] == model.mask_id
            if not masked.any():
                break
            logits = model.logits(seen, torch.ones_like(seen))[0, begin:end].double()
            logits[:, list(model.never_ids)] = -torch.inf
            p, best = logits.softmax(-1).max(-1)
            p[~masked] = -torch.inf
            sure = p > (2.0 if threshold is None else threshold)
            if sure.sum() < number:
                sure = torch.zeros_like(masked)
                sure[p.topk(min(number, int(masked.sum()))).indices] = True
            x[0, begin:end][sure] = best[sure]
            turns += 1
        if any(int(token) in model.eos_ids for token in x[0, max(begin, len(prompt)) : end]):
            x[0, end:] = model.eos_ids[0]
            break
    return x[0, len(prompt) : len(prompt) + length].tolist(), turns


def confidence(n):
    return lambda c, margin, entropy, eligible, step: sorted(eligible, key=lambda k: -c[k])[:n]


def margin(n):
    return lambda c, margin, entropy, eligible, step: sorted(eligible, key=lambda k: -margin[k])[:n]


def low_entropy(n):
    return lambda c, margin, entropy, eligible, step: sorted(eligible, key=lambda k: entropy[k])[:n]


def threshold(limit):
    def choose(c, margin, entropy, eligible, step):
        return [k for k in eligible if c[k] >= limit] or [max(eligible, key=lambda k: c[k])]

    return choose


def factor(f):
    def choose(c, margin, entropy, eligible, step):
        ranked = sorted(eligible, key=lambda k: -c[k])
        best = 1
        for n in range(1, len(ranked) + 1):
            if (n + 1) * (1 - c[ranked[n - 1]]) < f:
                best = n
        return ranked[:best]

    return choose


def entropy(bound):
    def choose(c, margin, entropy, eligible, step):
        ranked = sorted(eligible, key=lambda k: entropy[k])
        best = 1
        for n in range(1, len(ranked) + 1):
            values = [entropy[k] for k in ranked[:n]]
            if sum(values) - max(values) <= bound:
                best = n
        return ranked[:best]

    return choose


RULES = {
    "confidence": confidence,
    "margin": margin,
    "low-entropy": low_entropy,
    "threshold": threshold,
    "factor": factor,
    "entropy": entropy,
}
