"""Packages that import their names at first use: `import unmask` is light, and nothing is missing
from it."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import unmask

HEAVY = (
    *("torch", "transformers", "accelerate", "numpy", "pydantic", "yaml", "matplotlib"),
    "importlib.metadata",  # 30 ms
)


def loaded_by(code):
    """The heavy modules that a new process has after this code."""
    code += f"\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import unmask, unmask.models, unmask.policies, unmask.decoding") == []
    assert loaded_by("import unmask.files, unmask.sources, unmask.cli") == []
    assert loaded_by("import unmask; unmask.UnmaskError, unmask.DecodeOptions") == []
    assert "torch" in loaded_by("import unmask; unmask.generate")


def test_submodules_are_attributes_without_an_import_of_their_own():
    code = "import unmask; print(unmask.policies.Threshold(0.5), unmask.decoding.DecodeOptions())"
    assert "torch" in loaded_by(code)


@pytest.mark.parametrize("package", ["unmask", "unmask.models", "unmask.policies"])
def test_every_public_name_is_there_for_programs_and_for_type_checkers(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    assert len(set(module.__all__)) == len(module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing

    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name: part.module
        for part in checked.body
        if isinstance(part, ast.ImportFrom)
        for alias in part.names
    }
    assert set(imported) == set(module.__all__)
    for name, origin in imported.items():
        where = importlib.import_module(f"{origin}.{name}") if origin == package else None
        assert (where or getattr(importlib.import_module(origin), name)) is getattr(module, name)


def test_star_import_gives_the_public_names():
    names = {}
    exec("from unmask import *", names)
    assert set(unmask.__all__) <= set(names)
