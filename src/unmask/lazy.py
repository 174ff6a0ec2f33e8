"""Packages whose names are imported when they are first used, so that `--help` loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

from unmask.extras import explain_missing

# Where two extras bring a package, the one that a module's users want.
EXTRA_OF = {"trainer": ("train",)}


def lazy_names(
    package: str, where: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        where: for each public name the module below the package that defines it.
        modules: submodules that can be used as attributes of the package without an import of their
            own, as in `unmask.policies.Observation` after `import unmask`.

    A name whose module needs a package that is not installed raises an `UnmaskError` with the
    command that installs it.
    """

    def get(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{package}.{where[name]}"), name)
        except ModuleNotFoundError as error:
            explain_missing(error, f"{package}.{name}", EXTRA_OF.get(where[name], ()))
            raise
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *where, *modules}), sorted(where)
