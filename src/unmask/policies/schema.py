"""What the config.json of a policy directory must look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from unmask.policies.network import NetworkConfig, PolicyNetwork

# Numbers beyond these would overflow in fp32, where the policies compute.
SMALLEST, LARGEST = 1e-30, 1e30
Scale = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]


class ParetoEntry(BaseModel):
    """What a policy for many α reaches at one of them."""

    model_config = ConfigDict(extra="allow", strict=True)

    alpha: Scale | None = None
    nfe: Annotated[float, Field(ge=0, le=LARGEST)]


class Metadata(BaseModel):
    """What a policy was trained on; all but the front is there to be read by people."""

    model_config = ConfigDict(extra="allow", strict=True)

    pareto: list[ParetoEntry] | None = None


class PolicyFile(BaseModel):
    """The config.json of a policy. Older files have fewer settings."""

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal["unmask policy 1"]
    network: dict[str, Any]
    action: Literal["bernoulli", "plackett-luce"] = "bernoulli"
    temperature: Scale = 1.0
    beta: Scale = 1.0
    fallback: bool = True
    alpha: Scale | None = None
    zero: list[str] = []
    metadata: Metadata = Metadata()


class NetworkFile(BaseModel):
    """The types of the network's settings; `NetworkConfig` checks their bounds."""

    model_config = ConfigDict(extra="allow", strict=True)

    width: int = 1
    heads: int = 1
    mlp: int = 1
    inputs: int = 1
    initial_bias: float = 0.0
    initial_slope: float = 0.0
    transform: str = ""
    time: str = ""
    modulation: str = ""
    context: bool = False
    joint: bool = False
    hidden: int = 0
    conditioned: bool = False


def weight_shapes(config: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a policy network, which is not allocated."""
    with torch.device("meta"):
        state = PolicyNetwork(config).state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}
