"""Policies of the paper's released code, read into ours (names and layout: paper.md §7, last
paragraph)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.files import read_tensors
from unmask.policies.learned import LearnedPolicy
from unmask.policies.network import NetworkConfig, PolicyNetwork

HEADS = 2
BLOCK = "transformer_blocks.0."
# Ours to theirs, where nothing but the name differs.
NAMES = {
    "confidence": "confidence_proj",
    "time.0": "time_mlp.0",
    "time.2": "time_mlp.2",
    "out": f"{BLOCK}out_proj",
    "up": f"{BLOCK}linear1",
    "down": f"{BLOCK}linear2",
    "norm": "final_norm",
    "head": "output_proj",
}


def read_released(file: str | Path) -> LearnedPolicy:
    """The policy in a `model.safetensors` of the released code; its logits are those of the
    released network.

    What differs there: the modulators come as scale, shift, gate (twice); rotary pairs are
        neighbours (2i, 2i + 1) instead of halves; the
    norms before attention and feed-forward may have weights and biases of their own, which fold
    into the modulation; the time embedding has one frequency. Assumed, as our specification does
    not say more: cosines come before sines there, and the modulators are a linear map of the
        condition itself (of its SiLU if the file names the map `ada_conditioning.1`, as the second
        part of a sequence).

    Raises:
        UnmaskError: if the file cannot be read, or its names or shapes are not those of the
            released code.
    """
    file = Path(file)
    theirs = {
        name.removeprefix("base_policy."): tensor.float()
        for name, tensor in read_tensors(file).items()
    }
    sequence = f"{BLOCK}ada_conditioning.1.weight" in theirs
    modulation = f"{BLOCK}ada_conditioning" + (".1" if sequence else "")
    used: set[str] = set()

    def take(name: str, *shape: int | None) -> Tensor:
        if name not in theirs:
            raise UnmaskError(
                f"{file} holds no base_policy.{name}; give a model.safetensors that the paper's "
                "released code wrote"
            )
        tensor = theirs[name]
        fits = len(tensor.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            found = f"base_policy.{name} in {file} has the shape {list(tensor.shape)}"
            raise UnmaskError(f"{found}, which does not fit the other weights; copy the file again")
        used.add(name)
        return tensor

    width, inputs = take("confidence_proj.weight", None, None).shape
    mlp = take(f"{BLOCK}linear1.weight", None, width).shape[0]
    config = NetworkConfig(
        width=width,
        heads=HEADS,
        mlp=mlp,
        inputs=inputs,
        time="released",
        modulation="silu" if sequence else "linear",
    )
    network = PolicyNetwork(config)
    state = {}
    for ours, name in NAMES.items():
        for part in ("weight", "bias"):
            state[f"{ours}.{part}"] = take(
                f"{name}.{part}", *network.state_dict()[f"{ours}.{part}"].shape
            )
    state["mask.weight"] = take("mask_embedding.weight", 2, width)

    size = width // HEADS
    if f"{BLOCK}inv_freq" in theirs:
        frequencies = take(f"{BLOCK}inv_freq", size // 2)
        if not torch.allclose(
            frequencies, 10_000.0 ** -(torch.arange(0, size, 2) / size), rtol=1e-3
        ):
            raise UnmaskError(
                f"base_policy.{BLOCK}inv_freq in {file} holds other rotary frequencies than "
                f"10000^(-2i/{size}); it cannot be converted"
            )
    # Neighbouring pairs become halves by taking the even rows of each head first; q and k alike, so
    # their products stay.
    rows = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
    halves = torch.cat([head * size + rows for head in range(HEADS)])
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        q, k, v = (take(f"{BLOCK}{name}_proj.{part}", *shape) for name in "qkv")
        state[f"qkv.{part}"] = torch.cat([q[halves], k[halves], v])

    maps = {
        part: take(f"{modulation}.{part}", *shape).chunk(6)
        for part, shape in (("weight", (6 * width, width)), ("bias", (6 * width,)))
    }
    folded = [
        fold(maps, n, *(theirs.get(f"{BLOCK}norm{n + 1}.{part}") for part in ("weight", "bias")))
        for n in range(2)
    ]
    used |= {
        name
        for n in (1, 2)
        for part in ("weight", "bias")
        if (name := f"{BLOCK}norm{n}.{part}") in theirs
    }
    for part in ("weight", "bias"):
        state[f"modulation.{part}"] = torch.cat([piece for half in folded for piece in half[part]])
    if extra := sorted(set(theirs) - used):
        raise UnmaskError(
            f"{file} holds base_policy.{extra[0]}, which is not known; give a model.safetensors "
            "that the paper's released code wrote"
        )
    network.load_state_dict(state)
    network.requires_grad_(False)
    return LearnedPolicy(
        network,
        metadata={"source": "released code of arXiv 2512.09106", "imported_from": file.name},
    )


def fold(
    maps: dict[str, tuple[Tensor, ...]], half: int, weight: Tensor | None, bias: Tensor | None
) -> dict[str, list[Tensor]]:
    """Shift, scale and gate of one half of the block in our order, with the norm's own weight w and
    bias b folded in.

    (w·n + b)(1 + scale) + shift = n(1 + scale') + shift' with scale' = w·scale + (w − 1) and shift'
    = b·scale + b + shift.
    """
    out: dict[str, list[Tensor]] = {}
    for part, chunks in maps.items():
        scale, shift, gate = chunks[3 * half : 3 * half + 3]
        is_bias = part == "bias"
        w = torch.ones(len(scale)) if weight is None else weight
        b = torch.zeros(len(scale)) if bias is None else bias
        column = (lambda x: x) if is_bias else (lambda x: x[:, None])
        shift = shift + column(b) * scale + (b if is_bias else 0)
        scale = column(w) * scale + (w - 1 if is_bias else 0)
        out[part] = [shift, scale, gate]
    return out
