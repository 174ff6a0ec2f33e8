"""`unmask push`"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import tyro

from unmask.errors import UnmaskError, short_error

FILES = ("README.md", "config.json", "model.safetensors")


@dataclass(frozen=True)
class Config:
    """Upload a policy directory to the Hugging Face Hub (log in with `hf auth login`, or set
    HF_TOKEN)."""

    directory: tyro.conf.Positional[Path]
    """Policy directory."""
    repository: tyro.conf.Positional[str]
    """Where to: owner/name; made if it does not exist."""
    private: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """Only say what would be uploaded."""


def run(config: Config) -> None:
    from huggingface_hub import HfApi

    from unmask.policies import LearnedPolicy

    LearnedPolicy.from_pretrained(config.directory)  # refuses what is no whole policy
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", config.repository):
        raise UnmaskError(f"repository {config.repository!r} has no owner; give owner/name")
    files = [name for name in FILES if (config.directory / name).exists()]
    if config.dry_run:
        print(f"would upload {', '.join(files)} from {config.directory} to {config.repository}")
        return
    try:
        api = HfApi()
        api.create_repo(config.repository, private=config.private, exist_ok=True)
        api.upload_folder(
            repo_id=config.repository, folder_path=config.directory, allow_patterns=files
        )
    # The Hub raises many kinds of errors, down to those of its HTTP library; none of them holds
    # the token.
    except Exception as error:
        raise UnmaskError(
            f"{config.directory} could not be uploaded to {config.repository} "
            f"({short_error(error)}); check login, name and network"
        ) from None
    print(f"uploaded to {config.repository}")
