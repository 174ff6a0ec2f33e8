"""Policies of the released code of arXiv 2512.09106, read into ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.policies.learned import LearnedPolicy
from unmask.policies.network import NetworkConfig, PolicyNetwork
from unmask.tensors import read_tensors

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


@dataclass(frozen=True)
class ReleasedWeights:
    """The tensors of a file of the released code.

    Attributes:
        file: where they come from, for error messages.
        tensors: fp32, by their names without `base_policy.`.
        used: the names that were taken; what is left at the end is not known.
    """

    file: Path
    tensors: dict[str, Tensor]
    used: set[str] = field(default_factory=set)

    def take(self, name: str, *shape: int | None) -> Tensor:
        """The tensor of that name; None in `shape` fits any size.

        Raises:
            UnmaskError: if it is missing or has another shape.
        """
        if name not in self.tensors:
            raise UnmaskError(
                f"{self.file} holds no base_policy.{name}; give a model.safetensors that the "
                "paper's released code wrote"
            )
        tensor = self.tensors[name]
        fits = len(tensor.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise UnmaskError(
                f"base_policy.{name} in {self.file} has the shape {list(tensor.shape)}, which does "
                "not fit the other weights; copy the file again"
            )
        self.used.add(name)
        return tensor

    def take_if_there(self, name: str, *shape: int | None) -> Tensor | None:
        """The same, or None if there is no tensor of that name."""
        return self.take(name, *shape) if name in self.tensors else None


def read_released(file: str | Path) -> LearnedPolicy:
    """The policy in a `model.safetensors` of the released code; its logits are those of the
    released network.

    What differs there: the modulators come as scale, shift, gate (twice); rotary pairs are
    neighbours (2i, 2i + 1) instead of halves; the norms before attention and feed-forward may have
    weights and biases of their own, which fold into the modulation; the time embedding has one
    frequency. Two things are assumed, because the paper does not say them: cosines come before
    sines there, and the modulators are a linear map of the condition itself (of its SiLU if the
    file names the map `ada_conditioning.1`, as the second part of a sequence).

    Raises:
        UnmaskError: if the file cannot be read, or its names or shapes are not those of the
            released code.
    """
    path = Path(file)
    found = read_tensors(path)
    theirs = ReleasedWeights(
        path, {name.removeprefix("base_policy."): tensor.float() for name, tensor in found.items()}
    )
    sequence = f"{BLOCK}ada_conditioning.1.weight" in theirs.tensors
    width, inputs = theirs.take("confidence_proj.weight", None, None).shape
    config = NetworkConfig(
        width=width,
        heads=HEADS,
        mlp=theirs.take(f"{BLOCK}linear1.weight", None, width).shape[0],
        inputs=inputs,
        time="released",
        modulation="silu" if sequence else "linear",
    )
    network = PolicyNetwork(config)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state = {
        f"{ours}.{part}": theirs.take(f"{name}.{part}", *shapes[f"{ours}.{part}"])
        for ours, name in NAMES.items()
        for part in ("weight", "bias")
    }
    state["mask.weight"] = theirs.take("mask_embedding.weight", 2, width)
    state |= attention_weights(theirs, width)
    state |= modulation_weights(theirs, width, ".1" if sequence else "")
    if extra := sorted(set(theirs.tensors) - theirs.used):
        raise UnmaskError(
            f"{path} holds base_policy.{extra[0]}, which is not known; give a model.safetensors "
            "that the paper's released code wrote"
        )
    network.load_state_dict(state)
    network.requires_grad_(False)
    metadata = {"source": "released code of arXiv 2512.09106", "imported_from": path.name}
    return LearnedPolicy(network, metadata=metadata)


def attention_weights(theirs: ReleasedWeights, width: int) -> dict[str, Tensor]:
    """Our queries, keys and values, whose rotary pairs are halves of a head.

    Raises:
        UnmaskError: if the file's rotary frequencies are others.
    """
    size = width // HEADS
    frequencies = theirs.take_if_there(f"{BLOCK}inv_freq", size // 2)
    ours = 10_000.0 ** -(torch.arange(0, size, 2) / size)
    if frequencies is not None and not torch.allclose(frequencies, ours, rtol=1e-3):
        raise UnmaskError(
            f"base_policy.{BLOCK}inv_freq in {theirs.file} holds other rotary frequencies than "
            f"10000^(-2i/{size}); it cannot be converted"
        )
    # Neighbouring pairs become halves by taking the even rows of each head first. Queries and keys
    # change alike, so their products stay.
    rows = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
    halves = torch.cat([head * size + rows for head in range(HEADS)])
    state = {}
    for part, shape in (("weight", (width, width)), ("bias", (width,))):
        q, k, v = (theirs.take(f"{BLOCK}{name}_proj.{part}", *shape) for name in "qkv")
        state[f"qkv.{part}"] = torch.cat([q[halves], k[halves], v])
    return state


def modulation_weights(theirs: ReleasedWeights, width: int, suffix: str) -> dict[str, Tensor]:
    """Our modulators, with the norms' own weights and biases folded in.

    Args:
        theirs: the weights.
        width: of the network.
        suffix: behind `ada_conditioning` in the file's names.
    """
    shapes = (("weight", (6 * width, width)), ("bias", (6 * width,)))
    maps = {
        part: theirs.take(f"{BLOCK}ada_conditioning{suffix}.{part}", *shape).chunk(6)
        for part, shape in shapes
    }
    norms = [
        [theirs.take_if_there(f"{BLOCK}norm{n}.{part}", width) for part in ("weight", "bias")]
        for n in (1, 2)
    ]
    folded = [fold(maps, half, *norms[half]) for half in range(2)]
    return {
        f"modulation.{part}": torch.cat([piece for half in folded for piece in half[part]])
        for part in ("weight", "bias")
    }


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
