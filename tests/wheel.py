"""The wheel as a user gets it: `python tests/wheel.py DIRECTORY`, which `make wheel-check` runs.

Builds the wheel, reads what it holds, and installs it into a new environment: first the core alone,
then with the extra `cli`. Needs a package index; takes about a minute.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from unmask.cli import COMMANDS
from unmask.extras import EXTRAS

ROOT = Path(__file__).parent.parent
INSIDE = re.compile(
    r"unmask/(py\.typed|(models|policies)/embedded/[a-z-]+/[\w.]+|(\w+/)*\w+\.(py|html|js|css|svg))"
    r"|unmask-[^/]+\.dist-info/(licenses/)?\w+(\.txt)?"
)
CORE = """
import unmask
model = unmask.load_model("embedded/chain")
print(unmask.generate(model, ["7 a +5 b *3 ="], "threshold:0.9", max_new_tokens=48).text[0])
for use in (
    lambda: unmask.train(unmask.TrainConfig()),
    lambda: unmask.analysis.plot_pareto([], 48, "", "x.png"),
    lambda: unmask.load_task("reasoning_gym:leg_counting"),
):
    try:
        use()
    except unmask.UnmaskError as error:
        print(error)
"""


def run(*command, code=0, **options):
    """What a command prints, both streams together; it must end with this exit code."""
    words = [str(word) for word in command]
    options["env"] = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    assert done.returncode == code, f"{' '.join(words)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def build_wheel(directory):
    """The wheel of this checkout."""
    shutil.rmtree(directory, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", directory, ROOT)
    (wheel,) = directory.glob("*.whl")
    return wheel


def check_content(wheel):
    """Code, embedded models and nothing else; every extra of `unmask.extras`."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    strange = [name for name in names if not INSIDE.fullmatch(name) or "test" in name.lower()]
    assert not strange, strange
    models = ROOT / "src/unmask/models/embedded"
    for path in models.glob("*/*"):
        assert f"unmask/models/embedded/{path.parent.name}/{path.name}" in names
    extras = set(re.findall(r"^Provides-Extra: (.+)$", text, re.MULTILINE))
    assert {*EXTRAS, "all", "docs", "dev"} <= extras, extras
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB")


def check_core(python, unmask, directory):
    """What works without extras, and what is said of the rest."""
    answer, *sentences = run(python, "-c", CORE, cwd=directory).strip().splitlines()[-4:]
    assert answer.startswith("a then 7 +5 gives 2"), answer
    for sentence, extra in zip(sentences, ("train", "plot", "tasks"), strict=True):
        assert sentence.endswith(f"pip install 'unmask[{extra}]'"), sentence
    assert "unmask COMMAND" in run(unmask, "--help")
    for name in COMMANDS:
        answer = run(unmask, name, "--help", code=2)
        assert answer.count("\n") == 1 and "pip install 'unmask[cli]'" in answer, answer
    print("core: decodes; every command names the extra that it lacks")


def check_commands(unmask, directory):
    """Every command's help, an answer, and the extras that single commands lack."""
    for name in COMMANDS:
        assert f"usage: unmask {name}" in run(unmask, name, "--help")
    assert "forward passes" in run(unmask, "generate", "7 a +5 b *3 =", cwd=directory)
    for name, words, extras in (
        ("train", [], "cli,train"),
        ("demo", [], "cli,train,plot"),
        ("plot", ["--results", "x"], "cli,plot"),
    ):
        answer = run(unmask, name, *words, code=2, cwd=directory)
        assert answer.count("\n") == 1 and f"'unmask[{extras}]'" in answer, answer
    assert not any(path.name in ("demo", "runs") for path in directory.iterdir())
    print(f"cli: {len(COMMANDS)} commands explain themselves")


def main(directory):
    wheel = build_wheel(directory / "wheel")
    check_content(wheel)
    place = directory / "environment"
    run(sys.executable, "-m", "venv", "--clear", place)
    python, unmask = place / "bin/python", place / "bin/unmask"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    run(*install, wheel)
    check_core(python, unmask, directory)
    run(*install, f"{wheel}[cli]")
    check_commands(unmask, directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
