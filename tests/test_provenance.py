"""Where a result came from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import unmask
from unmask.cli import main
from unmask.provenance import commit, provenance, running_command


def git(directory, *arguments):
    identity = {
        f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    command = ["git", "-c", "commit.gpgsign=false", *arguments]
    environment = os.environ | identity
    subprocess.run(command, cwd=directory, env=environment, check=True, capture_output=True)


def commit_seen_in(package):
    """What a package that lies there says, and how often it asked git for three answers."""
    code = (
        "import subprocess\n"
        "runs, run = [], subprocess.run\n"
        "subprocess.run = lambda *a, **k: (runs.append(a), run(*a, **k))[1]\n"
        "from unmask.provenance import commit\n"
        "print({commit() for _ in range(3)}.pop(), len(runs))"
    )
    environment = os.environ | {"PYTHONPATH": str(package)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=package, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_the_commit_is_that_of_this_package_or_none(tmp_path):
    """A package that is installed inside another project's checkout has no commit of its own."""
    source = Path(unmask.__file__).parent
    (tmp_path / "unmask").mkdir()
    for name in ("__init__.py", "lazy.py", "errors.py", "extras.py", "provenance.py"):
        shutil.copy(source / name, tmp_path / "unmask" / name)
    git(tmp_path, "init", "-q")
    (tmp_path / "project.txt").write_text("theirs", encoding="utf-8")
    git(tmp_path, "add", "project.txt")
    git(tmp_path, "commit", "-q", "-m", "theirs")
    assert commit_seen_in(tmp_path) == ["None", "1"]

    git(tmp_path, "add", "unmask")
    git(tmp_path, "commit", "-q", "-m", "ours")
    found, runs = commit_seen_in(tmp_path)
    assert (len(found) >= 7, found.isalnum(), runs) == (True, True, "3")
    (tmp_path / "project.txt").write_text("changed", encoding="utf-8")
    assert commit_seen_in(tmp_path) == [found + "+", "3"]


def test_provenance_of_a_source_that_is_not_installed(tmp_path):
    """As on a machine that was given a checkout and a path, and cannot install."""
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.metadata as metadata\n"
        "found = metadata.MetadataPathFinder.find_distributions\n"
        "hide = lambda context=metadata.DistributionFinder.Context(): (\n"
        "    d for d in found(context) if d.metadata['Name'] != 'unmask')\n"
        "metadata.MetadataPathFinder.find_distributions = hide\n"
        "from unmask.provenance import provenance\n"
        "print(provenance()['versions']['unmask'])\n",
        encoding="utf-8",
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert ran.stdout == "(not installed)\n"


def test_provenance_names_the_command_or_the_program_that_used_the_library(tmp_path):
    made = provenance()
    assert made["command"] is None and made["argv"]  # of pytest, or of its worker
    with running_command(["unmask", "generate", "7 a +5 ="]):
        made = provenance()
    assert made["command"] == "unmask generate '7 a +5 ='" and "argv" not in made
    assert provenance()["command"] is None
    assert json.loads(json.dumps(made)) == made

    script = tmp_path / "script.py"
    script.write_text(
        "from unmask.provenance import provenance; print(provenance())", encoding="utf-8"
    )
    result = subprocess.run(
        [sys.executable, str(script), "--alpha", "3"], capture_output=True, text=True
    )
    assert "'command': None" in result.stdout and "script.py --alpha 3" in result.stdout


def test_commands_write_their_own_name_into_results(tmp_path, monkeypatch):
    monkeypatch.setattr("unmask.cli.push.run", lambda config: seen.append(provenance()["command"]))
    seen = []
    assert main(["push", "a b", "owner/name"]) == 0
    assert seen == ["unmask push 'a b' owner/name"]
    assert commit() == commit()
