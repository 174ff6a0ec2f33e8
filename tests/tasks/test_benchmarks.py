"""The benchmarks' tasks on small files in the official schemas, written by us: loading, prompting,
scoring, and two rounds of training on each."""

import importlib
import json
import shutil
import sys
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import unmask
import unmask.cli
from unmask import UnmaskError, load_task
from unmask.models.tokenizer import learned_tokenizer
from unmask.pretraining import PretrainConfig
from unmask.pretraining.network import new_model, save_model
from unmask.tasks import prompt_tokens
from unmask.tasks.code import join_program, read_code
from unmask.tasks.examples import SPLITS, split_of
from unmask.tasks.sources import DatasetSource

sandbox = importlib.import_module("unmask.sandbox.check")

DATA = Path(__file__).parents[1] / "data"
TRAINED = ("gsm8k", "math", "mbpp", "kodcode")
TESTED = (*TRAINED, "math500", "humaneval")
CODE = ("humaneval", "mbpp", "kodcode")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path_factory):
    """The Hub is out of reach, and what `datasets` caches goes to a directory of the tests."""
    import datasets

    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets")
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def task(name):
    return load_task(name, data_dir=DATA, allow_code_execution=True)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A model with random weights and a tokenizer that can write anything, with a chat template."""
    directory = tmp_path_factory.mktemp("models") / "small"
    directory.mkdir()
    texts = [e.prompt + e.prefill for name in TESTED for e in task(name).examples("test", 50)]
    tokenizer = learned_tokenizer(texts, 600)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    model = new_model(PretrainConfig(width=32, layers=1, heads=2), tokenizer, 200, 24)
    save_model(model, tokenizer, directory)
    return directory


@pytest.mark.parametrize("name", TESTED)
def test_official_answers_are_right_and_others_wrong(name):
    found = task(name)
    for split in SPLITS if name in TRAINED else ("test",):
        examples = found.examples(split, 100)
        assert examples
        assert found.score_all([e.answer for e in examples], examples) == [1.0] * len(examples)
        others = [e.answer for e in examples[1:] + examples[:1]]
        wrong = [
            "",
            "I do not know.",
            "<answer></answer>",
            *(other for other, e in zip(others, examples, strict=True) if other != e.answer),
        ]
        assert not any(found.score_all(wrong[:3], examples[:1] * 3))
    assert found.examples("test", 3) == found.examples("test", 100)[:3]


def test_a_whole_function_may_begin_with_imports_from_the_future():
    found = task("humaneval")
    example = found.examples("test", 1)[0]
    future = "from __future__ import annotations\n\nimport math\n\n"
    answer = example.answer.replace("from typing import List\n", future)
    assert answer.startswith("from __future__")
    assert found.score_all([answer], [example]) == [1.0]
    assert join_program("P", "f", future + "def f(): pass") == (
        "from __future__ import annotations\nP\n    pass\n\npass\n\nimport math\n\ndef f(): pass"
    )
    for goes_on in ("    return 1\n", "    from math import inf\n    return inf\n"):
        assert join_program("def f():\n", "f", goes_on) == "def f():\n" + goes_on


def test_kodcode_needs_pytest_where_the_checks_run(monkeypatch, tmp_path):
    """Else every program would fail without a word."""
    child = tmp_path / "child"
    shutil.copytree(sandbox.CHILD, child, ignore=shutil.ignore_patterns("__pycache__"))
    text = (child / "checker.py").read_text(encoding="utf-8")
    assert text.count("    import pytest\n") == 1
    (child / "checker.py").write_text(text.replace("import pytest\n", "import no_pytest\n"))
    monkeypatch.setattr(sandbox, "CHILD", child)
    sandbox.require_pytest.cache_clear()
    try:
        with pytest.raises(UnmaskError, match=r"do not run in the sandbox .*No module named"):
            task("kodcode")
    finally:
        sandbox.require_pytest.cache_clear()
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(UnmaskError, match="task kodcode needs the package pytest"):
        task("kodcode")


def test_splits_are_the_official_ones_and_validation_is_not_trained_on():
    gsm8k = {split: {e.prompt for e in task("gsm8k").examples(split, 100)} for split in SPLITS}
    assert (len(gsm8k["train"] | gsm8k["validation"]), len(gsm8k["test"])) == (40, 8)
    assert not gsm8k["train"] & gsm8k["validation"]
    assert (
        len(task("math").examples("test", 100)) == 14
        and len(task("math500").examples("test", 100)) == 6
    )
    assert [len(task("mbpp").examples(split, 100)) for split in SPLITS] == [6, 2, 6]
    kodcode = {split: {e.prompt for e in task("kodcode").examples(split, 100)} for split in SPLITS}
    assert sum(map(len, kodcode.values())) == 40 and all(
        split_of(p) == split for split, ps in kodcode.items() for p in ps
    )
    for name in ("math500", "humaneval"):
        with pytest.raises(UnmaskError, match="tests alone"):
            task(name).examples("train", 1)


def test_training_goes_through_the_rows_in_epochs():
    found = task("gsm8k")
    assert isinstance(found.source, DatasetSource)
    size = len(found.source.rows("train"))
    seen = [e.prompt for step in range(size) for e in found.batch(2, 7, step)]
    assert all(count == 2 for count in Counter(seen).values()) and len(set(seen)) == size
    assert len(set(seen[:size])) == size and seen[:size] != seen[size:]
    halves = [[e.prompt for e in found.batch(2, 7, 3, rank, 2)] for rank in (0, 1)]
    assert halves[0] + halves[1] == [e.prompt for e in found.batch(4, 7, 3)]
    assert found.batch(5, 7, 3) == found.batch(5, 7, 3) != found.batch(5, 8, 3)


def test_mixtures_draw_by_weight_and_score_by_their_own_verifiers():
    mixed = task("gsm8k:3+chain:1")
    drawn = [e for step in range(50) for e in mixed.batch(16, 0, step)]
    share = sum(e.task == "gsm8k" for e in drawn) / len(drawn)
    assert abs(share - 0.75) < 0.06
    own = [e.prompt for e in drawn if e.task == "gsm8k"]
    epochs = Counter(own)
    assert (
        max(epochs.values()) - min(epochs.values()) <= 1
    )  # its part goes through its rows in epochs too
    assert mixed.score_all([e.answer for e in drawn[:40]], drawn[:40]) == [1.0] * 40
    tests = task("gsm8k+math").examples("test", 1000)
    assert Counter(e.task for e in tests) == {"gsm8k": 8, "math": 14}  # both finite: all of both
    assert "gsm8k@1" in mixed.template and mixed.max_new_tokens == 256


# A changed wording gets a new version: then change the name and the sum here.
TEMPLATES = {
    "gsm8k": "gsm8k@1",
    "math": "math@1",
    "humaneval": "humaneval@1",
    "mbpp": "mbpp@1",
    "kodcode": "kodcode@1",
    "math500": "math@1",
}
SUMS = {
    "gsm8k": 1325299007,
    "math": 3072914949,
    "math500": 2756672249,
    "humaneval": 2120694781,
    "mbpp": 3628767284,
    "kodcode": 3256763122,
}


@pytest.mark.parametrize("name", TESTED)
def test_wording_is_fixed_for_a_version(name):
    found = task(name)
    example = found.examples("test", 1)[0]
    assert found.template == TEMPLATES[name]
    assert (
        zlib.crc32(repr((example.system, example.prompt, example.prefill)).encode()) == SUMS[name]
    ), "new wording needs a new version"


def test_prompts_go_through_the_chat_template_where_there_is_one(small_model, tiny_model):
    model = unmask.load_model(small_model)
    example = task("humaneval").examples("test", 1)[0]
    text = model.tokenizer.decode(prompt_tokens(model, example))
    assert text == f"[user] {example.prompt}\n[assistant] ```python\n"
    gym = load_task("reasoning_gym:chain_sum").examples("test", 1)[0]
    assert model.tokenizer.decode(prompt_tokens(model, gym)).startswith("[system] Reason")
    own = replace(
        model, tokenizer=learned_tokenizer([gym.prompt])
    )  # a model that is pre-trained here on such a task knows no chats
    assert own.tokenizer.decode(prompt_tokens(own, gym)) == gym.prompt
    chain = load_task("chain").examples("test", 1)[0]
    assert tiny_model.tokenizer.decode(prompt_tokens(tiny_model, chain)) == chain.prompt


@pytest.mark.parametrize("name", [*TRAINED, "gsm8k:2+math:1", "reasoning_gym:lcm"])
def test_two_rounds_of_training_and_an_evaluation(name, small_model, tmp_path):
    common = [
        "--model",
        str(small_model),
        "--task",
        name,
        "--data-dir",
        str(DATA),
        "--allow-code-execution",
        "--max-new-tokens",
        "24",
    ]
    small = [
        "--rounds",
        "2",
        "--prompts",
        "2",
        "--rollouts",
        "2",
        "--eval-prompts",
        "2",
        "--eval-every",
        "2",
        "--minibatches",
        "1",
        "--width",
        "16",
    ]
    assert unmask.cli.main(["train", *common, *small, "--out", str(tmp_path / "run")]) == 0
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 2 and all(0 <= line["accuracy"] <= 1 and line["nfe"] > 0 for line in lines)
    evaluation = [
        "evaluate",
        *common,
        "--samplers",
        "confidence:8",
        str(tmp_path / "run" / "best"),
        "--prompts",
        "2",
    ]
    assert unmask.cli.main([*evaluation, "--out", str(tmp_path / "eval")]) == 0
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["template"] == task(name).template and len(summary["points"]) == 2


def test_other_file_formats_give_the_same_examples(tmp_path):
    import datasets

    table = datasets.load_dataset(
        "json", data_files=str(DATA / "gsm8k" / "main" / "train.jsonl"), split="train"
    )
    layouts = {
        "parquet": tmp_path / "parquet" / "gsm8k" / "main",
        "arrow": tmp_path / "arrow" / "gsm8k",
        "hub": tmp_path / "hub" / "gsm8k" / "main",
    }
    layouts["parquet"].mkdir(parents=True)
    table.to_parquet(layouts["parquet"] / "train-00000-of-00001.parquet")
    table.save_to_disk(layouts["arrow"] / "train")
    layouts["hub"].mkdir(parents=True)
    table.select(range(30)).to_parquet(layouts["hub"] / "train-00000-of-00002.parquet")
    table.select(range(30, 40)).to_parquet(layouts["hub"] / "train-00001-of-00002.parquet")
    expected = task("gsm8k").batch(16, 0, 0)
    for name in layouts:
        assert load_task("gsm8k", data_dir=tmp_path / name).batch(16, 0, 0) == expected


def test_own_problems_from_a_file(tmp_path):
    rows = [{"prompt": f"{i} + {i}", "answer": str(2 * i), "verifier": "number"} for i in range(60)]
    rows += [
        {"prompt": f"Half of {i}?", "answer": rf"\frac{{{i}}}{{2}}", "verifier": "math"}
        for i in range(1, 60)
    ]
    rows += [
        {"prompt": f"Is {i} even?", "answer": "no" if i % 2 else "yes", "verifier": "text"}
        for i in range(60)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = load_task(f"jsonl:{tmp_path}/mine.jsonl")
    found = {split: {e.prompt for e in mine.examples(split, 1000)} for split in SPLITS}
    assert len(set.union(*found.values())) == sum(map(len, found.values())) == len(rows)
    halves = [e for e in mine.examples("train", 1000) if e.data == "math"][:5]
    assert (
        mine.score_all([rf"\boxed{{{int(e.prompt.split()[2][:-1]) / 2}}}" for e in halves], halves)
        == [1.0] * 5
    )
    assert mine.score_all(["1000001"] * 5, halves) == [0.0] * 5


BROKEN = [
    (lambda d: load_task("gsm8k", data_dir=d), "train files"),
    (lambda d: load_task("gsm8k", data_dir=d / "nowhere"), "does not exist"),
    (lambda d: load_task("mbpp", data_dir=DATA), "--allow-code-execution"),
    (lambda d: load_task("humaneval"), "--allow-code-execution"),
    (lambda d: load_task("reasoning_gym:nonsense"), "chain_sum"),
    (lambda d: load_task("reasoning_gym"), "not known"),
    (lambda d: load_task("jsonl:nowhere.jsonl"), "not a file"),
    (lambda d: load_task("gsm8k+gsm8k", data_dir=DATA), "twice"),
    (lambda d: load_task("gsm8k:0+math", data_dir=DATA), "above 0"),
    (lambda d: load_task("gsm8k:-1+math", data_dir=DATA), "above 0"),
    (lambda d: load_task("gsm8k:nan+math", data_dir=DATA), "above 0"),
    (lambda d: load_task("gsm8k++math", data_dir=DATA), "not known"),
]


@pytest.mark.parametrize(("load", "said"), BROKEN)
def test_one_sentence_for_what_cannot_be_loaded(load, said, tmp_path):
    with pytest.raises(UnmaskError, match=said):
        load(tmp_path).examples("train", 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"question": "a"}\n', "no column answer"),
        ("{broken", "cannot be read"),
        ("", "cannot be read|holds no rows"),
    ],
)
def test_one_sentence_for_a_damaged_file(content, said, tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text(content)
    with pytest.raises(UnmaskError, match=said):
        load_task("gsm8k", data_dir=tmp_path).examples("train", 1)


def test_an_unknown_verifier_and_a_missing_hub_are_told(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "answer": "b", "verifier": "magic"}\n')
    with pytest.raises(UnmaskError, match="magic"):
        load_task(f"jsonl:{tmp_path}/mine.jsonl").examples("train", 1)
    with pytest.raises(UnmaskError, match="--data-dir"):
        load_task("gsm8k").examples("test", 1)


PROGRAM = "def f():\n    return 1\n"


@pytest.mark.parametrize(
    "completion",
    [
        PROGRAM,
        PROGRAM + "```",
        PROGRAM + "```\nThis returns 1.",
        "```python\n" + PROGRAM + "```",
        "```py\n" + PROGRAM + "```\nand\n```python\nother()\n```",
        "```\n" + PROGRAM + "```",
        "Here it is:\n```python\n" + PROGRAM + "```",
        "```python\n" + PROGRAM,
        "\n```python\n" + PROGRAM + "```",
    ],
)
def test_code_is_found_in_a_completion(completion):
    assert read_code(completion).strip("\n") == PROGRAM.strip("\n")


def test_reasoning_gym_generators_draw_split_and_score():
    from reasoning_gym.factory import DATASETS

    slow = {"futoshiki", "arc_agi", "composite"}  # seconds a problem, or in need of arguments
    names = sorted(set(DATASETS) - slow)[:: max(1, len(DATASETS) // 20)]
    for name in ["mini_sudoku", *names]:
        found = load_task(f"reasoning_gym:{name}")
        one, two = found.batch(2, 0, 0), found.batch(2, 0, 0)
        assert [e.prompt for e in one] == [e.prompt for e in two]
        assert found.score("<answer></answer>", one[0]) == 0.0
    sudoku = load_task("reasoning_gym:mini_sudoku")
    examples = sudoku.examples("test", 20)
    assert sudoku.score_all([e.answer for e in examples], examples) == [1.0] * 20
    assert sudoku.score(f"think <answer>{examples[0].answer}</answer>", examples[0]) == 1.0
    assert sudoku.score(examples[0].answer[:-1] + "5", examples[0]) == 0.0
