"""What the README and the guides show runs, and prints what they say it prints."""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from unmask.cli import main
from unmask.policies import LearnedPolicy
from unmask.policies.network import NetworkConfig, PolicyNetwork

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What takes minutes is run with smaller sizes; what it then prints is not compared.
SMALLER = {
    "unmask train --alpha 3 --out runs/first --imitate entropy:0.3@block_length=16 --rounds 110": (
        "unmask train --alpha 3 --out runs/first --imitate entropy:0.3@block_length=16 "
        "--rounds 1 --imitation-rounds 1 --prompts 2 --eval-prompts 4"
    ),
    "unmask evaluate --samplers threshold:0.9 threshold:0.5 entropy:0.5 runs/first/best "
    "--out runs/compare": (
        "unmask evaluate --samplers threshold:0.9 runs/first/best --out runs/compare --prompts 8"
    ),
}
# What these answer is training's, not the text's.
LEARNED = ("demo/full/best", "runs/first/best")


def blocks(name):
    """The kinds and texts of a page's fenced blocks."""
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


def words(text):
    """A text without its line ends and runs of spaces: terminals differ in width."""
    return " ".join(text.split())


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def agree(said, printed):
    """Whether a text is within another, but for numbers that differ by 3 % or by 2 in their last
    digit: CPUs of another kind round bf16 in other ways."""
    parts = NUMBER.split(words(said))
    pattern = re.compile(r"(-?\d+(?:\.\d+)?)".join(map(re.escape, parts)))
    wanted = NUMBER.findall(words(said))
    for match in pattern.finditer(words(printed)):
        pairs = zip(match.groups(), wanted, strict=True)
        if all(
            abs(float(a) - float(b)) <= max(0.03 * abs(float(b)), 2.01 * last_digit(b))
            if "." in b
            else a == b
            for a, b in pairs
        ):
            return True
    return False


def last_digit(number):
    """What one more in a number's last digit is."""
    return 10.0 ** -len(number.partition(".")[2])


def commands(text):
    """The commands of a console block, each with what it is said to print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command.partition(" #")[0].strip(), output


def run_make(command):
    """Checks that make knows the targets."""
    done = subprocess.run(
        [*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def run_unmask(command, output):
    """Runs a command line of the program; compares the lines that do not depend on training."""
    printed = io.StringIO()
    run = SMALLER.get(command, command)
    with contextlib.redirect_stdout(printed):
        assert main(shlex.split(run)[1:]) == 0, command
    if run != command:
        return
    learned = [name for name in LEARNED if name in output]
    lines = output.splitlines()
    if "evaluate" in command:
        lines = [line for line in lines if not any(name in line for name in learned)]
    elif any(name in command for name in LEARNED):
        assert bool(printed.getvalue()) >= bool(output)
        return
    for line in lines:
        assert agree(line, printed.getvalue()), (command, line, printed.getvalue())


def run_page(name):
    """Runs the blocks of a page one after the other, in the current directory."""
    names = {"__name__": "page"}
    printed, count = None, 0
    for kind, text in blocks(name):
        if kind == "console":
            for command, output in commands(text):
                count += 1
                if command.startswith("make "):
                    run_make(command)
                else:
                    assert command.startswith("unmask "), command
                    run_unmask(command, output)
        elif kind == "python":
            count += 1
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(text, name, "exec"), names)
        elif kind == "text" and printed is not None:
            assert words(text) == words(printed.getvalue())
        printed = printed if kind == "python" else None
    return count


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty directory with a policy where the README has one; it reveals all at once."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkConfig(initial_bias=6.0, conditioned=True))
    policy = LearnedPolicy(network, alpha=1.0)
    policy.save_pretrained("demo/full/best")


PAGES = {"README.md": 4, "docs/python.md": 4, "docs/start.md": 4, "docs/custom-task.md": 2}
PAGES |= {"docs/scoring.md": 1}


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, workplace):
    assert run_page(page) >= PAGES[page]


def test_readme_is_short_and_its_files_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    assert sum(path.stat().st_size for path in (ROOT / "docs/images").iterdir()) < 600_000
    first = next(text for kind, text in blocks("README.md") if kind == "console")
    assert [command for command, _ in commands(first)] == ["make demo", "make test"]


def test_every_block_of_the_readme_is_of_a_kind_that_is_run():
    kinds = {kind for kind, _ in blocks("README.md")}
    assert kinds <= {"console", "python", "text"}
    assert not re.search(r"^    \S", BLOCK.sub("", (ROOT / "README.md").read_text()), re.MULTILINE)


def test_only_small_differences_of_fractions_are_overlooked():
    printed = "threshold:0.9 BL 48  accuracy  86.5 %\n[81.5, 91.0]  NFE  15.4"
    assert agree("accuracy 86.0 % [81.5, 91.0] NFE 15.5", printed)
    for wrong in ("accuracy 80.0 % [81.5, 91.0]", "NFE 16.4", "BL 47", "accuracy 86.5 % NFE 15.4"):
        assert not agree(wrong, printed)
