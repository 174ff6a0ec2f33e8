"""The policy network of the paper's released code, one row, one position and one head at a time."""

import math

import torch
from torch.nn.functional import gelu, layer_norm, silu


def logits(w, confidence, masked, step, length, *, activate=False):
    """w: weights under their released names; confidence [L, k]; masked [L]; gives [L]."""
    w = {name.removeprefix("base_policy."): tensor for name, tensor in w.items()}
    b = "transformer_blocks.0."
    positions, width, size = (
        len(masked),
        len(w["final_norm.weight"]),
        len(w["final_norm.weight"]) // 2,
    )

    def linear(name, x):
        return w[name + ".weight"] @ x + w[name + ".bias"]

    t = step / length
    embedding = torch.tensor([math.cos(t)] * (width // 2) + [math.sin(t)] * (width // 2))
    time = linear("time_mlp.2", silu(linear("time_mlp.0", embedding)))
    h = [linear("confidence_proj", c) for c in confidence]
    modulators = []
    for m in masked.tolist():
        condition = time + w["mask_embedding.weight"][int(m)]
        name = b + ("ada_conditioning.1" if activate else "ada_conditioning")
        modulators.append(linear(name, silu(condition) if activate else condition).view(6, width))

    def norm(name, x):
        return layer_norm(x, (width,), w.get(name + ".weight"), w.get(name + ".bias"))

    def rotated(x, p):  # pairs are neighbours; the results are put together as halves
        out = torch.zeros(size)
        for i in range(size // 2):
            angle = p / 10_000.0 ** (2 * i / size)
            out[i] = x[2 * i] * math.cos(angle) - x[2 * i + 1] * math.sin(angle)
            out[i + size // 2] = x[2 * i] * math.sin(angle) + x[2 * i + 1] * math.cos(angle)
        return out

    x = [
        norm(b + "norm1", h[p]) * (1 + modulators[p][0]) + modulators[p][1]
        for p in range(positions)
    ]
    q, k, v = ([linear(f"{b}{part}_proj", row) for row in x] for part in "qkv")
    for p in range(positions):
        seen = []
        for head in range(2):
            own = slice(head * size, (head + 1) * size)
            scores = torch.stack(
                [rotated(q[p][own], p) @ rotated(k[o][own], o) for o in range(positions)]
            ) / math.sqrt(size)
            seen.append(sum(a * v[o][own] for o, a in enumerate(scores.softmax(0))))
        h[p] = h[p] + (1 + modulators[p][2]) * linear(b + "out_proj", torch.cat(seen))
    for p in range(positions):
        y = norm(b + "norm2", h[p]) * (1 + modulators[p][3]) + modulators[p][4]
        h[p] = h[p] + (1 + modulators[p][5]) * linear(b + "linear2", gelu(linear(b + "linear1", y)))
    return torch.stack([linear("output_proj", norm("final_norm", row))[0] for row in h])
