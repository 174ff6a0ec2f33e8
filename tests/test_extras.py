"""Packages that only a part of the program needs: the table, and what is said where one lacks."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unmask.errors import UnmaskError
from unmask.extras import EXTRAS, explain_missing, require_extras, require_package

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
# A process in which some packages cannot be found, as where they are not installed.
WITHOUT = """
import importlib.util, sys
missing = sys.argv[1].split(",")
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in missing else find_spec(name)
"""


def run_without(packages, code, *arguments):
    """A new process that lacks these packages."""
    command = [sys.executable, "-c", WITHOUT + code, packages, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_table_is_that_of_the_project():
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name, packages in EXTRAS.items():
        given = {line.partition(">")[0].replace("-", "_") for line in extras[name]}
        assert {"pyyaml" if package == "yaml" else package for package in packages} <= given
    everything = extras["all"][0].removeprefix("unmask[").removesuffix("]").split(",")
    assert set(EXTRAS) <= set(everything)


@pytest.mark.parametrize(
    ("missing", "words", "extras"),
    [
        ("tyro", ["generate", "--help"], "cli"),
        ("rich", ["train", "--help"], "cli"),
        ("yaml", ["evaluate", "--help"], "cli"),
        ("tensorboard", ["train"], "cli,train"),
        ("matplotlib", ["demo"], "cli,train,plot"),
        ("matplotlib", ["plot", "--results", "x"], "cli,plot"),
        ("scipy", ["analyze", "--results", "x"], "cli,plot"),
        ("lm_eval", ["lm-eval", "--tasks", "gsm8k"], "cli,lm-eval"),
    ],
)
def test_a_command_names_what_it_lacks_before_it_does_anything(
    missing, words, extras, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = "from unmask.cli import main\nsys.exit(main(sys.argv[2:]))"
    done = run_without(missing, code, *words)
    assert done.returncode == 2
    assert done.stderr == (
        f"unmask {words[0]}: unmask {words[0]} needs the package {missing.replace('_', '-')}; "
        f"install it with pip install 'unmask[{extras}]'\n"
    )
    assert not list(tmp_path.iterdir())


def test_functions_name_what_they_lack():
    code = """
import unmask
for use in (lambda: unmask.train, lambda: unmask.analysis.plot_pareto, unmask.analysis.__dir__):
    try:
        use()
    except unmask.UnmaskError as error:
        print(error)
"""
    done = run_without("rich,matplotlib,scipy", code)
    assert done.stdout.splitlines() == [
        "unmask.training.train needs the package rich; install it with pip install 'unmask[train]'",
        "unmask.analysis.plot_pareto needs the package matplotlib; install it with pip install "
        "'unmask[plot]'",
    ], done.stderr


def test_other_missing_modules_stay_errors():
    explain_missing(ModuleNotFoundError("No module named 'nothing'", name="nothing"), "x")
    with pytest.raises(UnmaskError, match=r"x needs the package rich.*'unmask\[cli\]'"):
        explain_missing(ModuleNotFoundError("no rich", name="rich.console"), "x")
    require_extras("x", ["cli", "no-such-extra"])
    with pytest.raises(UnmaskError, match=r"x needs the package no-such; .*\[tasks\]"):
        require_package("no_such", "x")
