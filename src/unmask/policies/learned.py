"""A learned policy: the network, how its logits become actions at decode time, and its directory on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.files import read_json, read_tensors, write_json, write_tensors, write_text
from unmask.policies.base import Observation
from unmask.policies.bernoulli import Bernoulli, draw
from unmask.policies.card import model_card
from unmask.policies.heuristics import first, order
from unmask.policies.network import NetworkConfig, PolicyNetwork
from unmask.rng import RowGenerator


@dataclass(frozen=True)
class LearnedPolicy:
    """The policy of paper §3.2 with Bernoulli actions.

    Attributes:
        network: maps an observation to logits b.
        temperature: τ_π > 0; s = sigmoid(b / τ_π).
        beta: β > 0; at decode time a position is revealed with probability min(1, β·s).
        fallback: an all-zero draw reveals the eligible position with the largest b. Off in training, where such a step costs one NFE.
        metadata: what the policy was trained on; written to and read from its directory.
    """

    network: PolicyNetwork
    temperature: float = 1.0
    beta: float = 1.0
    fallback: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for name in ("temperature", "beta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UnmaskError(f"policy {name} is {getattr(self, name):g}; give a value above 0")

    def logits(self, observation: Observation) -> Float[Tensor, "B L"]:
        """b, fp32, at every position, before the temperature.

        Raises:
            UnmaskError: if the observation has fewer probabilities at a position than the network reads.
        """
        k = self.network.config.inputs
        if observation.confidence.shape[-1] < k:
            raise UnmaskError(f"the policy reads the top {k} probabilities but was given {observation.confidence.shape[-1]}; give it {k}")
        return self.network(observation)

    def distribution(self, observation: Observation) -> Bernoulli:
        """The action distribution at temperature τ_π, without β and fallback: what training's likelihoods are of."""
        return Bernoulli(self.logits(observation) / self.temperature, observation.eligible)

    @torch.inference_mode()
    def act(self, observation: Observation, generator: RowGenerator) -> Bool[Tensor, "B L"]:
        distribution = self.distribution(observation)
        action = draw(distribution, generator, observation.step, self.beta)
        if not self.fallback:
            return action
        best = first(1, order(distribution.logits, observation.eligible), observation.eligible)
        return torch.where(action.any(1, keepdim=True), action, best)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `config.json`, `model.safetensors` and a model card, `README.md`; each file is replaced whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in ("temperature", "beta", "fallback")}
        config = {"format": "unmask policy 1", "network": asdict(self.network.config), **settings, "metadata": dict(self.metadata)}
        write_tensors(directory / "model.safetensors", self.network.state_dict())
        write_json(directory / "config.json", config)
        write_text(directory / "README.md", model_card(settings, self.metadata))

    @staticmethod
    def from_pretrained(directory: str | Path, *, device: str | torch.device = "cpu") -> LearnedPolicy:
        """Reads what `save_pretrained` wrote.

        Raises:
            UnmaskError: if a file is missing, damaged, of another format, or does not fit the other.
        """
        directory = Path(directory)
        config = read_json(directory / "config.json")
        if not isinstance(config, dict) or config.get("format") != "unmask policy 1":
            raise UnmaskError(f"{directory}/config.json does not describe an unmasking policy; give a directory that save_pretrained wrote")
        weights = read_tensors(directory / "model.safetensors", device)
        try:
            network = PolicyNetwork(NetworkConfig(**config["network"])).to(device)
            network.load_state_dict(weights)
            settings = {name: config[name] for name in ("temperature", "beta", "fallback", "metadata")}
        except (KeyError, TypeError, RuntimeError) as error:
            reason = str(error).split("\n")[-1].strip()
            raise UnmaskError(f"the weights in {directory} do not fit its config.json ({reason}); copy both from one source") from None
        network.requires_grad_(False)
        return LearnedPolicy(network, **settings)
