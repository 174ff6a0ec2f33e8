"""`unmask import-policy`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from unmask.files import new_directory


@dataclass(frozen=True)
class Config:
    """Convert a policy of the paper's released code into a policy directory that gives the same
    logits."""

    file: tyro.conf.Positional[Path]
    """model.safetensors of the released code."""
    to: Path
    """New directory for the policy."""


def run(config: Config) -> None:
    from unmask.policies.released import read_released

    policy = read_released(config.file)
    policy.save_pretrained(new_directory(config.to))
    print(f"policy written to {config.to}; use it as --policy {config.to}")
