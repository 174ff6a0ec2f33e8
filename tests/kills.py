"""Commands that are killed at each of their file operations, and then resumed.

    python -m tests.kills [--command train] [--places 0,5,9] [--every N] [--short] [--keep DIR]

A child process runs the command and kills itself (SIGKILL) right before its n-th file operation; or
there, after cutting in half what was written since the operation before, as if the kill had come in
the middle of a write. Then the command is resumed. The files must be those of a run that was never
killed, byte for byte but for seconds and command lines, and no unfinished file may be left; or the
command must refuse with a sentence, and what the sentence says must lead to those files.

File operations are seen by Python's audit hook, which libraries in other languages (safetensors,
tokenizers) do not call; what they have written is seen at the next operation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.forks import settle_threads

SMALL = ("--max-new-tokens", "6", "--block-length", "3")
TRAIN = ("--rounds", "3", "--prompts", "2", "--rollouts", "2", "--width", "16", *SMALL)
TRAIN = (*TRAIN, "--dense", "1", "--eval-every", "2", "--save-every", "1", "--eval-prompts", "2")
EVALUATE = ("--samplers", "threshold:0.9", "random:4", "--prompts", "24", "--batch-size", "1")
EVALUATE = (*EVALUATE, "--pass-k", "1", *SMALL)
RECORD = ("--samplers", "threshold:0.9", "--prompts", "6", "--batch-size", "1", "--judge", "1")
RECORD = (*RECORD, "--max-new-tokens", "6")
PRETRAIN = ("--steps", "4", "--save-every", "2", "--layers", "1", "--width", "32", "--heads", "2")
PRETRAIN = (*PRETRAIN, "--batch-size", "4")
LEARN = (*PRETRAIN, "--task", "reasoning_gym:lcm", "--vocabulary", "300")  # learns a tokenizer
GENERATE = ("7 a +5 b *3 =", "3 a *3 b -1 =", *SMALL)


@dataclass(frozen=True)
class Case:
    """A command under test; OUT stands for its output directory.

    Attributes:
        start: its words.
        resume: the words that go on with it.
    """

    start: tuple[str, ...]
    resume: tuple[str, ...]


CASES = {
    "train": Case(
        ("train", "--out", "OUT", *TRAIN),
        ("train", "--resume", "OUT"),
    ),
    "evaluate": Case(
        ("evaluate", "--out", "OUT", *EVALUATE),
        ("evaluate", "--out", "OUT", *EVALUATE, "--resume"),
    ),
    "record": Case(
        ("record", "--out", "OUT", *RECORD),
        ("record", "--out", "OUT", *RECORD, "--resume"),
    ),
    "pretrain": Case(
        ("pretrain", "--out", "OUT", *PRETRAIN),
        ("pretrain", "--out", "OUT", *PRETRAIN, "--resume"),
    ),
    "pretrain-tokenizer": Case(
        ("pretrain", "--out", "OUT", *LEARN),
        ("pretrain", "--out", "OUT", *LEARN, "--resume"),
    ),
    "generate": Case(
        ("generate", *GENERATE, "--output", "OUT/answers.jsonl"),
        ("generate", *GENERATE, "--output", "OUT/answers.jsonl"),
    ),
    "push": Case(("push", "OUT", "somebody/policy"), ("push", "OUT", "somebody/policy")),
}
# One operation of each, in the middle of a write, for a test of seconds.
SHORT = {
    "train": [60],
    "evaluate": [3],
    "record": [5],
    "pretrain": [30],
    "pretrain-tokenizer": [19],  # between the two files of the tokenizer
    "generate": [1],
    "push": [0],
}
NEEDS_DIRECTORY = ("generate", "push")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


@dataclass
class Killer:
    """Counts the file operations below a directory, and kills this process at one of them.

    Attributes:
        root: the directory.
        place: the number of the operation, from 0; None counts only.
        torn: cut what was written since the operation before.
        count: operations so far.
        sizes: size and time of change of the files below `root` at the operation before, by inode:
            so a file that was renamed since then has not changed.
    """

    root: str
    place: int | None
    torn: bool
    count: int = 0
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    busy: bool = False

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """What `sys.addaudithook` calls."""
        if self.busy or not self.concerns(event, arguments):
            return
        self.busy = True
        self.operate()
        self.busy = False

    def concerns(self, event: str, arguments: tuple[object, ...]) -> bool:
        """Whether an event is a file operation below the directory that changes something."""
        if event == "open":
            path, mode, flags = arguments
            changes = any(c in "wax+" for c in mode) if isinstance(mode, str) else False
            changes = changes or (isinstance(flags, int) and bool(flags & WRITING))
        else:
            path, changes = arguments[0] if arguments else None, event in MOVES
        if not changes or not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.abspath(os.fsdecode(path)).startswith(self.root + os.sep) or (
            os.path.abspath(os.fsdecode(path)) == self.root
        )

    def operate(self) -> None:
        """Counts an operation that is about to take place, and dies there if it is the one."""
        here = self.count
        self.count += 1
        if here != self.place and not self.torn:
            return
        earlier = self.sizes
        files = self.see_files()
        if here == self.place:
            changed = [(p, s) for p, s in files if earlier.get(s.st_ino) != self.sizes[s.st_ino]]
            for path, s in changed if self.torn else ():
                before, size = earlier.get(s.st_ino, (0, 0))[0], s.st_size
                os.truncate(path, before + (size - before) // 2 if size > before else size // 2)
            if changed or not self.torn:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(77)  # nothing was written here, so there is nothing to cut

    def see_files(self) -> list[tuple[str, os.stat_result]]:
        """The files below the directory; their sizes are kept."""
        files = walk_files(self.root)
        self.sizes = {s.st_ino: (s.st_size, s.st_mtime_ns) for _, s in files}
        return files


def walk_files(root: str) -> list[tuple[str, os.stat_result]]:
    """Every file below a directory, with what the system says of it."""
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                found.append((path, os.stat(path)))
    return found


def run_child(words: tuple[str, ...], out: Path, place: int | None, torn: bool) -> tuple[int, str]:
    """Runs a command in a fork of this process.

    Returns:
        Its exit code, −9 if it was killed, 77 if there was nothing to cut; and what it printed on
        standard error. A command that is not killed gives its number of operations there.
    """
    text = Path(tempfile.mkstemp(prefix="kills-")[1])
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with text.open("w", encoding="utf-8") as file, open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(file.fileno(), 2)
                settle_threads()
                killer = Killer(str(out.absolute()), place, torn)
                killer.see_files()
                sys.addaudithook(killer.hook)
                from unmask.cli import main

                code = main([word.replace("OUT", str(out)) for word in words])
                killer.busy = True
                if place is None:
                    print(f"operations={killer.count}", file=sys.stderr)
                elif place >= killer.count:
                    killer.place = killer.count
                    killer.operate()
                sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    said = text.read_text(encoding="utf-8")
    text.unlink()
    return os.waitstatus_to_exitcode(status), said


VOLATILE = re.compile(r"seconds|^command$|^argv$|^provenance$|^seconds_per_prompt$|per_second")


def without_times(value: object) -> object:
    """JSON without what differs between two runs of the same command."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not VOLATILE.search(k)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def file_contents(path: Path, out: Path) -> object:
    """What must be equal of a file."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return without_times(json.loads(data))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in data.decode().splitlines()]
    if path.name == "README.md":
        return re.sub(r"unmask (train|pretrain) .*", "", data.decode()).replace(str(out), "OUT")
    return data


def tree_contents(out: Path) -> dict[str, object]:
    """What must be equal of a directory: all files but TensorBoard's, which hold times."""
    paths = [path for path in sorted(out.rglob("*")) if "tensorboard" not in path.parts]
    return {
        str(path.relative_to(out)): file_contents(path, out) if path.is_file() else None
        for path in paths
    }


