"""Where a model or a policy comes from: a local directory, or a repository of the Hugging Face
Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from unmask.errors import UnmaskError, short_error, short_text

HUB_PREFIX = "hf:"
# Commands write below these directories unless they are told otherwise, so that a name below them
# is a local path, also where the directory does not exist.
OUTPUT_ROOTS = ("runs", "demo")


def find_source(
    kind: Literal["model", "policy"],
    name: str,
    files: Sequence[str],
    *,
    others: str,
    revision: str | None = None,
) -> Path:
    """The local directory of that name, or the local copy of a Hub repository (downloaded if need
    be).

    `hf:owner/name` is always a repository of the Hub. `owner/name` is one, too, unless it looks
    like a local path: it is never looked up on the Hub if the directory `owner` exists here, or if
    it is one that the commands write to (`runs`, `demo`). Otherwise a typing error in a local path
    would ask the Hub for a stranger's repository.

    Args:
        kind: what is looked for, for the error messages.
        name: the path or the repository.
        files: patterns of the files to download; nothing else of a repository is fetched.
        others: which other names are accepted, for the error messages.
        revision: branch, tag or commit of a Hub repository; None is its main branch.

    Raises:
        UnmaskError: if there is neither, the repository cannot be downloaded, or a revision is
            given for a local directory.
    """
    text = f"{kind} {short_text(name)!r}"
    if not isinstance(revision, str | None):
        raise UnmaskError(f"revision is {revision!r}; give a branch, tag or commit as a string")
    if name.startswith(HUB_PREFIX):
        repository = name.removeprefix(HUB_PREFIX)
        if not is_repository_name(repository):
            raise UnmaskError(f"{text} names no Hub repository; write hf:owner/name")
        return download(repository, text, files, revision)
    directory = existing_directory(name, text)
    if directory is not None:
        if revision is not None:
            raise UnmaskError(
                f"revision {revision!r} was given, but {text} is a local directory; leave it out"
            )
        return directory
    if not is_repository_name(name):
        raise UnmaskError(f"{text} is neither a directory, a Hub repository (owner/name) {others}")
    root = name.split("/")[0]
    if root in OUTPUT_ROOTS or Path(root).is_dir():
        raise UnmaskError(
            f"{text} is not a local directory; check the path, or write hf:{name} for the "
            "repository of the Hugging Face Hub"
        )
    return download(name, text, files, revision)


def is_repository_name(name: str) -> bool:
    """Whether the name has the form `owner/name` of a Hub repository."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name, re.ASCII) is not None


def existing_directory(name: str, text: str) -> Path | None:
    """The directory of that name (`~` is the home directory), or None if there is nothing.

    Raises:
        UnmaskError: if it is a file, or the system takes no such name.
    """
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        if not path.exists():
            return None
    except (OSError, RuntimeError, ValueError) as error:  # too long, unknown ~user, not readable
        raise UnmaskError(f"{text} cannot be read ({short_error(error)}); check the name") from None
    raise UnmaskError(f"{text} is a file; give the directory that holds its files")


def download(repository: str, text: str, files: Sequence[str], revision: str | None) -> Path:
    """The local copy of a Hub repository, with these files only."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    # The Hub raises many kinds of errors, down to those of its HTTP library.
    except Exception as error:
        raise UnmaskError(
            f"{text} is not a local directory and could not be downloaded from the Hugging Face "
            f"Hub ({short_error(error)}); check name and network"
        ) from None
