"""The policy network (paper §3.2, App. H): one adaptive-layer-norm transformer block over the
generation buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import (
    embedding,
    gelu,
    layer_norm,
    linear,
    pad,
    scaled_dot_product_attention,
    silu,
)

from unmask.errors import UnmaskError, short_text
from unmask.policies.base import Observation

CHOICES = {
    "transform": ("probability", "log-odds"),
    "time": ("sinusoids", "released"),
    "modulation": ("silu", "linear"),
}


MOST = {"width": 2**14, "heads": 2**10, "mlp": 2**18, "inputs": 2**16, "hidden": 2**20}
LARGEST_BIAS = 1e6


@dataclass(frozen=True)
class NetworkConfig:
    """Hyper-parameters of the network.

    Attributes:
        width: of the residual stream.
        heads: attention heads; width / heads must be even (rotary positions).
        mlp: width of the feed-forward layer.
        inputs: k, how many probabilities it reads at each position.
        initial_bias: of the output; −2 starts with a reveal probability of 0.12 everywhere.
        initial_slope: how far the output follows the position's own confidence before any training:
            length of the output's weights, along the direction in which that confidence enters the
            residual stream. Nothing else adds to that direction then, so the untrained policy is
            about the same for every seed. 0 leaves small random weights there (the paper).
        transform: how the network reads a probability c: as it is (the paper), or as log(c / (1 −
            c)) / 4 with c cut to [1e-4, 1 − 1e-4], which keeps 0.99 and 0.999 apart.
        time: how the time is embedded: "sinusoids", or "released" as in the paper's code, where all
            frequencies are 1, so that they carry one number.
        context: the network reads, beside the probabilities at a position, the smallest confidence
            among the eligible positions before it and among those behind it (1 if there are none).
            Attention could find these, but in training with GRPO it rarely does.
        joint: it reads the product of the confidences of all eligible positions that are more
            confident than this one: in the units of a probability, what the entropy bound goes by.
        hidden: width of the frozen model's hidden states, which the network reads too; 0 reads none
            (paper Fig. 20).
        conditioned: the network is told α, through the modulators, and serves all of them.
        modulation: what the modulators are a linear map of: "silu" of the condition (DiT), or
            "linear": the condition itself.
    """

    width: int = 128
    heads: int = 2
    mlp: int = 512
    inputs: int = 1
    initial_bias: float = -2.0
    initial_slope: float = 0.0
    transform: str = "probability"
    time: str = "sinusoids"
    modulation: str = "silu"
    context: bool = False
    joint: bool = False
    hidden: int = 0
    conditioned: bool = False

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            value, least = getattr(self, name), 0 if name == "hidden" else 1
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                accepted = f"at least {least} and at most {most}"
                if name == "hidden":
                    accepted = f"the model's width (at most {most}), or 0"
                raise UnmaskError(
                    f"{name} of the policy network is {short_text(ascii(value), 60)}; give "
                    f"{accepted}"
                )
        for name in ("initial_bias", "initial_slope"):
            value = getattr(self, name)
            if not abs(value) <= LARGEST_BIAS:
                raise UnmaskError(
                    f"{name} of the policy network is {value}; give a number from "
                    f"-{LARGEST_BIAS:g} to {LARGEST_BIAS:g}"
                )
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise UnmaskError(
                    f"{name} of the policy network is {getattr(self, name)!r}; use "
                    f"{' or '.join(values)}"
                )
        if self.width % (2 * self.heads):
            raise UnmaskError(
                f"policy width {self.width} cannot be cut into {self.heads} heads of even size; "
                "change one of them"
            )


class PolicyNetwork(nn.Module):
    """Maps an observation to one logit b^k for each position of the generation buffer."""

    def __init__(self, config: NetworkConfig = NetworkConfig()) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.confidence = nn.Linear(config.inputs + 2 * config.context + config.joint, width)
        self.hidden = nn.Linear(config.hidden, width) if config.hidden else None
        self.mask = nn.Embedding(2, width)
        self.tradeoff = (
            nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
            if config.conditioned
            else None
        )
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.mask.weight, std=0.02)
        nn.init.zeros_(
            self.modulation.weight
        )  # with the bias: identity modulators (shift = scale = 0, gate = 1)
        nn.init.zeros_(self.modulation.bias)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, config.initial_bias)
        if config.initial_slope:
            self.follow_confidence(config.initial_slope)

    @torch.no_grad()
    def follow_confidence(self, slope: float) -> None:
        """Turns the output along the direction in which a position's own confidence enters the
        residual stream, and takes that direction from all else that is added there. The untrained
        output is then above the bias where the confidence, as the network reads it, is above 0,
        whatever the seed; the other inputs only change the residual's size."""
        along = self.confidence.weight[:, 0] - self.confidence.weight[:, 0].mean()
        along = along / along.norm()
        others = [self.confidence.weight[:, 1:]]
        layers = [self.out, self.down] + ([] if self.hidden is None else [self.hidden])
        others += [layer.weight for layer in layers]
        for weight in others:
            weight -= along[:, None] * (along @ weight)
        for bias in (layer.bias for layer in [self.confidence, *layers]):
            bias -= along * (along @ bias)
        self.head.weight[0] = slope * along

    def forward(self, observation: Observation, most: int | None = None) -> Float[Tensor, "B L"]:
        """Logits b.

        Args:
            observation: B rows.
            most: no row has more eligible positions than this. Given, logits are computed at those
                alone and mean nothing elsewhere: every position is attended to, but only they
                attend, which in semi-AR spares most of the work.

        Raises:
            UnmaskError: if the network is conditioned on α and the observation has none.
        """
        batch, length = observation.masked.shape
        heads, width = self.config.heads, self.config.width
        h, by_bit = self.embed(observation), self.modulators(observation)
        turn = rotary_turns(length, width // heads, h.device)
        x = modulate(h, *pick_by_bit(observation.masked, by_bit[..., : 2 * width]).chunk(2, -1))
        at, q_turn = None, turn
        if most is None:
            q, k, v = self.qkv(x).chunk(3, -1)
            chosen = pick_by_bit(observation.masked, by_bit)
        else:
            # Keys and values of all positions; queries, and all that follows, of the eligible ones,
            # which have the same mask bit in a row.
            at = (~observation.eligible).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
            weights = self.qkv.weight.split([width, 2 * width])
            biases = self.qkv.bias.split([width, 2 * width])
            k, v = linear(x, weights[1], biases[1]).chunk(2, -1)
            x, h = (y.gather(1, at[..., None].expand(-1, -1, width)) for y in (x, h))
            q = linear(x, weights[0], biases[0])
            bit = (observation.masked & observation.eligible).any(1)
            chosen = pick_by_bit(bit[:, None], by_bit)
            q_turn = turn[:, at][:, :, None]
        gate_1, shift_2, scale_2, gate_2 = chosen[..., 2 * width :].chunk(4, -1)
        q, k, v = (
            y.reshape(*y.shape[:2], heads, width // heads).transpose(1, 2) for y in (q, k, v)
        )
        inside = inside_length(observation)
        # In fp32 under autocast too: on CPUs the kernel's bf16 backward is 7 times slower.
        with torch.autocast(h.device.type, enabled=False):
            x = scaled_dot_product_attention(
                rotate(q.float(), q_turn), rotate(k.float(), turn), v.float(), attn_mask=inside
            )
        h = h + (1 + gate_1) * self.out(x.transpose(1, 2).reshape(h.shape))
        h = h + (1 + gate_2) * self.down(gelu(self.up(modulate(h, shift_2, scale_2))))
        # As a sum, not a matrix-vector product: its bits do not depend on the number of rows.
        logits = (self.norm(h) * self.head.weight[0]).float().sum(-1) + self.head.bias
        return logits if at is None else logits.new_zeros(batch, length).scatter(1, at, logits)

    def embed(self, observation: Observation) -> Float[Tensor, "B L width"]:
        """What each position's confidences (and hidden states) become in the residual stream."""
        c = observation.confidence[..., : self.config.inputs]
        if self.config.context:
            c = torch.cat([c, smallest_beside(c[..., 0], observation.eligible)], -1)
        if self.config.joint:
            c = torch.cat([c, joint_ahead(c[..., 0], observation.eligible)[..., None]], -1)
        h = self.confidence(c.logit(1e-4) / 4 if self.config.transform == "log-odds" else c)
        if self.hidden is None:
            return h
        states = layer_norm(observation.features["hidden"].float(), (self.config.hidden,))
        return h + self.hidden(states)

    def modulators(self, observation: Observation) -> Float[Tensor, "B 2 modulators"]:
        """Shift, scale, gate, shift, scale, gate, of each row for the mask bits 0 and 1.

        The condition depends on these, the time and the row's α only. Where all rows have one L and
        no α, it is computed once for each step that there is, and looked up.
        """
        length, width, device = observation.length, self.config.width, observation.step.device
        if self.tradeoff is None and isinstance(length, int):
            row = observation.step.clamp(max=length)
            time, several = torch.arange(length + 1, device=device) / length, None
        else:
            # At least 8 rows: on CPUs the products of fewer have other bits, and a row's must not
            # depend on the batch.
            batch = len(observation.step)
            row = torch.arange(batch, device=device)
            several = torch.arange(max(batch, 8), device=device) % batch
            each = length if isinstance(length, int) else length[several]
            time = observation.step[several].clamp(max=each) / each
        one = self.config.time == "released"
        embedded = self.time(one_frequency(time, width) if one else sinusoids(time, width))
        if self.tradeoff is not None:
            if observation.alpha is None:
                raise UnmaskError(
                    "the policy network is conditioned on α and the observation has none; give one"
                )
            embedded = embedded + self.tradeoff(observation.alpha[several, None].log())
        condition = embedded[:, None] + self.mask.weight
        table = self.modulation(silu(condition) if self.config.modulation == "silu" else condition)
        # Not table[row]: several threads add up that one's gradient in any order.
        return embedding(row, table.flatten(1)).unflatten(1, (2, 6 * width))


def activation_bytes(config: NetworkConfig, trained: bool = False) -> int:
    """Bytes that the network takes at one moment for each position of a row, in fp32.

    Without gradients these are the residual, queries, keys and values and their rotated copies, the
    modulators and what they make of the residual (16 width together), the feed-forward layer twice,
    what is read three times, and hidden states as numbers and normalised. In training all of it is
    kept (40 width, 4 times the feed-forward layer).

    Args:
        config: of the network.
        trained: whether gradients are taken.
    """
    width, inner = config.width, config.mlp
    read = 3 * (config.inputs + 2 * config.context + config.joint) + 2 * config.hidden
    return 4 * ((40 * width + 4 * inner if trained else 16 * width + 2 * inner) + read)


def pick_by_bit(
    bit: Bool[Tensor, "B n"], by_bit: Float[Tensor, "B 2 modulators"]
) -> Float[Tensor, "B n modulators"]:
    """The modulators of each position, by its mask bit."""
    return torch.where(bit[..., None], by_bit[:, 1:], by_bit[:, :1])


def inside_length(observation: Observation) -> Bool[Tensor, "B 1 1 L"] | None:
    """Which positions may be attended to, where rows have lengths of their own; None is all."""
    if isinstance(observation.length, int):
        return None
    positions = torch.arange(observation.masked.shape[1], device=observation.length.device)
    return (positions < observation.length[:, None])[:, None, None]


def modulate(
    h: Float[Tensor, "B n width"], shift: Tensor, scale: Tensor
) -> Float[Tensor, "B n width"]:
    """Adaptive layer norm: normalised without weights of its own, then scaled and shifted."""
    return layer_norm(h, h.shape[-1:]) * (1 + scale) + shift


def smallest_beside(
    c: Float[Tensor, "B L"], eligible: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L 2"]:
    """At each position the smallest c among the eligible positions before it, and among those
    behind it; 1 where there are none."""
    c = pad(c.masked_fill(~eligible, 1.0), (1, 1), value=1.0)
    before, behind = c.cummin(1).values[:, :-2], c.flip(1).cummin(1).values[:, :-2].flip(1)
    return torch.stack([before, behind], -1)


def joint_ahead(c: Float[Tensor, "B L"], eligible: Bool[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """At each eligible position the product of all larger c of eligible positions (equal ones: the
    earlier); 1 for the largest."""
    ranked = c.masked_fill(~eligible, -1).argsort(dim=1, descending=True, stable=True)
    log_c = c.clamp(min=1e-6).log().masked_fill(~eligible, 0).gather(1, ranked)
    return torch.zeros_like(c).scatter(1, ranked, log_c.cumsum(1) - log_c).exp()


def sinusoids(time: Float[Tensor, " T"], width: int) -> Float[Tensor, "T width"]:
    """Sine and cosine of the time in [0, 1] at width / 2 frequencies, geometric from 1000 down to
    0.1 radians."""
    frequencies = 1000.0 * torch.exp(
        torch.linspace(0, -math.log(10_000.0), width // 2, device=time.device)
    )
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


def one_frequency(time: Float[Tensor, " T"], width: int) -> Float[Tensor, "T width"]:
    """The released code's embedding: width / 2 cosines, then as many sines, of the time itself; it
    carries one number."""
    angles = time[:, None].expand(-1, width // 2)
    return torch.cat([angles.cos(), angles.sin()], -1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def rotary_turns(length: int, head_width: int, device: torch.device) -> Float[Tensor, "2 L half"]:
    """Cosines and sines of rotary positions (Su et al. 2021) over the generation buffer."""
    frequencies = 10_000.0 ** -(torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()])


def rotate(
    x: Float[Tensor, "B heads n d"], turn: Float[Tensor, "2 *rows n half"]
) -> Float[Tensor, "B heads n d"]:
    """Turns each pair (x_i, x_{i + d/2}) by its position's angle."""
    cos, sin = turn.to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
