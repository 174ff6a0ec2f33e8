"""The policy network (paper §3.2, App. H): one adaptive-layer-norm transformer block over the generation buffer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, layer_norm, pad, scaled_dot_product_attention, silu

from unmask.errors import UnmaskError
from unmask.policies.base import Observation

CHOICES = {"transform": ("probability", "log-odds"), "time": ("sinusoids", "released"), "modulation": ("silu", "linear")}


@dataclass(frozen=True)
class NetworkConfig:
    """Hyper-parameters of the network.

    Attributes:
        width: of the residual stream.
        heads: attention heads; width / heads must be even (rotary positions).
        mlp: width of the feed-forward layer.
        inputs: k, how many of the largest probabilities it reads at each position.
        initial_bias: of the output; −2 starts with a reveal probability of 0.12 everywhere.
        transform: how the network reads a probability c: as it is (the paper), or as log(c / (1 − c)) / 4 with c cut to
            [1e-4, 1 − 1e-4], which keeps 0.99 and 0.999 apart.
        time: how the time is embedded: "sinusoids", or "released" as in the paper's code, where all frequencies are 1 (paper.md §7, 4).
        context: the network reads, beside the probabilities at a position, the smallest confidence among the eligible positions before it
            and among those behind it (1 if there are none). Attention could find these, but GRPO rarely gets it to (lab book).
        hidden: width of the frozen model's hidden states, which the network reads too; 0 reads none (paper Fig. 20).
        conditioned: the network is told α, through the modulators, and serves all of them.
        modulation: what the modulators are a linear map of: "silu" of the condition (DiT), or "linear": the condition itself.
    """

    width: int = 128
    heads: int = 2
    mlp: int = 512
    inputs: int = 1
    initial_bias: float = -2.0
    transform: str = "probability"
    time: str = "sinusoids"
    modulation: str = "silu"
    context: bool = False
    hidden: int = 0
    conditioned: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp", "inputs"):
            if getattr(self, name) < 1:
                raise UnmaskError(f"{name} of the policy network is {getattr(self, name)}; give at least 1")
        for name, values in CHOICES.items():
            if getattr(self, name) not in values:
                raise UnmaskError(f"{name} of the policy network is {getattr(self, name)!r}; use {' or '.join(values)}")
        if self.hidden < 0:
            raise UnmaskError(f"hidden of the policy network is {self.hidden}; give the model's width, or 0")
        if self.width % (2 * self.heads):
            raise UnmaskError(f"policy width {self.width} cannot be cut into {self.heads} heads of even size; change one of them")


class PolicyNetwork(nn.Module):
    """Maps an observation to one logit b^k for each position of the generation buffer."""

    def __init__(self, config: NetworkConfig = NetworkConfig()) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.confidence = nn.Linear(config.inputs + 2 * config.context, width)
        self.hidden = nn.Linear(config.hidden, width) if config.hidden else None
        self.mask = nn.Embedding(2, width)
        self.tradeoff = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width)) if config.conditioned else None
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.mask.weight, std=0.02)
        nn.init.zeros_(self.modulation.weight)  # with the bias: identity modulators (shift = scale = 0, gate = 1)
        nn.init.zeros_(self.modulation.bias)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, config.initial_bias)

    def forward(self, observation: Observation) -> Float[Tensor, "B L"]:
        """Logits for all positions, eligible or not."""
        batch, length = observation.masked.shape
        heads, width = self.config.heads, self.config.width
        c = observation.confidence[..., : self.config.inputs]
        if self.config.context:
            c = torch.cat([c, smallest_beside(c[..., 0], observation.eligible)], -1)
        h = self.confidence(c.logit(1e-4) / 4 if self.config.transform == "log-odds" else c)
        if self.hidden is not None:
            h = h + self.hidden(layer_norm(observation.features["hidden"].float(), (self.config.hidden,)))
        # The condition depends on the step and the mask bit (and on the row's α): compute the modulators once for each, and look them up.
        several, row, time = None, observation.step.clamp(max=observation.length), torch.arange(observation.length + 1, device=h.device)
        if self.tradeoff is not None:
            # At least 8 rows: the products of fewer have other bits on CPUs, and a row's must not depend on the batch (lab book).
            several = torch.arange(max(batch, 8), device=h.device) % batch
            row, time = torch.arange(batch, device=h.device), row[several]
        time = time / observation.length
        embedded = self.time(sinusoids(time, width) if self.config.time == "sinusoids" else one_frequency(time, width))
        if self.tradeoff is not None:
            assert observation.alpha is not None, "a conditioned network needs α in the observation"
            embedded = embedded + self.tradeoff(observation.alpha[several, None].log())
        condition = embedded[:, None] + self.mask.weight
        condition = silu(condition) if self.config.modulation == "silu" else condition
        pair = 2 * row[:, None] + observation.masked
        modulators = embedding(pair, self.modulation(condition).flatten(0, 1))
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulators.chunk(6, -1)

        x = layer_norm(h, (width,)) * (1 + scale_1) + shift_1
        q, k, v = self.qkv(x).view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        angles = rotary_angles(length, width // heads, h.device)
        with torch.autocast(h.device.type, enabled=False):  # the kernel's bf16 backward is 7x slower than fp32 on CPUs (lab book)
            x = scaled_dot_product_attention(rotate(q.float(), angles), rotate(k.float(), angles), v.float())
        h = h + (1 + gate_1) * self.out(x.transpose(1, 2).reshape(batch, length, width))

        x = layer_norm(h, (width,)) * (1 + scale_2) + shift_2
        h = h + (1 + gate_2) * self.down(gelu(self.up(x)))
        # As a sum, not a matrix-vector product: its bits then do not depend on how many rows there are (lab book).
        return (self.norm(h) * self.head.weight[0]).float().sum(-1) + self.head.bias


def smallest_beside(c: Float[Tensor, "B L"], eligible: Bool[Tensor, "B L"]) -> Float[Tensor, "B L 2"]:
    """At each position the smallest c among the eligible positions before it, and among those behind it; 1 where there are none."""
    c = pad(c.masked_fill(~eligible, 1.0), (1, 1), value=1.0)
    before, behind = c.cummin(1).values[:, :-2], c.flip(1).cummin(1).values[:, :-2].flip(1)
    return torch.stack([before, behind], -1)


def sinusoids(time: Float[Tensor, " T"], width: int) -> Float[Tensor, "T width"]:
    """Sine and cosine of the time in [0, 1] at width / 2 frequencies, geometric from 1000 down to 0.1 radians."""
    frequencies = 1000.0 * torch.exp(torch.linspace(0, -math.log(10_000.0), width // 2, device=time.device))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


def one_frequency(time: Float[Tensor, " T"], width: int) -> Float[Tensor, "T width"]:
    """The released code's embedding: width / 2 cosines, then as many sines, of the time itself; it carries one number (paper.md §7, 4)."""
    angles = time[:, None].expand(-1, width // 2)
    return torch.cat([angles.cos(), angles.sin()], -1)


def rotary_angles(length: int, head_width: int, device: torch.device) -> Float[Tensor, "L half"]:
    """Angles of rotary positions (Su et al. 2021) over the generation buffer."""
    frequencies = 10_000.0 ** -(torch.arange(0, head_width, 2, device=device) / head_width)
    return torch.arange(length, device=device)[:, None] * frequencies


def rotate(x: Float[Tensor, "B heads L d"], angles: Float[Tensor, "L half"]) -> Float[Tensor, "B heads L d"]:
    """Turns each pair (x_i, x_{i + d/2}) by its position's angle."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