def prepare_directory(command: str, out: Path) -> None:
    """What must be there before a command starts."""
    if command in NEEDS_DIRECTORY:
        out.mkdir(parents=True)
    if command == "push":
        import huggingface_hub

        from unmask.policies import LearnedPolicy, PolicyNetwork

        LearnedPolicy(PolicyNetwork()).save_pretrained(out)

        class Hub:
            """The Hub, without a network."""

            def create_repo(self, *arguments: object, **options: object) -> None: ...

            def upload_folder(self, **options: object) -> None: ...

        huggingface_hub.HfApi = Hub


@dataclass
class Sweep:
    """The verdicts on a command: its file operations, how many kills ended how, and the sentences
    of refusals."""

    operations: int

    verdicts: Counter[str] = field(default_factory=Counter)
    unequal: list[str] = field(default_factory=list)
    sentences: Counter[str] = field(default_factory=Counter)


def try_place(
    command: str, directory: Path, expected: dict[str, object], place: int, torn: bool
) -> tuple[str, str]:
    """Kills a command at one place and resumes it; the verdict and a sentence."""
    out = directory / f"{place}-{'torn' if torn else 'whole'}"
    prepare_directory(command, out)
    case = CASES[command]
    code, said = run_child(case.start, out, place, torn)
    if code != -signal.SIGKILL:
        shutil.rmtree(out, ignore_errors=True)
        return ("nothing to cut", "") if code in (0, 77) else ("unequal", f"ended {code}: {said}")
    verdict, sentence = "equal", ""
    code, said = run_child(case.resume, out, None, False)
    if code == 2:
        verdict, sentence = "refused", said.splitlines()[0].replace(str(out), "OUT")
        # What the sentences say: begin it again, or remove or keep what is there.
        whole = command == "generate" and (out / "answers.jsonl").exists()
        code, said = (0, "") if whole else run_child(case.start, out, None, False)
    if code:
        return "unequal", f"resumed: exit code {code}: {said[-300:]}"
    try:
        found = tree_contents(out)
    except ValueError as error:
        return "unequal", f"a file cannot be read: {error}"
    if found != expected:
        names = sorted(n for n in {*found, *expected} if found.get(n, 0) != expected.get(n, 0))
        return "unequal", f"differ: {', '.join(names)}"
    shutil.rmtree(out)
    return verdict, sentence


