"""The commands: bad input gives exit code 2 and one sentence and leaves nothing behind; good input
gives what the help promises."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import unmask
from unmask.cli import COMMANDS, main
from unmask.cli.config_file import nested_class, typed_fields
from unmask.processes import computes_bf16

PROMPT = "7 a +5 b *3 ="
SUMMARY = {"model": "m", "task": "t", "split": "test", "max_new_tokens": 48}


@pytest.fixture
def run(capsys, monkeypatch, tmp_path, tiny_dir):
    """Runs a command in an empty directory; MODEL stands for the tiny model. Returns exit code,
    stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = main(
                [str(tiny_dir) if argument == "MODEL" else str(argument) for argument in arguments]
            )
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def refuses(run, *arguments, says=""):
    """Asserts that the command refuses as it should: exit code 2, one line on stderr, no file made
    or changed."""

    def tree():
        return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}

    before = tree()
    code, _, error = run(*arguments)
    assert code == 2, error
    assert error.startswith(f"unmask {arguments[0]}: "), error
    assert error.count("\n") == 1 and error.endswith("\n"), error
    assert "Traceback" not in error
    assert re.search(says, error), error
    assert tree() == before


GENERATE = ("generate", PROMPT, "--model", "MODEL")
EVALUATE = (
    "evaluate",
    "--model",
    "MODEL",
    "--out",
    "out",
    "--prompts",
    "2",
    "--samplers",
    "random:48",
)
TRAIN = ("train", "--model", "MODEL", "--out", "out", "--rounds", "1")
PRETRAIN = ("pretrain", "--out", "out", "--steps", "1")

