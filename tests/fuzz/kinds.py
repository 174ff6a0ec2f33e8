"""The kinds of inputs: what is damaged, and what is then asked of it."""

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

import unmask
from tests.fuzz.damage import Edit, apply_edit, edits_of
from tests.models import checkpoints
from unmask.cli import main
from unmask.errors import UnmaskError
from unmask.evaluation.schema import PieceLine, Record, Summary
from unmask.models.schema import ModelConfig, TokenizerConfig, TokenizerFile
from unmask.policies import LearnedPolicy, NetworkConfig, PolicyNetwork
from unmask.policies.schema import NetworkFile, PolicyFile

CHAT = [{"role": "user", "content": "ab"}]
SCHEMAS: dict[str, list[str]] = {
    "config.json": [*ModelConfig.model_fields, *PolicyFile.model_fields, *NetworkFile.model_fields],
    "tokenizer_config.json": list(TokenizerConfig.model_fields),
    "special_tokens_map.json": list(TokenizerConfig.model_fields),
    "tokenizer.json": [*TokenizerFile.model_fields, "normalizer", "pre_tokenizer", "decoder",
                       "post_processor", "truncation", "padding"],
    "results.jsonl": list(Record.__annotations__),
    "summary.json": list(Summary.model_fields),
    "0.jsonl": list(PieceLine.__annotations__),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        base: name of the directory of good files that is copied; "" for none.
        edits: file within it, and what is done to it.
        words: command line or other words that the action takes.
    """

    base: str = ""
    edits: tuple[tuple[str, Edit], ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kind:
    """How cases of a kind are made from the directory of good files, and run in a directory."""

    cases: Callable[[Path], st.SearchStrategy[Case]]
    run: Callable[[Path, Case], None]


class Refused(Exception):
    """The command line refused the input as it should."""


def call(*words: str) -> None:
    """Runs a command in this process.

    Raises:
        Refused: for exit code 2 with one sentence.
        AssertionError: for another exit code than 0 and 2, or other words on standard error.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    said = err.getvalue()
    assert code in (0, 2), (code, said)
    if code == 2:
        assert said.count("\n") == 1 and len(said) < 4000, said
        raise Refused(said)


@cache
def tiny_model(directory: str) -> Any:
    """The good model of a directory, loaded once."""
    return unmask.load_model(directory, dtype=torch.float32)


def make_good_files(root: Path) -> None:
    """Every directory that cases begin with."""
    for family in checkpoints.MAKERS:
        checkpoints.write(family, root / family)
    checkpoints.write("dream", root / "dream-slow", slow=True)
    checkpoints.write("llada", root / "llada-shards", shards=3)
    tiny = root / "tiny"
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["--width", "16", "--layers", "2", "--heads", "2", "--batch-size", "2"]
        words += ["--steps", "4", "--until", "2", "--save-every", "2"]
        call("pretrain", "--out", str(tiny), *words)
        shutil.copytree(tiny, root / "pretraining")
        for name in ("loss.jsonl", "checkpoint.safetensors"):
            (tiny / name).unlink()
        network = PolicyNetwork(NetworkConfig(width=8, mlp=8))
        LearnedPolicy(network).save_pretrained(root / "policy")
        network = PolicyNetwork(NetworkConfig(width=8, mlp=8, conditioned=True, inputs=2))
        accuracy = {"sampler": "x", "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
        front = [{"alpha": 0.5, "nfe": 9.0, **accuracy}, {"alpha": 2.0, "nfe": 3.0, **accuracy}]
        LearnedPolicy(network, alpha=1.0, metadata={"pareto": front}).save_pretrained(
            root / "policy-range"
        )
        call("evaluate", "--out", str(root / "evaluation"), *EVALUATION, "--model", str(tiny))
        make_interrupted(root)
        call("train", "--out", str(root / "run"), "--model", str(tiny), *TRAINING)
    prompts = (
        '"7 a +5 b ="\n{"prompt": "7 a ="}\n{"messages": [{"role": "user", "content": "7"}]}\n'
    )
    (root / "prompts").mkdir()
    (root / "prompts" / "prompts.jsonl").write_text(prompts, encoding="utf-8")
    (root / "yaml").mkdir()
    (root / "yaml" / "options.yaml").write_text(
        "prompt: ['7 a =']\nmax-new-tokens: 2\nblock_length: 1\ntemperature: 0.5\n",
        encoding="utf-8",
    )


EVALUATION = (
    "--samplers", "confidence:8", "random:8", "--prompts", "2", "--max-new-tokens", "8",
    "--batch-size", "1", "--traces",
)  # fmt: skip
TRAINING = (
    "--rounds", "2", "--prompts", "2", "--rollouts", "2", "--width", "8", "--eval-prompts", "2",
    "--max-new-tokens", "4", "--save-every", "1", "--eval-every", "2",
)  # fmt: skip


def make_interrupted(root: Path) -> None:
    """The evaluation as it was before its last pieces and its summary."""
    import json

    from unmask.evaluation import stores

    kept: list[Any] = []
    with contextlib.ExitStack() as stack:
        close = stores.Ledger.close
        stack.callback(setattr, stores.Ledger, "close", close)
        stores.Ledger.close = lambda *arguments: kept.append(arguments)
        call("evaluate", "--out", str(root / "ledger"), *EVALUATION, "--model", str(root / "tiny"))
    path = root / "ledger" / "partial" / "0.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["piece"] == 0
    path.write_text(lines[0] + "\n" + lines[1][:40], encoding="utf-8")


def damaged(
    root: Path, bases: list[str], words: st.SearchStrategy[tuple[str, ...]] | None = None
) -> st.SearchStrategy[Case]:
    """One or two edits of the files of one of several directories."""
    strategies = []
    for base in bases:
        files = sorted(str(p.relative_to(root / base)) for p in (root / base).rglob("*.*"))
        files = [name for name in files if (root / base / name).is_file() and "events" not in name]
        edit = st.sampled_from(files).flatmap(
            lambda name, base=base: st.tuples(
                st.just(name), edits_of(root / base / name, SCHEMAS.get(Path(name).name, []))
            )
        )
        edits = st.lists(edit, min_size=1, max_size=2).map(tuple)
        strategies.append(
            st.builds(Case, st.just(base), edits, st.just(()) if words is None else words)
        )
    return st.one_of(strategies)


def run_model(root: Path, case: Case) -> None:
    model = unmask.load_model(root / "case")
    prompts = ["ab", CHAT]
    unmask.generate(model, prompts, "confidence:2", max_new_tokens=4)


def run_policy(root: Path, case: Case) -> None:
    directory = str(root / "case")
    policy = unmask.load_policy(directory + case.words[0])
    model = tiny_model(str(root.parent / "good" / "tiny"))
    unmask.generate(model, ["7 a ="], policy, max_new_tokens=4)


def run_results(root: Path, case: Case) -> None:
    command, *rest = case.words
    words = ["--results", str(root / "case"), *rest]
    if command != "compare":
        words += ["--out", str(root / ("figure.png" if command == "plot" else "analysis"))]
    call(command, *words)


def run_ledger(root: Path, case: Case) -> None:
    model = str(root.parent / "good" / "tiny")
    call("evaluate", "--out", str(root / "case"), *EVALUATION, "--model", model, "--resume")


def run_training(root: Path, case: Case) -> None:
    call("train", "--resume", str(root / "case"))


def run_pretraining(root: Path, case: Case) -> None:
    words = ["--width", "16", "--layers", "2", "--heads", "2", "--batch-size", "2", "--steps", "4"]
    call("pretrain", "--out", str(root / "case"), *words, "--resume", "--save-every", "2")


def run_prompts(root: Path, case: Case) -> None:
    model = str(root.parent / "good" / "tiny")
    words = ["--prompts", str(root / "case" / "prompts.jsonl"), "--max-new-tokens", "2"]
    call("generate", "--model", model, *words)


def run_yaml(root: Path, case: Case) -> None:
    model = str(root.parent / "good" / "tiny")
    path = str(root / "case" / "options.yaml")
    call("generate", "--config", path, "--model", model, "--max-new-tokens", "2")


def run_words(root: Path, case: Case) -> None:
    call(*(word.replace("GOOD", str(root.parent / "good")) for word in case.words))


NUMBERS = (
    "-1", "0", "nan", "inf", "-inf", "1e300", "1e-300", "10000000", "1" * 20, "9" * 5000, "",
    "x", "None", "0x10", "1_0", "٣", "1.5", "-0.0", "True", "4 4", "[]", "99999999999999999999",
)  # fmt: skip
NAMES = (
    "", " ", ".", "..", "/", "/dev/null", "/proc/1/mem", "a" * 5000, "a/" * 3000, "\ud800", "a\0b",
    "GOOD/tiny", "GOOD/policy", "GOOD/tiny/config.json", "hf:", "hf:/", "hf:a", "~nobody", "meta",
    "gpu", "cuda:99", "tpu", "embedded/", "embedded/x", "embedded/../x", "threshold:", "entropy:-1",
    "confidence:" + "9" * 23, "confidence:0", "threshold:1e300", "random:x", "factor:nan",
    "margin:1@block_length=0", "margin:1@x=1", "@", "@alpha=1", ":", "jsonl:", "jsonl:nothing",
    "reasoning_gym:", "reasoning_gym:x", "chain+", "+", "chain:0", "chain:-1+sudoku", "chain:nan",
    "GOOD/policy@alpha=1e300", "GOOD/policy@beta=0", "GOOD/policy@temperature=nan",
    "GOOD/policy@zero=x", "GOOD/policy-range@alpha=1e300", "GOOD/policy-range@nfe=1e300",
    "GOOD/policy-range@nfe=nan", "GOOD/policy-range@alpha=-1", "GOOD/policy@alpha=9" + "9" * 400,
)  # fmt: skip
BASES: dict[str, tuple[str, ...]] = {
    "generate": ("7 a =", "--model", "GOOD/tiny", "--max-new-tokens", "2"),
    "evaluate": ("--model", "GOOD/tiny", "--prompts", "1", "--max-new-tokens", "2", "--samplers",
                 "confidence:2", "--out", "out"),
    "train": ("--model", "GOOD/tiny", *TRAINING, "--rounds", "1", "--out", "out"),
    "pretrain": ("--width", "16", "--layers", "1", "--heads", "2", "--batch-size", "2", "--steps",
                 "1", "--out", "out"),
    "compare": ("--results", "GOOD/evaluation", "--first", "confidence:8", "--second", "random:8"),
    "plot": ("--results", "GOOD/evaluation", "--out", "figure.png"),
    "analyze": ("--results", "GOOD/evaluation", "--out", "out"),
    "import-policy": ("GOOD/policy/model.safetensors", "out"),
    "push": ("GOOD/policy", "owner/name", "--dry-run"),
}  # fmt: skip


def options_of(command: str) -> list[tuple[str, Any]]:
    """The flags of a command with the types of their values."""
    import importlib

    from unmask.cli.config_file import option_types

    module = importlib.import_module(f"unmask.cli.{command.replace('-', '_')}")
    kinds = option_types(getattr(module.Config, "__wrapped__", module.Config))
    skipped = ("show", "delay", "revision", "compile", "allow_code_execution", "repository")
    return [
        ("--" + name.replace("_", "-"), kind) for name, kind in kinds.items() if name not in skipped
    ]


def command_words(root: Path) -> st.SearchStrategy[Case]:
    """Command lines with one or two odd values."""
    lines = []
    for command, base in BASES.items():
        flags = [flag for flag, _ in options_of(command)]
        value = st.sampled_from(NUMBERS) | st.sampled_from(NAMES)
        pair = st.tuples(st.sampled_from(flags), value)
        pairs = st.lists(pair, min_size=1, max_size=2).map(
            lambda ps: tuple(w for p in ps for w in p)
        )
        lines.append(pairs.map(lambda ps, c=command, b=base: Case(words=(c, *b, *ps))))
    loose = st.lists(st.sampled_from(NAMES) | st.sampled_from(NUMBERS), min_size=1, max_size=3)
    loose = loose.filter(lambda words: words[0] not in BASES)
    return st.one_of(*lines, *lines, *lines, loose.map(lambda words: Case(words=tuple(words))))


SETTINGS = st.sampled_from(
    ("", "", "", *(name[11:] for name in NAMES if name[:12] == "GOOD/policy@"))
)
RESULTS = st.sampled_from((
    ("compare", "--first", "confidence:8", "--second", "random:8"), ("analyze",), ("plot",),
    ("plot", "--against", "seconds"),
))  # fmt: skip
YAML_LINES = (
    "\nseed: 1e400\n", "\ntemperature: .nan\n", "\n? [a]\n: 1\n", "\na: &a [*a]\n", "\n\t- a\n",
    "\nx: !!python/object:os.system {}\n", "\nseed: 2020-99-99\n", "\n\ud800: 1\n",
    "\na: &a [1,1]\nb: &b [*a,*a]\nseed: [*b,*b]\n", "\nseed: null\n", "\npolicy: 3\n",
    "\nmax-new-tokens: 99999999999999999999\n", "\nprompt: {a: 1}\n", "\nstop: [1, 2]\n",
    "\nseed: " + "9" * 5000 + "\n", "\n" + "x" * 5000 + ": 1\n", "\n: 1\n", "\n3: 1\n",
)  # fmt: skip


def odd_options(root: Path) -> st.SearchStrategy[Case]:
    """Option files that are damaged, or have an odd line more."""
    lines = st.sampled_from([line.encode("utf-8", "surrogatepass") for line in YAML_LINES])
    flags = [flag.removeprefix("--") for flag, _ in options_of("generate")]
    value = st.sampled_from(NUMBERS + NAMES) | st.sampled_from(("[]", "[1, 2]", "{}", "null"))
    pairs = st.tuples(st.sampled_from(flags), value).map(lambda pair: "\n{}: {}\n".format(*pair))
    lines |= pairs.map(lambda text: text.encode("utf-8", "surrogatepass"))
    edits = lines.map(lambda line: (("options.yaml", Edit("append", value=line)),))
    return st.one_of(damaged(root, ["yaml"]), edits.map(lambda edits: Case("yaml", edits)))


MODELS = [*checkpoints.MAKERS, "dream-slow", "llada-shards", "tiny"]
KINDS: dict[str, Kind] = {
    "models": Kind(lambda root: damaged(root, MODELS), run_model),
    "policies": Kind(
        lambda root: damaged(root, ["policy", "policy-range"], SETTINGS.map(lambda s: (s,))),
        run_policy,
    ),
    "results": Kind(lambda root: damaged(root, ["evaluation"], RESULTS), run_results),
    "ledgers": Kind(lambda root: damaged(root, ["ledger"]), run_ledger),
    "training runs": Kind(lambda root: damaged(root, ["run"]), run_training),
    "pre-training runs": Kind(lambda root: damaged(root, ["pretraining"]), run_pretraining),
    "prompts": Kind(lambda root: damaged(root, ["prompts"]), run_prompts),
    "option files": Kind(odd_options, run_yaml),
    "command lines": Kind(command_words, run_words),
}


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Every path below a directory with its bytes."""
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(directory.rglob("*"))
    }


def run_case(root: Path, kind: Kind, case: Case) -> str:
    """Runs a case in `root/work`, beside the good files in `root/good`: "accepted", "refused" or
    "leftovers".

    Raises:
        Exception: any that is no sentence.
    """
    work, before = root / "work", Path.cwd()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if case.base:
        shutil.copytree(root / "good" / case.base, work / "case")
        for name, edit in case.edits:
            apply_edit(work / "case" / name, edit)
    files = snapshot(work)
    os.chdir(work)
    try:
        kind.run(work, case)
        return "accepted"
    except (UnmaskError, Refused) as error:
        assert "\n" not in str(error).rstrip("\n"), str(error)
        return "refused" if snapshot(work) == files else "leftovers"
    finally:
        os.chdir(before)
