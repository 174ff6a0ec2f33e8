"""Every example runs, is short, and prints what its text says."""

import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, capsys):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip() and "nan" not in printed


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES[0].parent.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_notebook(path, capsys):
    """The cells run in order, in one namespace; none keeps an output in the repository."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = {"__name__": "__main__"}
    for cell in cells:
        assert not cell["outputs"] and cell["execution_count"] is None
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
    printed = capsys.readouterr().out
    assert len(cells) >= 4 and "passes" in printed and "nan" not in printed


def test_there_are_examples():
    assert list(EXAMPLES[0].parent.glob("*.ipynb"))
    assert len(EXAMPLES) >= 6
