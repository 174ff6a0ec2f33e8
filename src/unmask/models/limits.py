"""How long a canvas may be before it is taken for a mistake."""

from __future__ import annotations

from typing import Any

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
