"""What the faces for other engines share: their settings, the policy, and random keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from jaxtyping import Bool, Float, Int
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from unmask.decoding.options import check_number, check_whole
from unmask.decoding.request import is_scale
from unmask.decoding.reveal import BlockStep, check_needs, reveal
from unmask.errors import UnmaskError
from unmask.models.head import Sampling
from unmask.policies.base import Policy
from unmask.policies.learned import LearnedPolicy
from unmask.policies.load import load_policy
from unmask.rng import RowGenerator, block_keys, row_keys


@dataclass(frozen=True)
class BlockSettings:
    """How an engine decodes blocks with a policy of ours.

    Attributes:
        policy: a heuristic such as threshold:0.9, a policy directory, or a Hub repository; also
            with settings behind an @ (see `load_policy`).
        alpha: α, for a policy that was trained for many; None is the policy's own.
        nfe: a target of forward passes a prompt, in place of α.
        beta: β, the scale of a learned policy's reveal probabilities; None is the policy's own.
        tau_pi: τ_π, the temperature of a learned policy; None is the policy's own.
        temperature: τ of the model; 0 is greedy.
        top_p: at τ > 0, draw among the most probable tokens that hold this share.
        top_k: at τ > 0, draw among this many tokens; 0 is all.
        seed: of everything random.
        never_ids: tokens that are never proposed, beside the mask token.
        vocabulary: ids from this one on are never proposed either; None if there are no such.

    Raises:
        UnmaskError: if a value is out of range.
    """

    policy: str
    alpha: float | None = None
    nfe: float | None = None
    beta: float | None = None
    tau_pi: float | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    never_ids: tuple[int, ...] = ()
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        for name in ("alpha", "nfe", "beta", "tau_pi"):
            value = getattr(self, name)
            if value is not None and not is_scale(value):
                raise UnmaskError(f"{name} is {value!r}; give a number above 0, or leave it out")
        if self.alpha is not None and self.nfe is not None:
            raise UnmaskError("alpha and nfe were both given; nfe chooses α, so give one of them")
        check_number("temperature", self.temperature, "0 (greedy) to 1e6", high=1e6)
        check_number("top_p", self.top_p, "a share above 0, at most 1", low=1e-9, high=1.0)
        check_whole("top_k", self.top_k, 0)
        check_whole("seed", self.seed, 0, 2**63 - 1)
        if self.vocabulary is not None:
            check_whole("vocabulary", self.vocabulary, 1)
        if wrong := [token for token in self.never_ids if token < 0]:
            raise UnmaskError(f"never_ids hold {wrong[0]}; give token ids")

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.temperature, self.top_p, self.top_k)

    def never_of(self, logits: int) -> tuple[int, ...]:
        """The tokens that are never proposed, where there are logits of so many."""
        beyond = range(logits if self.vocabulary is None else self.vocabulary, logits)
        return (*self.never_ids, *beyond)


def read_settings(values: Mapping[str, Any], where: str) -> BlockSettings:
    """Settings from a mapping, for instance of a YAML file.

    Args:
        values: the settings by their names.
        where: what holds them, for errors.

    Raises:
        UnmaskError: for an unknown name, a value that cannot be used, or no policy.
    """
    known = [field.name for field in fields(BlockSettings)]
    if unknown := sorted(set(map(str, values)) - set(known)):
        raise UnmaskError(f"{where} sets {unknown[0]!r}; known settings are {', '.join(known)}")
    if "policy" not in values:
        raise UnmaskError(
            f"{where} names no policy; add a line such as `policy: threshold:0.9`, or write the "
            "file with `unmask export-sglang`"
        )
    try:
        return TypeAdapter(BlockSettings).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UnmaskError(f"{where}: {place}: {first['msg']}") from None


def policy_of(settings: BlockSettings) -> Policy:
    """The policy that the settings name, on the CPU.

    Raises:
        UnmaskError: if it cannot be loaded, reads hidden states, is one for every α and is not
            told which, or is a heuristic and was given a setting of learned policies.
    """
    policy = load_policy(settings.policy)
    check_needs(policy)
    given = {name: getattr(settings, name) for name in ("alpha", "nfe", "beta", "tau_pi")}
    given = {name: value for name, value in given.items() if value is not None}
    if not isinstance(policy, LearnedPolicy):
        if given:
            raise UnmaskError(
                f"{next(iter(given))} is for learned policies, and {settings.policy} is a "
                "heuristic; leave it out"
            )
        return policy
    if "nfe" in given:
        given["alpha"] = policy.alpha_for(given.pop("nfe"))
    if "tau_pi" in given:
        given["temperature"] = given.pop("tau_pi")
    policy = replace(policy, **given)
    if policy.network.config.conditioned and policy.alpha is None:
        raise UnmaskError(
            f"{settings.policy} is one policy for every α and was given none; set alpha or nfe"
        )
    return policy


def named_key(seed: int, name: str) -> int:
    """A random key from the seed and a request's name."""
    return row_keys([tuple(name.encode())], seed)[0]


@dataclass(frozen=True)
class BlockDecoder:
    """Decides for blocks of any number of rows, from logits.

    Attributes:
        settings: how.
        policy: the loaded policy.
    """

    settings: BlockSettings
    policy: Policy

    @staticmethod
    def load(settings: BlockSettings) -> BlockDecoder:
        """Loads the policy.

        Raises:
            UnmaskError: as `policy_of`.
        """
        return BlockDecoder(settings, policy_of(settings))

    def step(
        self,
        tokens: Int[Tensor, "B b"],
        logits: Float[Tensor, "B b V"],
        masked: Bool[Tensor, "B b"],
        step: Int[Tensor, " B"],
        keys: Int[Tensor, " B"],
        block: Int[Tensor, " B"],
        mask_id: int,
        sampling: Sampling | None = None,
    ) -> BlockStep:
        """`reveal`, with the settings.

        Args:
            tokens: int64 [B, b], the blocks.
            logits: of the same positions.
            masked: bool [B, b], where nothing is revealed yet.
            step: int64 [B], steps that each row's block has behind it.
            keys: int64 [B], random keys of the rows.
            block: int64 [B], the number of each block in its row.
            mask_id: the mask token.
            sampling: how tokens are drawn; None is what the settings say.
        """
        if isinstance(self.policy, LearnedPolicy):
            network = self.policy.network
            if next(network.parameters()).device != logits.device:  # as at the first step on a GPU
                network.to(logits.device)
        return reveal(
            self.policy,
            tokens,
            logits,
            masked,
            step,
            RowGenerator(block_keys(keys, block)),
            mask_id=mask_id,
            never_ids=self.settings.never_of(logits.shape[-1]),
            sampling=self.settings.sampling if sampling is None else sampling,
        )