REFUSED = {
    "unknown command": (("fly",), "'fly' is not known"),
    "no prompts": (("generate", "--model", "MODEL"), "no prompts"),
    "append without infill": ((*GENERATE, "--append", "3"), "without infill"),
    "unknown words": (("generate", "what is love", "--model", "MODEL"), "does not know"),
    "unknown option": ((*GENERATE, "--speed", "3"), "speed"),
    "option without value": ((*GENERATE, "--seed"), "seed"),
    "unknown sampler": ((*GENERATE, "--policy", "magic:3"), "magic:3"),
    "unknown sampler in a list": ((*EVALUATE, "confidence:1", "magic"), "magic"),
    "no samplers": ((*EVALUATE[:-1],), "sampler"),
    "sampler value is a word": ((*GENERATE, "--policy", "threshold:high"), "high"),
    "K is a fraction": ((*GENERATE, "--policy", "confidence:1.5"), "whole number"),
    "entropy below 0": ((*GENERATE, "--policy", "entropy:-1"), "γ"),
    "factor nan": ((*GENERATE, "--policy", "factor:nan"), "nan"),
    "directory without policy": ((*GENERATE, "--policy", "."), "config.json"),
    "model as policy": ((*GENERATE, "--policy", "MODEL"), "policy"),
    "unknown embedded model": (("generate", PROMPT, "--model", "embedded/none"), "embedded/none"),
    "unknown model directory": (("generate", PROMPT, "--model", "nowhere"), "nowhere"),
    "unknown task": ((*EVALUATE, "--task", "chess"), "chess"),
    "unknown split": ((*EVALUATE, "--split", "dev"), "dev"),
    "seed is a word": ((*GENERATE, "--seed", "one"), "one"),
    "alpha is a word": ((*TRAIN, "--alpha", "big"), "big"),
    "prompts is a fraction": ((*EVALUATE, "--prompts", "2.5"), "2.5"),
    "zero prompts": ((*EVALUATE, "--prompts", "0"), "0"),
    "batch size 0": ((*EVALUATE, "--batch-size", "0"), "batch_size is 0"),
    "buffer of 0": ((*GENERATE, "--max-new-tokens", "0"), "max_new_tokens is 0"),
    "negative buffer": ((*GENERATE, "--max-new-tokens", "-4"), "max_new_tokens is -4"),
    "evaluate with a buffer of 0": ((*EVALUATE, "--max-new-tokens", "0"), "max_new_tokens is 0"),
    "temperature below 0": ((*GENERATE, "--temperature", "-1"), "temperature is -1"),
    "temperature nan": ((*GENERATE, "--temperature", "nan"), "temperature is nan"),
    "alpha below 0": ((*TRAIN, "--alpha", "-0.5"), "alpha is -0.5"),
    "alpha nan": ((*TRAIN, "--alpha", "nan"), "alpha is nan"),
    "lr nan": ((*TRAIN, "--lr", "nan"), "lr is nan"),
    "lr infinite": ((*TRAIN, "--lr", "inf"), "lr is inf"),
    "one rollout": ((*TRAIN, "--rollouts", "1"), "rollouts is 1"),
    "no rounds": ((*TRAIN, "--rounds", "0"), "rounds is 0"),
    "width 0": ((*TRAIN, "--width", "0"), "width"),
    "train with a buffer of 0": ((*TRAIN, "--max-new-tokens", "0"), "max_new_tokens is 0"),
    "train on a task the model does not speak": ((*TRAIN, "--task", "sudoku"), "does not know"),
    "train with seed -1": ((*TRAIN, "--seed", "-1"), "seed"),
    "train with unknown model": (("train", "--model", "nowhere", "--out", "out"), "nowhere"),
    "resume of nothing": (("train", "--resume", "nowhere"), "nowhere"),
    "resume of a model": (("train", "--resume", "MODEL"), "run.json"),
    "pretrain lr nan": ((*PRETRAIN, "--matrix-lr", "nan"), "matrix_lr"),
    "pretrain without cooldown": ((*PRETRAIN, "--cooldown", "-1"), "cooldown"),
    "pretrain warmup below 0": ((*PRETRAIN, "--warmup", "-1"), "warmup"),
    "pretrain suffix share of 2": ((*PRETRAIN, "--suffix-share", "2"), "suffix_share"),
    "pretrain heads": ((*PRETRAIN, "--width", "30", "--heads", "4"), "30"),
    "pretrain unknown task": ((*PRETRAIN, "--task", "chess"), "chess"),
    "pretrain resume of nothing": ((*PRETRAIN, "--resume"), "recipe.json"),
    "demo unknown task": (("demo", "--task", "chess"), "chess"),
    "compare nothing": (("compare",), "no results"),
    "compare what is missing": (("compare", "--results", "nowhere", "--first", "a"), "nowhere"),
    "plot nothing": (("plot",), "no results"),
    "plot of a missing directory": (("plot", "--results", "nowhere"), "nowhere"),
    "plot of a model": (("plot", "--results", "MODEL"), "summary.json"),
    "config without file": (("generate", "--config"), "--config"),
    "missing config file": (("generate", PROMPT, "--config", "none.yaml"), "none.yaml"),
    "unknown dtype": ((*GENERATE, "--dtype", "bfloat17"), "bfloat17"),
    "dtype of something else": ((*GENERATE, "--dtype", "nn"), "nn"),
    "integer dtype": ((*EVALUATE, "--dtype", "int8"), "int8"),
    "unknown device": ((*GENERATE, "--device", "warp:9"), "warp"),
    "evaluate on an unknown device": ((*EVALUATE, "--device", "warp"), "warp"),
    "train on an unknown device": ((*TRAIN, "--device", "warp"), "warp"),
    "pretrain on an unknown device": ((*PRETRAIN, "--device", "warp"), "warp"),
}
REFUSED |= {
    f"threshold {x}": ((*GENERATE, "--policy", f"threshold:{x}"), f"λ.* is {x}")
    for x in ("1.5", "-0.1", "nan")
}
REFUSED |= {
    f"{name} 0": ((*GENERATE, "--policy", f"{name}:0"), f"K of {name} is 0")
    for name in ("random", "confidence", "margin")
}
REFUSED |= {
    f"{c[0]} block length {n}": ((*c, "--block-length", n), f"block_length is {n}")
    for c in (GENERATE, TRAIN)
    for n in (0, 99, -1)
}
REFUSED |= {
    f"evaluate block lengths {n}": ((*EVALUATE, "--block-lengths", "8", n), f"block_length is {n}")
    for n in (0, 49)
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_line(run, name):
    arguments, says = REFUSED[name]
    refuses(run, *arguments, says=says)


@pytest.mark.parametrize("command", [EVALUATE, TRAIN, PRETRAIN], ids=lambda command: command[0])
@pytest.mark.parametrize("out", ["", "file", "full", "file/under", "file/far/under"])
def test_unusable_output_directories_are_refused(run, command, out):
    Path("file").write_text("keep")
    Path("full").mkdir()
    Path("full/other.txt").write_text("keep")
    refuses(run, *command, "--out", out, says="output directory")


@pytest.mark.parametrize("out", ["full", "file/figure.png", "figure.xyz"])
def test_unusable_figures_are_refused(run, out):
    Path("full").mkdir()
    Path("file").write_text("keep")
    point = {
        "sampler": "threshold:0.9",
        "block_length": 48,
        "prompts": 9,
        "seeds": 1,
    } | dict.fromkeys(
        ("accuracy", "accuracy_low", "accuracy_high", "nfe", "nfe_low", "nfe_high"), 0.5
    )
    Path("summary.json").write_text(json.dumps({**SUMMARY, "points": [point]}))
    refuses(run, "plot", "--results", "summary.json", "--out", out, says="figure|pareto|out")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "3",
        json.dumps({**SUMMARY, "points": []}),
        json.dumps({**SUMMARY, "points": None}),
        json.dumps({**SUMMARY, "points": [{"sampler": "a"}]}),
        json.dumps({**SUMMARY, "max_new_tokens": "many", "points": []}),
    ],
)
def test_broken_summaries_are_refused(run, text):
    Path("results").mkdir()
    Path("results/summary.json").write_text(text)
    refuses(run, "plot", "--results", "results", "--out", "figure.png", says="summary.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no `option: value`"),
        ("- a\n- b\n", "no `option: value`"),
        ("prompts: [a\n", "cannot be read as YAML"),
        ("\tseed: 1\n", "cannot be read as YAML"),
        ("speed: 3\nseed: 1\n", "unknown options.*speed"),
        ("seed: many\n", "seed"),
        ("seed: [1]\n", "seed"),
        ("prompts: 7\n", "prompts"),
        ("show: 12\n", "show"),
        (b"\xff\xfe\x00\x81", "cannot be read"),
    ],
)
def test_broken_config_files_are_refused(run, text, says):
    Path("file.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(run, *GENERATE, "--config", "file.yaml", says=f"file.yaml.*{says}|{says}.*file.yaml")


def test_bad_values_in_config_files_are_refused(run):
    Path("file.yaml").write_text("alpha: -1\n")
    refuses(run, *TRAIN, "--config", "file.yaml", says="alpha is -1")


def test_missing_files_of_runs_and_models_are_refused(run, tiny_dir):
    shutil.copytree(tiny_dir, "model")
    Path("model/model.safetensors").write_bytes(Path("model/model.safetensors").read_bytes()[:-64])
    refuses(run, "generate", PROMPT, "--model", "model", says="damaged or truncated")
    Path("model/model.safetensors").unlink()
    refuses(run, "generate", PROMPT, "--model", "model", says="model.safetensors does not exist")
    Path("model/config.json").unlink()
    refuses(run, "generate", PROMPT, "--model", "model", says="config.json does not exist")


def test_causal_models_are_refused(run, tiny_dir):
    shutil.copytree(tiny_dir, "model")
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**config, "is_causal": True}))
    refuses(run, "generate", PROMPT, "--model", "model", says="causal")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"settings": {"speed": 3}}',
        '{"settings": {"alpha": -1}}',
        '{"settings": 3}',
    ],
)
def test_broken_runs_are_not_resumed(run, text):
    Path("run").mkdir()
    Path("run/run.json").write_text(text)
    refuses(run, "train", "--resume", "run", says="run")


