"""The command itself: it answers at once, knows which options were given, and takes Ctrl-C."""

import ast
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from unmask.cli import COMMANDS, given_options, main
from unmask.cli.arguments import complaint_sentence, take_config_file

HEAVY_MODULES = ("torch", "transformers", "accelerate", "numpy", "matplotlib", "pydantic", "yaml")
# Commands whose module still imports the heavy packages before it knows its options.

DRIVER = f"""
import sys
from unmask.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code or 0
print([name for name in {HEAVY_MODULES!r} if name in sys.modules], code, sep="\\n")
"""


def answer_of(*arguments):
    """The heavy modules loaded, the exit code and the standard error of one command."""
    command = [sys.executable, "-c", DRIVER, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    *_, modules, code = result.stdout.splitlines()
    return ast.literal_eval(modules), int(code), result.stderr


def test_a_full_gpu_gets_one_sentence(monkeypatch, capsys):
    def fill(arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("unmask.cli.run_words", fill)
    assert main(["generate", "x"]) == 2
    assert "the GPU has not enough free memory" in capsys.readouterr().err

    def fail(arguments):
        raise RuntimeError("a defect")

    monkeypatch.setattr("unmask.cli.run_words", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["generate", "x"])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_the_list_of_commands_is_light(arguments):
    assert answer_of(*arguments) == ([], 0 if arguments else 2, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_usage_errors_are_light(command):
    assert answer_of(command, "--help") == ([], 0, "")
    modules, code, error = answer_of(command, "--no-such-option")
    assert (modules, code) == ([], 2)
    assert error.startswith(f"unmask {command}: ") and error.count("\n") == 1
    assert f"see `unmask {command} --help`" in error


def test_an_unknown_command_is_light():
    modules, code, error = answer_of("fly")
    assert (modules, code) == ([], 2)
    assert error.startswith("unmask fly: command 'fly' is not known") and error.count("\n") == 1


def test_only_a_config_file_needs_the_libraries_that_read_it(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("speed: 3\n", encoding="utf-8")
    modules, code, error = answer_of("generate", "--config", str(file))
    assert (modules, code) == (["pydantic", "yaml"], 2)
    assert "unknown options (speed)" in error


def test_options_that_were_given_are_known_by_name():
    words = ["a prompt", "--block-length", "4", "--alpha=3", "--no-traces", "--seeds", "0", "-1"]
    assert given_options(words) == {"block_length", "alpha", "traces", "seeds"}
    assert given_options(["--eos", "last", "--", "--not-an-option"]) == {"eos"}
    assert given_options([]) == frozenset()


def test_a_command_is_told_which_options_were_given(monkeypatch, tmp_path):
    seen = []

    def run(config, given):
        seen.append((config.decode.max_new_tokens, given))

    monkeypatch.setattr("unmask.cli.generate.run", run)
    file = tmp_path / "file.yaml"
    file.write_text("batch-size: 3\nmax_new_tokens: 8\n", encoding="utf-8")
    assert main(["generate", "x", "--gen-length", "16", "--seed=0", "--config", str(file)]) == 0
    assert seen == [(16, {"max_new_tokens", "seed", "batch_size"})]


def test_the_last_config_file_counts():
    words = ["a", "--config", "one.yaml", "--config=two.yaml", "--seed", "1"]
    assert take_config_file(words) == (["a", "--seed", "1"], "two.yaml")


@pytest.mark.parametrize("step", ["importing", "running"])
def test_an_interrupt_is_one_line(monkeypatch, capsys, step):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    if step == "importing":
        monkeypatch.setattr("importlib.import_module", interrupt)
    else:
        monkeypatch.setattr("unmask.cli.push.run", interrupt)
    assert main(["push", "directory", "owner/name"]) == 130
    assert capsys.readouterr().err == "unmask push: interrupted\n"


@pytest.mark.parametrize("seconds", [0.4, 1.6])
def test_an_interrupt_while_torch_is_imported_is_one_line(seconds):
    command = [sys.executable, "-m", "unmask.cli", "generate", "7 a +5 b *3 ="]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    # Python ends itself by the signal if the interrupt came inside code that an import compiles.
    finished = process.returncode == 0 and error == ""
    interrupted = process.returncode in (130, -signal.SIGINT)
    assert finished or (interrupted and error == "unmask generate: interrupted\n"), error


def test_a_word_that_is_too_long_to_read_is_cut_in_the_sentence(tmp_path, capsys):
    for words in (
        ["compare", "--results", "a/" * 2500, "--first", "x", "--second", "y"],
        ["analyze", "--results", "9" * 5000],
        ["generate", "x", "--model", "m" * 5000],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"unmask {words[0]}: ") and len(error) < 1000


@pytest.mark.parametrize("rule", ["─", "-"])
def test_a_complaint_of_the_parser_is_its_sentence_alone(rule):
    """Without the frame, the rules and the list of types, also where a frame is of hyphens."""
    edge = "│" if rule == "─" else "|"
    lines = [
        "Error parsing --limit: no type matching FLOAT could be",
        "instantiated from ['x'].",
        "",
    ]
    lines += [
        "Got errors:",
        "- <class 'float'>: could not convert",
        40 * rule,
        "Argument helptext:",
    ]
    box = "\n".join([f"╭─ Value error {rule * 20}╮", *(f"{edge} {line} {edge}" for line in lines)])
    sentence = "Error parsing --limit: no type matching FLOAT could be instantiated from ['x']"
    assert complaint_sentence(box) == sentence
    box = f"top\n{edge} {40 * rule} {edge}\n{edge} Unrecognized options: --nothing {edge}"
    assert complaint_sentence(box) == "Unrecognized options: --nothing"


def test_a_warning_is_printed_once_though_a_library_changes_the_filters_in_between():
    program = """
import warnings
from unmask.cli import short_warnings
with short_warnings():
    for text in ("few rows", "few rows", "long prompt", "few rows"):
        with warnings.catch_warnings():  # which makes Python forget what it has printed
            warnings.warn(text)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "warning: few rows\nwarning: long prompt\n"
