"""Decoding of block-causal models as one would write it first: one row at a time, every pass a
whole forward pass, plain Python."""

import torch


def seen(length, block):
    """Which position sees which: its own block and all blocks before it. bool [length, length]."""
    of = torch.arange(length) // block
    return of[:, None] >= of[None, :]


def decode_blocks(logits, prompt, length, block, mask_id, never, choose):
    """One row, greedily.

    `logits(tokens)` are those of one forward pass [positions, V], and `choose(start, masked, p,
    step)` the positions of a block to reveal, from its probabilities p [block, V]. The canvas is
    filled up to whole blocks; the last block is decoded whole and then cut.

    Returns the generated tokens, and the passes of each block that was decoded.
    """
    end = -(-(len(prompt) + length) // block) * block
    tokens = [*prompt, *[mask_id] * (end - len(prompt))]
    hidden = [False] * len(prompt) + [True] * (end - len(prompt))
    passes = []
    for start in range(len(prompt) // block * block, end, block):
        step = 0
        while any(hidden[start : start + block]):
            x = logits(tokens[: start + block])[start:].float()
            x[:, [mask_id, *never]] = -torch.inf
            p = x.softmax(-1)
            chosen = choose(start, hidden[start : start + block], p, step)
            assert chosen
            for i in chosen:
                assert hidden[start + i]
                tokens[start + i], hidden[start + i] = int(p[i].argmax()), False
            step += 1
        passes.append(step)
    return tokens[len(prompt) : len(prompt) + length], passes


def by_rule(rule):
    """A `choose` from a rule of `tests.reference.decode`."""

    def choose(start, masked, p, step):
        top = p.double().sort(-1, descending=True).values
        entropy = -(p.double() * p.double().clamp(min=1e-300).log()).sum(-1)
        eligible = [i for i, hidden in enumerate(masked) if hidden]
        margin = top[:, 0] - top[:, 1]
        return rule(top[:, 0].tolist(), margin.tolist(), entropy.tolist(), eligible, step)

    return choose