def test_a_run_with_a_damaged_checkpoint_is_not_resumed(run, tiny_dir):
    Path("run").mkdir()
    Path("run/run.json").write_text(json.dumps({"settings": {"model": str(tiny_dir), "rounds": 1}}))
    Path("run/checkpoint.safetensors").write_bytes(b"\x10")
    refuses(run, "train", "--resume", "run", says="checkpoint.safetensors.*damaged")


REAL = """
import json, os, runpy, sys
from pathlib import Path
here = Path.cwd()
for number, words in enumerate(json.loads(sys.argv[1])):
    for name in ("1", "2"):
        with open(here / f"{number}.{name}", "w") as file:
            os.dup2(file.fileno(), int(name))
    sys.argv = ["unmask", *words]
    code = 0
    try:
        runpy.run_module("unmask.cli", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    sys.stdout.flush()
    sys.stderr.flush()
    (here / f"{number}.code").write_text(repr(code))
"""


def run_real(directory, *commands):
    """Runs commands as `python -m unmask.cli` does, one after the other in one real process; exit
    code, stdout, stderr of each. The process takes ten seconds to load what the first one needs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    given = json.dumps([[*map(str, command)] for command in commands])
    program = [sys.executable, "-c", REAL, given]
    done = subprocess.run(
        program, cwd=directory, timeout=240, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return [
        (
            int((directory / f"{number}.code").read_text()),
            *((directory / f"{number}.{name}").read_text(encoding="utf-8") for name in "12"),
        )
        for number in range(len(commands))
    ]


def test_a_real_process_refuses_and_answers_and_warns_the_same_way(tmp_path, tiny_dir):
    """Nothing but the sentence, nothing but the answer, and warnings of one line each, without a
    place in the code; whatever packages warn of while they are imported."""
    ask = ("generate", PROMPT, "--model", tiny_dir)
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "7 a +5 =", "answer": "2", "verifier": "number"}\n' * 2)
    evaluate = ("evaluate", "--task", f"jsonl:{own}@split=test", "--samplers", "confidence:48")
    evaluate = (*evaluate, "--max-new-tokens", "48", "--out", tmp_path / "out")
    (tmp_path / "logs").mkdir()
    refused, answered, warned = run_real(
        tmp_path / "logs", (*ask, "--policy", "threshold:1.5"), ask, evaluate
    )
    code, out, error = refused
    assert (code, out) == (2, "")
    assert error.startswith("unmask generate: λ of threshold is 1.5") and error.count("\n") == 1
    code, out, error = answered
    assert (code, error) == (0, "")
    assert out.startswith(f"{PROMPT}  →  ") and out.count("\n") == 1
    code, _, error = warned
    assert code == 0, error
    lines = error.splitlines()
    assert [each for each in lines if each.startswith("warning: ")] == lines and len(lines) == 2
    assert ".py" not in error
    names = [f"{number}.{name}" for number in range(3) for name in ("1", "2", "code")]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == names


def test_help_names_every_command(run):
    for argument in ("--help", "-h"):
        code, out, error = run(argument)
        assert (code, error) == (0, "")
        for name, text in COMMANDS.items():
            assert name in out and text in out
    code, _, _ = run()
    assert code == 2


def option_help(config_class):
    """The string under each field of a dataclass."""
    body = ast.parse(inspect.getsource(config_class)).body[0].body
    pairs = pairwise(body)
    return {
        field.target.id: after.value.value
        for field, after in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def all_option_help(config_class):
    """The same with the fields of nested dataclasses; every field must have a string."""
    texts = option_help(config_class)
    assert set(texts) == set(config_class.__dataclass_fields__)
    for _, kind in typed_fields(config_class):
        if nested := nested_class(kind):
            texts |= all_option_help(nested)
    return texts


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_option(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")  # wider, option groups stand side by side
    code, out, error = run(command, "--help")
    assert (code, error) == (0, "")
    config_class = importlib.import_module(f"unmask.cli.{command.replace('-', '_')}").Config
    texts = all_option_help(config_class)

    def squeezed(text):
        return re.sub(r"[\W_]+", "", text)

    for name, text in texts.items():
        assert squeezed(text) in squeezed(out), name
    assert "--config" in out


def answer(out):
    """Prompt, text, NFE and answer tokens of the last line of `unmask generate`."""
    found = re.fullmatch(
        r"(.*)  →  (.*)   \((\d+) forward pass(?:es)?, (\d+) tokens?\)", out.splitlines()[-1]
    )
    assert found, out
    return found[1], found[2], int(found[3]), int(found[4])


def test_generate_prints_an_answer(run, tiny_model):
    code, out, error = run(
        *GENERATE,
        "--policy",
        "random:10",
        "--max-new-tokens",
        "20",
        "--block-length",
        "5",
        "--dtype",
        "float32",
    )
    assert (code, error) == (0, "")
    expected = unmask.generate(tiny_model, [PROMPT], "random:10", max_new_tokens=20, block_length=5)
    assert answer(out) == (PROMPT, expected.text[0], 4, int(expected.answer_tokens[0]))


def test_generate_uses_the_length_of_the_model(run):
    code, out, _ = run(*GENERATE, "--policy", "confidence:51")
    assert code == 0 and answer(out)[2] == 1


def test_generate_shows_the_canvas(run):
    code, out, error = run(
        *GENERATE, "--show", "--delay", "0", "--policy", "confidence:4", "--max-new-tokens", "10"
    )
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert [line.count("·") for line in lines[:3]] == [6, 2, 0]
    assert answer(out)[2] == 3


def test_config_file_sets_options_and_the_command_line_wins(run, tiny_dir):
    lines = ["policy: confidence:4", "max-new-tokens: 12", "block_length: 6"]
    lines += [f"model: {tiny_dir}", "prompt: ['1 a +1 =']"]
    Path("file.yaml").write_text("\n".join(lines))
    code, out, error = run("generate", "--config", "file.yaml")
    assert (code, error) == (0, "")
    assert (answer(out)[0], answer(out)[2]) == ("1 a +1 =", 4)
    code, out, _ = run("generate", PROMPT, "--config", "file.yaml", "--policy", "confidence:6")
    assert code == 0
    assert (answer(out)[0], answer(out)[2]) == (PROMPT, 2)


def test_config_file_may_be_given_with_an_equals_sign(run, tiny_dir):
    Path("file.yaml").write_text(f"model: {tiny_dir}\npolicy: confidence:6\nmax_new_tokens: 12\n")
    code, out, error = run("generate", PROMPT, "--config=file.yaml")
    assert (code, error) == (0, "")
    assert answer(out)[2:] == (2, 12)


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_what_is_resumed_keeps_its_dtype(run, command):
    """Also on a CPU of another kind, where `auto` is another one."""
    words = (command, "--model", "MODEL", "--prompts", 2, "--samplers", "confidence:24")
    for dtype in ("float32", "bfloat16"):
        assert run(*words, "--out", dtype, "--dtype", dtype)[0] == 0
        code, _, error = run(*words, "--out", dtype, "--resume")
        assert (code, error) == (0, "")
    code, _, error = run(*words, "--out", "float32", "--resume", "--dtype", "bfloat16")
    assert code == 2 and "dtype" in error


def test_evaluate_then_plot(run, tiny_dir):
    samplers, block_lengths = ("confidence:8", "random:16"), (16, 48)
    code, out, error = run(
        *("evaluate", "--model", "MODEL", "--prompts", 6, "--out", "out", "--seeds", 0, 1),
        *("--samplers", *samplers, "--block-lengths", *block_lengths),
    )
    assert (code, error) == (0, "")
    assert all(f"{sampler} " in out for sampler in samplers)

    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * 2 * 6
    assert {tuple(line) for line in lines} == {
        ("sampler", "block_length", "seed", "prompt", "correct", "nfe", "answer_tokens", "answer")
    }
    keys = {(line["sampler"], line["block_length"], line["seed"]) for line in lines}
    assert keys == {(s, b, seed) for s in samplers for b in block_lengths for seed in (0, 1)}
    assert len({line["prompt"] for line in lines}) == 6
    assert {line["nfe"] for line in lines if line["sampler"] == "confidence:8"} == {6}
    assert {line["nfe"] for line in lines if line["sampler"] == "random:16"} == {3}
    assert {line["correct"] for line in lines} <= {0.0, 1.0}

    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["model"] == str(tiny_dir)
    assert (summary["task"], summary["split"], summary["max_new_tokens"], summary["seeds"]) == (
        "chain",
        "test",
        48,
        [0, 1],
    )
    assert set(summary["provenance"]) >= {
        "command",
        "commit",
        "versions",
        "machine",
        "device",
        "dtype",
    }
    dtype = "bfloat16" if computes_bf16(torch.device("cpu")) else "float32"
    assert (summary["provenance"]["device"], summary["provenance"]["dtype"]) == ("cpu", dtype)
    assert [(p["sampler"], p["block_length"], p["nfe"]) for p in summary["points"]] == [
        (s, b, nfe) for s, nfe in (("confidence:8", 6), ("random:16", 3)) for b in block_lengths
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["results.jsonl", "summary.json"]

    code, out, error = run(
        "compare", "--results", "out", "--first", "confidence:8", "--second", "random:16"
    )
    assert (code, error) == (0, "")
    assert len(out.splitlines()) == 2 and all(
        "-3.00 NFE [-3.00, -3.00]" in line for line in out.splitlines()
    )
    refuses(
        run,
        "compare",
        "--results",
        "out",
        "--first",
        "confidence:8",
        "--second",
        "margin:2",
        says="margin:2.*they hold.*random:16",
    )

    code, out, error = run("plot", "--results", "out", "--out", "figures/pareto.png")
    assert (code, error) == (0, "")
    assert "figures/pareto.png" in out
    image = Path("figures/pareto.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n") and len(image) > 10_000


def test_plot_refuses_to_mix_settings(run):
    for name, task in (("one", "chain"), ("two", "sudoku")):
        Path(name).mkdir()
        Path(name, "summary.json").write_text(json.dumps({**SUMMARY, "task": task, "points": []}))
    refuses(run, "plot", "--results", "one", "two", says="one.*two.*differ")
