"""A learned policy: the network, how its logits become actions at decode time, and its directory on
disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.files import check_data, read_json, write_json, write_text
from unmask.policies.base import Needs, Observation
from unmask.policies.bernoulli import Bernoulli
from unmask.policies.card import model_card
from unmask.policies.heuristics import rank_positions, top_positions
from unmask.policies.network import NetworkConfig, PolicyNetwork
from unmask.policies.plackett_luce import PlackettLuce
from unmask.policies.schema import LARGEST, SMALLEST, NetworkFile, PolicyFile, weight_shapes
from unmask.rng import ACTION, RowGenerator
from unmask.settings import check_names
from unmask.tensors import describe_misfit, read_header, read_tensors, write_tensors
from unmask.transfer import to_device

ACTIONS = {"bernoulli": Bernoulli, "plackett-luce": PlackettLuce}
INPUTS = ("time", "mask")
SETTINGS = ("action", "temperature", "beta", "fallback", "alpha", "zero")


@dataclass(frozen=True)
class LearnedPolicy:
    """The policy of paper §3.2.

    Attributes:
        network: maps an observation to logits b.
        action: the distribution of actions: "bernoulli" (§3.2), or "plackett-luce" (DPLS, App. E).
        temperature: τ_π > 0; the distribution's logits are b / τ_π.
        beta: β > 0; at decode time a position is revealed with probability min(1, β·s). With
            Plackett–Luce it divides the weight of STOP.
        fallback: an all-zero draw reveals the eligible position with the largest b. Off in the
            paper's training: it costs one NFE.
        alpha: α > 0 that a conditioned network acts for where the observation says none; None for
            other networks.
        zero: inputs that the network is not shown, of "time" and "mask" (the test-time ablation of
            paper Fig. 20).
        metadata: what the policy was trained on; written to and read from its directory.

    Examples:
        >>> from unmask.policies.network import NetworkConfig, PolicyNetwork
        >>> policy = unmask.LearnedPolicy(PolicyNetwork(NetworkConfig(width=16, mlp=16)), beta=1.5)
        >>> policy.save_pretrained("untrained")
        >>> unmask.load_policy("untrained").beta
        1.5
    """

    network: PolicyNetwork
    action: str = "bernoulli"
    temperature: float = 1.0
    beta: float = 1.0
    fallback: bool = True
    alpha: float | None = None
    zero: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("temperature", "beta"):
            if not SMALLEST <= getattr(self, name) <= LARGEST:
                raise UnmaskError(
                    f"policy {name} is {getattr(self, name):g}; give a value above 0, from "
                    f"{SMALLEST:g} to {LARGEST:g}"
                )
        if self.action not in ACTIONS:
            raise UnmaskError(f"policy action is {self.action!r}; use {' or '.join(ACTIONS)}")
        if self.alpha is not None and not self.network.config.conditioned:
            raise UnmaskError(
                "policy alpha was given, but this policy was trained for one α; leave it out, or "
                "use beta"
            )
        if self.alpha is not None and not SMALLEST <= self.alpha <= LARGEST:
            raise UnmaskError(
                f"policy alpha is {self.alpha:g}; give a value above 0, from {SMALLEST:g} to "
                f"{LARGEST:g}"
            )
        if unknown := set(self.zero) - set(INPUTS):
            raise UnmaskError(
                f"policy zero is {', '.join(sorted(unknown))}; use {' or '.join(INPUTS)}"
            )

    @property
    def block_length(self) -> int | None:
        """BL of the blocks that it was trained in; None for full diffusion, or if nobody knows."""
        trained = self.metadata.get("trained")
        found = trained.get("block_length") if isinstance(trained, Mapping) else None
        return found if type(found) is int and found > 0 else None

    @property
    def calibration(self) -> list[tuple[float, float]]:
        """(α, NFE) of the front in `metadata["pareto"]` that training ends with, from the largest α
        on; where noise makes the NFE fall, it is read as flat. Empty if there is no front."""
        entries = [entry for entry in self.metadata.get("pareto") or () if entry.get("alpha")]
        entries.sort(key=lambda entry: -entry["alpha"])
        costs = accumulate((float(entry["nfe"]) for entry in entries), max)
        return [(float(entry["alpha"]), nfe) for entry, nfe in zip(entries, costs, strict=True)]

    @property
    def needs(self) -> Needs:
        """How many probabilities it reads at each position, and hidden states if it does."""
        config = self.network.config
        return Needs(frozenset({"hidden"} if config.hidden else ()), config.inputs)

    def logits(self, observation: Observation, most: int | None = None) -> Float[Tensor, "B L"]:
        """b, fp32, at every position, before the temperature. With `most`, a bound of a row's
        eligible positions, only there.

        Raises:
            UnmaskError: if the observation lacks what the network reads: probabilities, hidden
                states of its width, α.
        """
        config, given = self.network.config, observation.confidence.shape[-1]
        if given < config.inputs:
            raise UnmaskError(
                f"the policy reads the top {config.inputs} probabilities but was given {given}; "
                f"give it {config.inputs}"
            )
        width, hidden = config.hidden, observation.features.get("hidden")
        if width and (hidden is None or hidden.shape[-1] != width):
            found = "none" if hidden is None else f"states of width {hidden.shape[-1]}"
            raise UnmaskError(
                f"the policy reads hidden states of width {width} but was given {found}; use the "
                "model it was trained on"
            )
        if config.conditioned and observation.alpha is None:
            if self.alpha is None:
                raise UnmaskError(
                    "the policy is one for every α and was given none; say which, for example "
                    "DIR@alpha=1"
                )
            alpha = torch.full(observation.step.shape, self.alpha, device=observation.step.device)
            observation = replace(observation, alpha=alpha)
        if "time" in self.zero:
            observation = replace(observation, step=torch.zeros_like(observation.step))
        if "mask" in self.zero:
            observation = replace(observation, masked=torch.zeros_like(observation.masked))
        return self.network(observation, most)

    def eligible_logits(self, observation: Observation) -> Float[Tensor, "B L"]:
        """b at the eligible positions; elsewhere it means nothing.

        Rows with like numbers of eligible positions are computed together: up to 16, 32, 64, … at a
        time, multiples of 16 for bits that do not depend on the batch. The numbers are the
        observation's; where it has none, a CPU looks, and a GPU computes all positions rather than
        wait.
        """
        length, device = observation.masked.shape[1], observation.masked.device
        counts = observation.eligible_counts
        if counts is None:
            if device.type != "cpu":
                return self.logits(observation, length)
            counts = observation.eligible.sum(1).tolist()
        parts: dict[int, list[int]] = {}
        for row, count in enumerate(counts):
            parts.setdefault(16 << max(0, math.ceil(math.log2(max(count, 1) / 16))), []).append(row)
        if len(parts) == 1:
            return self.logits(observation, min(*parts, length))
        logits = torch.zeros(observation.masked.shape, device=device)
        for most, members in sorted(parts.items()):
            rows = to_device(members, device)
            logits[rows] = self.logits(observation[rows], min(most, length))
        return logits

    def distribution(
        self, observation: Observation, most: int | None = None
    ) -> Bernoulli | PlackettLuce:
        """The action distribution at temperature τ_π, without β: what training's likelihoods are
        of, with the fallback where the policy has it. `most` as in `logits`."""
        logits = self.logits(observation, most) / self.temperature
        if self.action == "bernoulli":
            return Bernoulli(logits, observation.eligible, self.fallback)
        return PlackettLuce(logits, observation.eligible)  # never draws nothing

    def alpha_for(self, nfe: float | int) -> float:
        """The α that gives about `nfe` forward passes a prompt, by the `calibration`; between two
        of its entries log α is linear in NFE.

        Raises:
            UnmaskError: if the policy has no such table, or its range does not hold `nfe`.
        """
        table = self.calibration
        if not table and self.network.config.conditioned:
            raise UnmaskError(
                "a target NFE was given, but this policy was not calibrated yet, which training "
                "does at its end; wait until then, go on with `unmask train --resume`, or give "
                "alpha instead"
            )
        if not table:
            raise UnmaskError(
                "a target NFE was given, but this policy was not trained for a range of α; use one "
                "trained with --alpha-range"
            )
        alphas, costs = zip(*table, strict=True)
        if not costs[0] <= nfe <= costs[-1]:
            raise UnmaskError(
                f"target NFE is {nfe:g}; this policy was calibrated for "
                f"{math.ceil(100 * costs[0]) / 100:g} to {math.floor(100 * costs[-1]) / 100:g}"
            )
        return float(np.exp(np.interp(nfe, costs, np.log(alphas))))

    @torch.inference_mode()
    def act(
        self, observation: Observation, generator: RowGenerator
    ) -> Bool[Tensor, "B L"] | Int[Tensor, "B L"]:
        distribution = ACTIONS[self.action](
            self.eligible_logits(observation) / self.temperature, observation.eligible
        )
        action = distribution.sample(
            generator.uniform(observation.step, distribution.numbers, ACTION), self.beta
        )
        if not self.fallback:
            return action
        best = top_positions(
            1, rank_positions(distribution.logits, observation.eligible), observation.eligible
        )
        return torch.where(action.any(1, keepdim=True), action, best)

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes `model.safetensors`, a model card, `README.md`, and `config.json` last; each file
        is replaced whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        settings = {name: getattr(self, name) for name in SETTINGS}
        config = {
            "format": "unmask policy 1",
            "network": asdict(self.network.config),
            **settings,
            "metadata": dict(self.metadata),
        }
        write_tensors(directory / "model.safetensors", self.network.state_dict())
        write_text(directory / "README.md", model_card(settings, self.metadata))
        write_json(directory / "config.json", config)

    @staticmethod
    def from_pretrained(
        directory: str | Path, *, device: str | torch.device = "cpu"
    ) -> LearnedPolicy:
        """Reads what `save_pretrained` wrote.

        Raises:
            UnmaskError: if a file is missing, damaged, of another format, or does not fit the
                other.
        """
        directory = Path(directory)
        path = directory / "config.json"
        if not path.exists() and (directory / "run.json").exists():
            raise UnmaskError(
                f"{directory} is a training run; its policies are {directory / 'best'}, which is "
                f"there after the first validation, and {directory / 'last'}"
            )
        config = read_json(path)
        if not isinstance(config, dict) or config.get("format") != "unmask policy 1":
            raise UnmaskError(
                f"{path} does not describe an unmasking policy; give a directory that "
                "save_pretrained wrote"
            )
        check_data(config, PolicyFile, str(path))
        check_data(config["network"], NetworkFile, f"{path} (network)")
        check_names(config["network"], [field.name for field in fields(NetworkConfig)])
        described = NetworkConfig(**config["network"])
        file = directory / "model.safetensors"
        if reason := describe_misfit(read_header(file), weight_shapes(described)):
            raise UnmaskError(
                f"the weights in {directory} do not fit its config.json ({reason}); copy both from "
                "one source"
            )
        network = PolicyNetwork(described).to(device)
        network.load_state_dict(read_tensors(file, device))
        network.requires_grad_(False)
        settings = {
            name: config[name] for name in (*SETTINGS, "metadata") if name in config
        }  # older files have fewer
        settings["zero"] = tuple(settings.get("zero", ()))
        return LearnedPolicy(network, **settings)
