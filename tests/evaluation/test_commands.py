"""The commands of evaluation, lm-eval and analysis answer `--help` without heavy imports."""

import subprocess
import sys

import pytest

# The packages above are stood in for, so that only the command's own imports count.
HELP = """
import sys, types
import unmask_path
package = types.ModuleType("unmask")
package.__path__ = [unmask_path.SRC]
sys.modules["unmask"] = package
import importlib
module = importlib.import_module("unmask.cli.{name}")
module.Config()
heavy = [n for n in ("torch", "transformers", "matplotlib", "scipy", "lm_eval", "evaluate")
         if n in sys.modules]
assert not heavy, heavy
"""


@pytest.mark.parametrize("name", ["evaluate", "lm_eval", "compare", "plot", "analyze"])
def test_a_command_loads_nothing_heavy_before_it_runs(name, tmp_path):
    import unmask

    (tmp_path / "unmask_path.py").write_text(f"SRC = {unmask.__path__[0]!r}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(name=name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
