"""The examples in docstrings run as they stand, with `import unmask` before them."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import unmask

FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE


def modules_with_examples():
    """The modules of the package whose source holds an example."""
    for info in pkgutil.walk_packages(unmask.__path__, "unmask."):
        if ".child" in info.name or info.name.endswith(".__main__"):
            continue
        spec = importlib.util.find_spec(info.name)
        if spec and spec.origin and ">>>" in Path(spec.origin).read_text(encoding="utf-8"):
            yield info.name


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_of_module(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, globs={"unmask": unmask})
    report = []
    for test in found:
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert not report, "".join(report)


@pytest.mark.parametrize(
    "name", [name for name in unmask.__all__ if not inspect.ismodule(getattr(unmask, name))]
)
def test_public_name_has_an_example(name):
    thing = getattr(unmask, name)
    text = f"{inspect.getdoc(thing)}{inspect.getdoc(getattr(thing, '__init__', None))}"
    assert ">>> " in text, f"{name} has no example in its docstring"
