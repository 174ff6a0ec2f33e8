"""Policies from short specs: `threshold:0.9`, or a directory or Hub repository with decode-time
settings: `runs/a/best@beta=0.8`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub import snapshot_download

from unmask.errors import UnmaskError
from unmask.policies.base import Policy
from unmask.policies.heuristics import HEURISTICS, SemiAutoregressive
from unmask.policies.learned import LearnedPolicy


def load_policy(spec_or_dir: str | Path, *, device: str | torch.device = "cpu") -> Policy:
    """A policy from its spec.

    Args:
        spec_or_dir: a heuristic as `name:value` (random, confidence, threshold, factor, margin,
            entropy; without `:value` its default), optionally followed by `@block_length=…`, blocks
            of its own inside the decoder's; or a directory that `LearnedPolicy.save_pretrained`
            wrote, or a repository `org/name` of the Hugging Face Hub with such files (two files are
            downloaded, never code); both optionally followed by `@temperature=…,beta=…` and, where
            one policy serves every trade-off, `alpha=…` or `nfe=…` (a target).
        device: for a learned policy's weights.

    Raises:
        UnmaskError: for an unknown name, a bad value or a damaged directory.

    Example:
        >>> load_policy("threshold:0.9")
        Threshold(threshold=0.9)
    """
    spec = str(spec_or_dir)
    directory, _, settings = spec.partition("@")
    name, _, value = directory.partition(":")
    if name in HEURISTICS:
        return heuristic(name, value, settings, spec)
    policy = LearnedPolicy.from_pretrained(find_policy(directory, spec), device=device)
    return with_settings(policy, settings, spec)


def heuristic(name: str, value: str, settings: str, spec: str) -> Policy:
    """The heuristic `name:value`, in blocks of its own if the settings are `block_length=…`.

    Raises:
        UnmaskError: for another setting, or a value that it cannot take.
    """
    make, number = HEURISTICS[name]
    try:
        policy = make(number(value)) if value else make()
    except ValueError:
        kind = "a whole number" if number is int else "a number"
        raise UnmaskError(
            f"sampler {spec!r} has the value {value!r}; give {kind}, for example {name}:{number(1)}"
        ) from None
    if not settings:
        return policy
    key, _, text = settings.partition("=")
    if key != "block_length" or not text.isascii() or not text.isdecimal():
        raise UnmaskError(
            f"sampler {spec!r} has the setting {settings!r}; give a heuristic block_length=NUMBER "
            "or none"
        )
    return SemiAutoregressive(policy, int(text))


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
                changes[key] = float(text)
            else:
                raise ValueError
        except ValueError:
            accepted = "temperature, beta, alpha or nfe=NUMBER, and zero=time, mask or time+mask"
            raise UnmaskError(
                f"sampler {spec!r} has the setting {setting!r}; accepted are {accepted}"
            ) from None
    return replace(policy, **changes)


REMASKING = {
    "low_confidence": "confidence",
    "maskgit_plus": "confidence",
    "random": "random",
    "topk_margin": "margin",
}


def steps_spec(steps: int, length: int, remasking: str = "low_confidence") -> str:
    """The spec of what LLaDA calls `remasking` and Dream `alg`, with their `steps`: L / steps
    positions at each pass.

    Args:
        steps: of the whole buffer, 1 to L; must divide L, for then every pass reveals equally many.
        length: L.
        remasking: LLaDA's low_confidence or random; Dream's maskgit_plus or topk_margin. (Dream's
            origin draws how many positions it reveals and its entropy ranks them by entropy: no
            sampler here does the same.)

    Raises:
        UnmaskError: for another name, or steps that do not divide L.

    Example:
        >>> steps_spec(128, 256, "topk_margin")
        'margin:2'
    """
    if remasking not in REMASKING:
        raise UnmaskError(
            f"remasking {remasking!r} has no equal here; use one of {', '.join(REMASKING)}, or a "
            "policy such as entropy:0.1"
        )
    if steps < 1 or length % steps:
        raise UnmaskError(
            f"steps is {steps}; give a divisor of the answers' length {length}, so that each pass "
            "reveals equally many"
        )
    return f"{REMASKING[remasking]}:{length // steps}"


def find_policy(directory: str, spec: str) -> Path:
    """The directory itself, or the local copy of a Hub repository of that name.

    Raises:
        UnmaskError: if there is neither.
    """
    if Path(directory).is_dir():
        return Path(directory)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", directory):
        known = ", ".join(HEURISTICS)
        raise UnmaskError(
            f"sampler {spec!r} is neither a policy directory, a Hub repository nor one of {known} "
            "(as in threshold:0.9)"
        )
    try:
        return Path(
            snapshot_download(directory, allow_patterns=["config.json", "model.safetensors"])
        )
    except Exception as error:  # the hub raises many kinds, down to those of its HTTP library
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" …")
        raise UnmaskError(
            f"policy {directory!r} is no directory and cannot be had from the Hugging Face Hub "
            f"({reason}); check name and network"
        ) from None
