"""Packages that only a part of the program needs, and the extra of the installation that brings
each: `pip install 'unmask[train,plot]'`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from unmask.errors import UnmaskError

# As in pyproject.toml, by the names that are imported.
EXTRAS: dict[str, tuple[str, ...]] = {
    "cli": ("tyro", "yaml", "rich"),
    "plot": ("matplotlib", "scipy"),
    "train": ("accelerate", "tensorboard", "rich"),
    "tasks": ("datasets", "reasoning_gym", "pytest"),
    "lm-eval": ("lm_eval", "evaluate"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
}


def installed_version(package: str) -> str:
    """The version of a package, or "(not installed)". unmask itself is not installed where only its
    source is on the path."""
    from importlib.metadata import PackageNotFoundError, version  # slow to load

    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def install_sentence(purpose: str, package: str, extras: Sequence[str]) -> str:
    """What is missing, for what, and the command that brings it."""
    return (
        f"{purpose} needs the package {package.replace('_', '-')}; install it with pip install "
        f"'unmask[{','.join(extras)}]'"
    )


def require_extras(purpose: str, extras: Sequence[str]) -> None:
    """Checks that the packages of some extras are there, without an import.

    Args:
        purpose: what needs them, as the subject of the sentence.
        extras: keys of `EXTRAS`; others are let through.

    Raises:
        UnmaskError: if one is not installed.
    """
    for extra in extras:
        for package in EXTRAS.get(extra, ()):
            if find_spec(package) is None:
                raise UnmaskError(install_sentence(purpose, package, extras))


def require_package(package: str, purpose: str, extra: str = "tasks") -> Any:
    """An optional package, imported.

    Raises:
        UnmaskError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UnmaskError(install_sentence(purpose, package, (extra,))) from None


def explain_missing(error: ImportError, purpose: str, prefer: Iterable[str] = ()) -> None:
    """Turns an import of an optional package that failed into one sentence; other errors are left
    alone.

    Args:
        error: what the import raised.
        purpose: what was to be imported.
        prefer: extras to name, where several bring the package.

    Raises:
        UnmaskError: if the package is one of `EXTRAS`.
    """
    package = (error.name or "").partition(".")[0]
    bringing = [extra for extra, packages in EXTRAS.items() if package in packages]
    if bringing:
        chosen = next((extra for extra in prefer if extra in bringing), bringing[0])
        raise UnmaskError(install_sentence(purpose, package, (chosen,))) from None
