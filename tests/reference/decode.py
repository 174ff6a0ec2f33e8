"""Decoding as one would write it first: one row at a time, no padding, no sharing, plain Python;
and the heuristics' rules in words."""

import torch

MASKED = None


def decode_row(model, prompt, choose, length, block_length, temperature=0.0, uniform=None):
    """One row. `choose(c, margin, entropy, eligible, step) -> positions to reveal`.
    Returns tokens, NFE, reveal steps.

    Above temperature 0 tokens are drawn, with `uniform` [L, V], one number for each position and
    token; the confidence of a position is then the probability of the token that was drawn.
    """
    y, revealed = [MASKED] * length, [-1] * length
    step = 0
    while MASKED in y and step < length:
        tokens = torch.tensor(
            [[*prompt, *(model.mask_id if token is MASKED else token for token in y)]]
        )
        logits = model.logits(tokens, torch.ones_like(tokens))[0, len(prompt) :].double()
        logits[:, list(model.never_ids)] = -torch.inf
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
