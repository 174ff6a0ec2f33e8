"""Policies from short specs: `threshold:0.9`, or a directory or Hub repository with decode-time
settings: `runs/a/best@beta=0.8`."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unmask.errors import UnmaskError, short_text
from unmask.policies.base import Policy
from unmask.policies.heuristics import HEURISTICS, Pace, SemiAutoregressive
from unmask.policies.learned import LearnedPolicy
from unmask.policies.schema import LARGEST, SMALLEST
from unmask.processes import usable_device
from unmask.sources import find_source

EMBEDDED = Path(__file__).parent / "embedded"
MOST_BYTES = 500_000  # of one policy that ships
FILES = ("config.json", "model.safetensors")
# More would overflow in int32, where the policies compute.
MOST_POSITIONS = 2**31 - 1
MOST_TEACHERS = 64
EDGE = 1.001  # α that was printed with few digits is still within the range of training
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
GRID = re.compile(rf"(?P<low>{NUMBER})\.\.(?P<high>{NUMBER}):(?P<count>\d{{1,4}})")


def embedded_policies() -> list[str]:
    """The names of the learned policies that ship with the package, as `load_policy` takes them:
    each is called as the embedded model that it was trained for.

    Examples:
        >>> "embedded/chain" in unmask.embedded_policies()
        True
    """
    return sorted(
        f"embedded/{directory.parent.name}" for directory in EMBEDDED.glob("*/config.json")
    )


def load_policy(
    spec_or_dir: str | Path,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> Policy:
    """A policy from its spec.

    Args:
        spec_or_dir: a heuristic as `name:value` (random, confidence, threshold, factor, margin,
            low-entropy, entropy; without `:value` its default; K of random, confidence, margin and
            low-entropy may be `100/60`: 100 positions in 60 passes), optionally followed by
            `@block_length=…`, blocks of its own inside the decoder's; or `embedded/NAME` (see
            `embedded_policies`), a directory that `LearnedPolicy.save_pretrained` wrote, or a
            repository `owner/name` of the Hugging Face Hub with such files (two files are
            downloaded, never code; `hf:owner/name` if a directory `owner` exists here); these
            optionally followed by `@temperature=…,beta=…` and, where one policy serves every
            trade-off, `alpha=…` or `nfe=…` (a target).
        device: for a learned policy's weights.
        revision: branch, tag or commit of a Hub repository.

    Raises:
        UnmaskError: for an argument of the wrong type, an unknown name, a bad value or a damaged
            directory.

    Examples:
        >>> unmask.load_policy("threshold:0.9")
        Threshold(threshold=0.9)
    """
    if not isinstance(spec_or_dir, str | Path) or not str(spec_or_dir):
        raise UnmaskError(
            f"policy is {spec_or_dir!r}; give a heuristic such as threshold:0.9, a policy "
            "directory or a Hub repository"
        )
    spec = str(spec_or_dir)
    directory, _, settings = spec.partition("@")
    name, _, value = directory.partition(":")
    if name in HEURISTICS:
        if revision is not None:
            raise UnmaskError(
                f"revision {revision!r} was given, but {spec} is a heuristic; leave it out"
            )
        return heuristic(name, value, settings, spec)
    target = usable_device(device)
    found = find_policy(directory, revision)
    return with_settings(LearnedPolicy.from_pretrained(found, device=target), settings, spec)


def find_policy(name: str, revision: str | None = None) -> Path:
    """The directory of an embedded policy, a local one, or the local copy of a Hub repository
    (downloaded if need be).

    Raises:
        UnmaskError: if there is none.
    """
    known = ", ".join(embedded_policies()) or "none"
    if not name.startswith("embedded/"):
        others = f"nor one of {', '.join(HEURISTICS)} (as in threshold:0.9)"
        return find_source("policy", name, FILES, others=others, revision=revision)
    if name not in embedded_policies():
        raise UnmaskError(
            f"no policy {short_text(name)!r} ships with this package; those that do: {known}. Give "
            "one of them, a policy directory or a heuristic such as threshold:0.9"
        )
    if revision is not None:
        raise UnmaskError(
            f"revision {revision!r} was given, but {name} ships with this package; leave it out"
        )
    return EMBEDDED / name.removeprefix("embedded/")


def expand_grid(spec: str) -> list[str]:
    """The policies that a spec with a range stands for: `threshold:0.3..0.95:8` is eight
    thresholds, `DIR@alpha=0.3..10:4` four values of α, from the first to the last in equal ratios.
    A spec without a range stands for itself.

    Raises:
        UnmaskError: for a range that is none.

    Examples:
        >>> unmask.policies.load.expand_grid("entropy:0.1..0.4:3")
        ['entropy:0.1', 'entropy:0.2', 'entropy:0.4']
    """
    found = GRID.search(spec)
    if found is None:
        return [spec]
    low, high, count = float(found["low"]), float(found["high"]), int(found["count"])
    if not 0 < low < high <= LARGEST or not 2 <= count <= MOST_TEACHERS:
        raise UnmaskError(
            f"the range {found[0]} in {short_text(spec)!r} cannot be used; give "
            f"LOW..HIGH:COUNT with 0 < LOW < HIGH and a count from 2 to {MOST_TEACHERS}"
        )
    values = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    return [spec.replace(found[0], f"{value:.6g}") for value in values]


def heuristic(name: str, value: str, settings: str, spec: str) -> Policy:
    """The heuristic `name:value`, in blocks of its own if the settings are `block_length=…`.

    Raises:
        UnmaskError: for another setting, or a value that it cannot take.
    """
    make, number = HEURISTICS[name]
    shown = f"sampler {short_text(spec)!r}"
    kind = "a whole number" if number is int else "a number"
    try:
        parsed = parse_value(number, value) if value else None
    except ValueError:
        raise UnmaskError(
            f"{shown} has the value {short_text(value)!r}; give {kind}, for example "
            f"{name}:{number(1)}"
        ) from None
    largest = parsed.positions if isinstance(parsed, Pace) else parsed
    if number is int and largest is not None and largest > MOST_POSITIONS:
        raise UnmaskError(f"{shown} reveals too many positions; give at most {MOST_POSITIONS}")
    policy = make() if parsed is None else make(parsed)
    if not settings:
        return policy
    key, _, text = settings.partition("=")
    known = key == "block_length" and text.isascii() and text.isdecimal()
    if not known or not 1 <= len(text) <= 9:
        raise UnmaskError(
            f"{shown} has the setting {short_text(settings)!r}; give a heuristic "
            "block_length=NUMBER or none"
        )
    return SemiAutoregressive(policy, int(text))


def parse_value(number: type, text: str) -> int | float | Pace:
    """The value of a heuristic; where it is a whole number, also `100/60`: 100 positions in 60
    passes.

    Raises:
        ValueError: if it is none.
    """
    positions, slash, passes = text.partition("/")
    if not slash:
        return number(text)
    if number is not int:
        raise ValueError(f"{text} is not one number")
    return Pace(int(positions), int(passes))


def with_settings(policy: LearnedPolicy, settings: str, spec: str) -> LearnedPolicy:
    """The policy with decode-time settings such as `temperature=0.5,beta=0.8`.

    Raises:
        UnmaskError: for an unknown setting or a value it cannot take.
    """
    changes: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, _, text = setting.partition("=")
        try:
            if key == "zero":
                changes["zero"] = tuple(text.split("+"))
            elif key == "nfe":
                changes["alpha"] = policy.alpha_for(float(text))
            elif key in ("temperature", "beta", "alpha"):
                changes[key] = number_in_range(text)
                if key == "alpha":
                    warn_of_alpha(policy, changes[key], spec)
            else:
                raise ValueError
        except ValueError:
            accepted = "temperature, beta, alpha or nfe=NUMBER, and zero=time, mask or time+mask"
            raise UnmaskError(
                f"sampler {short_text(spec)!r} has the setting {short_text(setting)!r}; accepted "
                f"are {accepted}"
            ) from None
    return replace(policy, **changes)


def warn_of_alpha(policy: LearnedPolicy, alpha: float, spec: str) -> None:
    """Says so if a policy is told an α for which it was not trained."""
    known = [trained for trained, _ in policy.calibration]
    if known and not min(known) / EDGE <= alpha <= max(known) * EDGE:
        warnings.warn(
            f"sampler {short_text(spec)!r} has α {alpha:g}; this policy was trained for "
            f"{min(known):g} to {max(known):g}, and what it does beyond is not known",
            stacklevel=2,
        )


def number_in_range(text: str) -> float:
    """The number; one above 0 must be representable in fp32.

    Raises:
        ValueError: if it is no number, or out of range.
    """
    value = float(text)
    if value > 0 and not SMALLEST <= value <= LARGEST:
        raise ValueError(f"{text} is not between {SMALLEST:g} and {LARGEST:g}")
    return value


REMASKING = {
    "low_confidence": "confidence",
    "maskgit_plus": "confidence",
    "random": "random",
    "topk_margin": "margin",
    "entropy": "low-entropy",
}


def steps_spec(
    steps: int, length: int, remasking: str = "low_confidence", block_length: int | None = None
) -> str:
    """The spec of what LLaDA calls `remasking` and Dream `alg`, with their `steps`: L / steps
    positions at each pass. Where that is no whole number, or does not divide a block, the first
    passes of each block reveal one more than the others, as in LLaDA's code.

    Args:
        steps: of the whole buffer, 1 to L.
        length: L.
        remasking: LLaDA's low_confidence or random; Dream's maskgit_plus, topk_margin or entropy.
            (Dream's origin draws how many positions it reveals: no sampler here does the same.)
        block_length: BL, or b of a block-causal model; None is L.

    Raises:
        UnmaskError: for another name, or steps that cannot be shared among the blocks.

    Examples:
        >>> unmask.policies.steps_spec(128, 256, "topk_margin")
        'margin:2'
        >>> unmask.policies.steps_spec(24, 64, block_length=32)
        'confidence:32/12'
    """
    if not isinstance(remasking, str) or remasking not in REMASKING:
        raise UnmaskError(
            f"remasking {remasking!r} has no equal here; use one of {', '.join(REMASKING)}, or a "
            "policy such as entropy:0.1"
        )
    for name, value in (("length", length), ("steps", steps)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UnmaskError(f"{name} is {value!r}; give a whole number, at least 1")
    if steps > length:
        raise UnmaskError(
            f"steps is {steps}; give at most the answers' length {length}, so that each pass "
            "reveals something"
        )
    name, block = REMASKING[remasking], min(block_length or length, length)
    if length % steps == 0 and block % (length // steps) == 0:
        return f"{name}:{length // steps}"
    blocks, rest = divmod(length, block)
    if rest or steps % blocks:
        raise UnmaskError(
            f"steps is {steps} for {length} tokens in blocks of {block}; give blocks that "
            f"divide {length} and steps that the blocks share equally"
        )
    return f"{name}:{block}/{steps // blocks}"
