"""Policies from short specs: `threshold:0.9`, or a directory with decode-time settings: `runs/a/best@temperature=0.5,beta=0.8`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from unmask.errors import UnmaskError
from unmask.policies.base import Policy
from unmask.policies.heuristics import HEURISTICS
from unmask.policies.learned import LearnedPolicy


def load_policy(spec_or_dir: str | Path, *, device: str | torch.device = "cpu") -> Policy:
    """A policy from its spec.

    Args:
        spec_or_dir: a heuristic as `name:value` (random, confidence, threshold, factor, margin, entropy; without `:value` its default), or
            a directory that `LearnedPolicy.save_pretrained` wrote, optionally followed by `@temperature=…,beta=…`.
        device: for a learned policy's weights.

    Raises:
        UnmaskError: for an unknown name, a bad value or a damaged directory.

    Example:
        >>> load_policy("threshold:0.9")
        Threshold(threshold=0.9)
    """
    spec = str(spec_or_dir)
    name, _, value = spec.partition(":")
    if name in HEURISTICS:
        make, number = HEURISTICS[name]
        if not value:
            return make()
        try:
            parameter = number(value)
        except ValueError:
            kind = "a whole number" if number is int else "a number"
            raise UnmaskError(f"sampler {spec!r} has the value {value!r}; give {kind}, for example {name}:{number(1)}") from None
        return make(parameter)
    directory, _, settings = spec.partition("@")
    if not Path(directory).is_dir():
        raise UnmaskError(f"sampler {spec!r} is neither a policy directory nor one of {', '.join(HEURISTICS)} (as in threshold:0.9)")
    policy = LearnedPolicy.from_pretrained(directory, device=device)
    changes = {}
    for setting in filter(None, settings.split(",")):
        key, _, text = setting.partition("=")
        try:
            changes[{"temperature": "temperature", "beta": "beta"}[key]] = float(text)
        except (KeyError, ValueError):
            raise UnmaskError(f"sampler {spec!r} has the setting {setting!r}; accepted are temperature=NUMBER and beta=NUMBER") from None
    return replace(policy, **changes)
