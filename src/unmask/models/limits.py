"""How long a canvas may be before it is taken for a mistake, and what a pass takes in memory."""

from __future__ import annotations

from typing import Any

from torch import nn

from unmask.models.base import Model
from unmask.models.head import HeadPlan, Sampling

MOST_TOKENS = 2**20
LEAST_TOKENS = 4096
TIMES = 8  # people do stretch the positions that a model was trained on, but not further


def canvas_limit(config: Any) -> int:
    """The most tokens of a prompt and its buffer together.

    The time and memory of a pass grow with the square of this, so that a file given as a prompt by
    mistake would keep a machine busy for days. A model that says for how many positions it was made
    takes eight times as many, and every model at least 4,096.

    Args:
        config: of the network.
    """
    made_for = getattr(config, "max_position_embeddings", None)
    if not isinstance(made_for, int):
        return MOST_TOKENS
    return min(max(TIMES * made_for, LEAST_TOKENS), MOST_TOKENS)


def key_value_width(model: Model) -> int:
    """Numbers in the keys, and as many in the values, of one position in one layer."""
    config = model.network.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or model.hidden_size // config.num_attention_heads
    return heads * width


def position_bytes(model: Model) -> int:
    """Bytes of the keys and values of one position, in all layers."""
    layers = model.network.config.num_hidden_layers
    return 2 * layers * key_value_width(model) * model.dtype.itemsize


def forward_bytes(model: Model, rows: int, queries: int, keys: int, cached: bool = False) -> int:
    """The most that the backbone's activations take at one moment of a pass.

    Layers run one after the other and keep nothing, so it is one layer's; a CPU runs a few rows at
    a time (`Model.positions_at_once`). For each position that is forwarded, in numbers of the
    network's dtype:

    * attention: the residual and what is read of it (2 H), queries and their rotated copies, what
      comes out and its copy (8 A, A = heads · head width), keys and values likewise (4 K), and the
      mask over all keys, of which the kernel makes one of numbers and one of bytes. A kernel
      that is not fused holds three scores for each head instead;
    * feed-forward: the residual and what is read of it (2 H), 3 I. Of a mixture, I is that of the
      experts of a token together, whose inputs are copied (H for each).

    The larger of both counts, and norms in fp32 beside it (4 H). Cached keys and values are read as
    one layer's copy, with as many heads as the queries have.

    Args:
        model: the frozen model.
        rows: rows of the pass.
        queries: positions of each that are forwarded.
        keys: positions of each that are attended to.
        cached: whether it is a pass with `cache`, which takes all rows at once.
    """
    config, item, width = model.network.config, model.dtype.itemsize, model.hidden_size
    heads = config.num_attention_heads
    per_head = getattr(config, "head_dim", None) or width // heads
    parts = 1 if cached else min(-(-rows * queries // model.positions_at_once), rows)
    at_once = -(-rows // parts)
    fused = config._attn_implementation != "eager"
    mask = keys * (item + 1 if fused else heads * (2 * item + 4))
    attention = (2 * width + 8 * heads * per_head + 4 * key_value_width(model)) * item + mask
    inner = getattr(config, "intermediate_size", None) or 4 * width
    feed = 2 * width + 3 * inner
    if chosen := getattr(config, "num_experts_per_tok", None):
        experts = chosen * (width + 3 * config.moe_intermediate_size)
        feed = 2 * width + max(3 * inner, experts)
    copies = 0 if keys == queries else at_once * keys * 2 * heads * per_head * item
    return at_once * queries * (max(attention, feed * item) + 16 * width) + copies


def head_bytes(model: Model, sampling: Sampling, positions: int, k: int) -> int:
    """The most that the head takes at one moment, beside what it gives.

    `HeadPlan` says how many logits there are at once. Of each there are the number itself, in the
    network's dtype and in fp32, and its probability (12 bytes with the entropy); a draw adds noise
    (48), a draw among some tokens the ranking of all (40), guidance the second logits (16). Of each
    position: where it is, and the k best of each slice of the vocabulary.

    Args:
        model: the frozen model.
        sampling: how tokens are drawn.
        positions: how many proposals are needed.
        k: probabilities at each.
    """
    plan = HeadPlan.for_device(model.device.type)
    sliced = type(model.head or model.network.get_output_embeddings()) is nn.Linear
    tile = min(plan.tile, model.vocabulary) if not sampling.restricted else model.vocabulary
    most = plan.drawn if sampling.temperature > 0 else plan.logits
    at_once = min(positions, most // tile + 1)
    slices = -(-model.vocabulary // tile)
    draws = 48 * (sampling.temperature > 0) + 40 * sampling.restricted
    logit = 12 + model.dtype.itemsize + draws + 16 * (sampling.cfg_scale > 0)
    # Few positions have several slices at once.
    least = at_once * (tile if sliced else model.vocabulary)
    logits = max(least, min(most, at_once * model.vocabulary)) * logit
    return logits + at_once * slices * (8 * k + 32) + positions * 32