def sweep_command(command: str, directory: Path, places: list[int] | None, every: int) -> Sweep:
    """Tries the places of a command, whole and torn."""
    expected_at = directory / "expected"
    prepare_directory(command, expected_at)
    code, said = run_child(CASES[command].start, expected_at, None, False)
    assert code == 0, said
    expected = tree_contents(expected_at)
    count = int(said.split("operations=")[1])
    if places is None:
        places = list(range(0, count + 1, every))
    sweep = Sweep(count)
    for place in places:
        for torn in (False, True):
            if place >= count and not torn:
                continue  # the command is over
            verdict, sentence = try_place(command, directory, expected, place, torn)
            sweep.verdicts[verdict] += 1
            if verdict == "unequal":
                sweep.unequal.append(f"place {place}, {'torn' if torn else 'whole'}: {sentence}")
            elif sentence:
                sweep.sentences[sentence] += 1
    return sweep


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--command", choices=[*CASES, "all"], default="all")
    parser.add_argument("--places", help="numbers of operations, with commas; all if left out")
    parser.add_argument("--every", type=int, default=1, help="try every N-th operation")
    parser.add_argument("--short", action="store_true", help="try a few places of each command")
    parser.add_argument("--keep", type=Path, help="keep the directories of unequal places here")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Imported once, here, so that a fork starts at once.
    import reasoning_gym  # noqa: F401
    import tensorboard.summary.writer.record_writer  # noqa: F401
    import torch
    import transformers  # noqa: F401

    import unmask.cli.evaluate
    import unmask.cli.generate
    import unmask.cli.pretrain
    import unmask.cli.record
    import unmask.cli.train
    import unmask.evaluation
    import unmask.models.load
    import unmask.pretraining.run
    import unmask.tasks
    import unmask.training.record
    import unmask.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    places = None if given.places is None else [int(x) for x in given.places.split(",")]
    directory = given.keep or Path(tempfile.mkdtemp(prefix="kills-"))
    failed = False
    for command in CASES if given.command == "all" else (given.command,):
        began = time.perf_counter()
        tried_places = SHORT[command] if given.short else places
        sweep = sweep_command(command, directory / command, tried_places, given.every)
        tried = sum(sweep.verdicts[v] for v in ("equal", "refused", "unequal"))
        counts = ", ".join(f"{sweep.verdicts[v]} {v}" for v in ("equal", "refused", "unequal"))
        seconds = time.perf_counter() - began
        print(
            f"{command}: {sweep.operations} file operations, {tried} kills: {counts} "
            f"({seconds:.0f} s)",
            flush=True,
        )
        for sentence, times in sweep.sentences.items():
            print(f"  {times} × {sentence}")
        for line in sweep.unequal:
            print(f"  {line}")
        failed = failed or bool(sweep.unequal)
    if given.keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
