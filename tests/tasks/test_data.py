"""What is seen of data before it is used, and what reading it leaves behind."""

import json
import re
import subprocess
import sys
import time
import warnings

import datasets
import pytest

from unmask import UnmaskError, load_task
from unmask.tasks import Example
from unmask.tasks.examples import SPLITS
from unmask.tasks.jsonl import split_examples
from unmask.tasks.rows import Row, make_examples


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_rows(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_task(directory, name, answers):
    """Test files of a task with these true answers."""
    rows = {
        "gsm8k": [{"question": f"q{i}", "answer": f"so\n#### {a}"} for i, a in enumerate(answers)],
        "math500": [
            {"problem": f"q{i}", "solution": f"so {a}", "answer": a} for i, a in enumerate(answers)
        ],
        "math": [
            {"problem": f"q{i}", "level": "1", "type": "t", "solution": rf"so \boxed{{{a}}}"}
            for i, a in enumerate(answers)
        ],
    }[name]
    write_rows(directory / name / "test.jsonl", rows)


UNREADABLE = {"gsm8k": "none", "math": "", "math500": "  "}


@pytest.mark.parametrize("name", UNREADABLE)
def test_problems_without_a_readable_answer_are_named_and_left_out(name, tmp_path):
    write_task(tmp_path, name, ["1", UNREADABLE[name], "3"])
    with pytest.warns(UserWarning, match=rf"{name}: 1 of 3 examples .*split test.*'q1") as caught:
        examples = load_task(name, data_dir=tmp_path).examples("test", 10)
    assert [e.prompt[:2] for e in examples] == ["q0", "q2"]
    assert sum("cannot be used" in str(w.message) for w in caught) == 1
    write_task(tmp_path, name, [UNREADABLE[name]])
    with pytest.raises(UnmaskError, match=r"1 of 1 examples cannot be used \(split test\)"):
        load_task(name, data_dir=tmp_path).examples("test", 10)


@pytest.mark.parametrize(("verifier", "answer"), [("number", "many"), ("math", " ")])
def test_own_problems_without_a_readable_answer_are_left_out(verifier, answer, tmp_path):
    right = {"number": "5", "math": r"\pi"}[verifier]
    rows = [
        {"prompt": f"q{i}", "answer": answer if i == 7 else right, "verifier": verifier}
        for i in range(40)
    ]
    rows.append({"prompt": "say nothing", "answer": "", "verifier": "text"})
    write_rows(tmp_path / "mine.jsonl", rows)
    task = load_task(f"jsonl:{tmp_path}/mine.jsonl")
    with pytest.warns(UserWarning, match="1 of 41"):
        found = [e for s in ("train", "validation", "test") for e in task.examples(s, 100)]
    assert {e.prompt for e in found} == {row["prompt"] for row in rows} - {"q7"}


class Named(Row):
    name: str


def test_rows_that_can_be_used_stay_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = [{"name": "a", "other": 1}]
        found = make_examples("t", "train", rows, Named, lambda row: Example(row.name, "1"))
        assert found == [Example("a", "1")]


GOOD_ROWS = {
    "gsm8k": {"question": "q", "answer": "so\n#### 1"},
    "math": {"problem": "q", "solution": r"so $\boxed 2$."},
    "math500": {"problem": "q", "solution": "so 2", "answer": "2"},
    "humaneval": {
        "prompt": "def f():\n",
        "canonical_solution": "    return 1\n",
        "test": "def check(candidate):\n    assert candidate() == 1\n",
        "entry_point": "f",
    },
    "mbpp": {
        "text": "q",
        "code": "def f():\n    return 1",
        "test_list": ["assert f() == 1"],
        "test_setup_code": "",
    },
    "kodcode": {
        "question": "q",
        "solution": "def f():\n    return 1",
        "test": "from solution import f\n\ndef test_f():\n    assert f() == 1\n",
        "test_info": [{"function_name": "f", "function_declaration": "def f():"}],
    },
}
# Values that no column of text may have.
DAMAGED = (None, 5, 1.5, True, [], {}, ["a"], "", "  ", "a\ud800")
OTHER_DAMAGE = [
    ("gsm8k", {"answer": "so\n#### none"}, "' none'"),
    ("gsm8k", {"answer": "so\n#### 1 of 2"}, "1 of 2"),
    ("math", {"solution": "no box at all"}, "no .boxed"),
    ("math", {"solution": r"so \boxed{}"}, "empty"),
    ("math", {"solution": r"so \boxed{1"}, "no .boxed"),
    ("humaneval", {"entry_point": "g"}, "entry point"),
    ("humaneval", {"test": "assert True"}, "define check"),
    ("humaneval", {"test": "def check(candidate:\n"}, "no Python"),
    ("humaneval", {"prompt": "def f(:\n"}, "no Python"),
    ("mbpp", {"test_list": []}, "empty"),
    ("mbpp", {"test_list": [None]}, "test_list"),
    ("mbpp", {"test_list": ["assert ("]}, "no Python"),
    ("mbpp", {"test_setup_code": "import ("}, "no Python"),
    ("mbpp", {"test_setup_code": 5}, "test_setup_code"),
    ("kodcode", {"test_info": [{"function_name": None}]}, "test_info"),
    ("kodcode", {"test_info": 5}, "test_info"),
]
OTHER_DAMAGE += [
    (name, {column: value}, f"column {column}")
    for name, row in GOOD_ROWS.items()
    for column, good in row.items()
    for value in DAMAGED
    if isinstance(good, str) and column != "test_setup_code"
]


def load_rows(directory, name, rows):
    """The examples of the split that all these rows are in, and what was said."""
    split = "train" if name == "kodcode" else "test"
    write_rows(directory / name / f"{split}.jsonl", rows)
    task = load_task(name, data_dir=directory, allow_code_execution=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if split == "train":
            found = [e for s in SPLITS for e in task.source.rows(s)]
        else:
            found = task.examples(split, 1)
    return found, [str(w.message) for w in caught if "cannot be used" in str(w.message)]


@pytest.mark.parametrize("name", GOOD_ROWS)
def test_damaged_rows_are_named_counted_and_left_out(name, tmp_path):
    good = GOOD_ROWS[name]
    assert load_rows(tmp_path, name, [good]) and not load_rows(tmp_path, name, [good])[1]
    for other, change, said in OTHER_DAMAGE:
        if other != name:
            continue
        found, messages = load_rows(tmp_path, name, [good | change, good])
        assert len(found) == 1 and len(messages) == 1, change
        assert f"{name}: 1 of 2" in messages[0] and "number 1" in messages[0]
        assert re.search(said, messages[0]), (change, messages[0])
        with pytest.raises(UnmaskError, match=f"task {name}: 1 of 1"):
            load_rows(tmp_path, name, [good | change])
    for line in ("{broken", "[1]", "5", "null", '"text"'):
        write_rows(tmp_path / name / "test.jsonl", [good])
        file = tmp_path / name / ("train.jsonl" if name == "kodcode" else "test.jsonl")
        file.write_text(line + "\n" + json.dumps(good) + "\n", "utf-8")
        task = load_task(name, data_dir=tmp_path, allow_code_execution=True)
        with pytest.warns(UserWarning, match="1 of 2 .* no object"):
            assert (
                [e for s in SPLITS for e in task.source.rows(s)]
                if name == "kodcode"
                else (task.examples("test", 1))
            )
        file.write_text(line + "\n", "utf-8")
        with pytest.raises(UnmaskError, match="cannot be read as JSON lines"):
            load_task(name, data_dir=tmp_path, allow_code_execution=True).examples(
                "train" if name == "kodcode" else "test", 1
            )


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_nothing(tmp_path):
    rows = [{"prompt": f"a{i}\u2028b\u0085c", "answer": "1"} for i in range(4)]
    text = "\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "mine.jsonl").write_text(text, "utf-8")
    task = load_task(f"jsonl:{tmp_path}/mine.jsonl@verifier=number,split=test")
    assert [e.prompt for e in task.examples("test", 4)] == [row["prompt"] for row in rows]


def test_a_json_file_with_a_list_is_read(tmp_path):
    rows = [{"prompt": f"q{i}", "answer": i, "verifier": "number"} for i in range(4)]
    (tmp_path / "mine.json").write_text(json.dumps(rows, indent=1), "utf-8")
    found = load_task(f"jsonl:{tmp_path}/mine.json@split=test").examples("test", 4)
    assert [e.answer for e in found] == ["0", "1", "2", "3"]


def own_file(directory, n, **columns):
    file = directory / "mine.jsonl"
    write_rows(file, [{"prompt": f"q{i}", "answer": "5"} | columns for i in range(n)])
    return file


@pytest.mark.parametrize("n", [3, 4, 5, 10, 16, 40, 200])
def test_each_part_of_a_small_file_has_something(n, tmp_path):
    task = load_task(f"jsonl:{own_file(tmp_path, n)}@verifier=number")
    parts = [{e.prompt for e in task.source.rows(split)} for split in SPLITS]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == n
    assert len(parts[0]) >= n // 2 or n < 4
    assert len({e.prompt for e in task.batch(4, 0, 0)}) == min(4, len(parts[0]))


def test_the_parts_do_not_depend_on_the_order_of_the_lines():
    examples = [Example(f"q{i}", "1", key=f"q{i}") for i in range(7)]
    one, other = split_examples("t", examples), split_examples("t", examples[::-1])
    for split in SPLITS:
        assert {e.prompt for e in one[split]} == {e.prompt for e in other[split]}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("n", [1, 2])
def test_a_file_that_is_too_small_is_refused_before_anything_starts(n, split, tmp_path):
    task = load_task(f"jsonl:{own_file(tmp_path, n)}@verifier=number")
    with pytest.raises(UnmaskError, match=rf"has {n} usable lines? .*at least 3 .*split=test"):
        task.examples(split, 1)


def test_a_task_without_a_usable_row_draws_nothing_at_once(tmp_path):
    for columns, said in (
        ({"answer": "many"}, "5 of 5 .*'many' is no number"),
        ({"prompt": ""}, "5 of 5 .*prompt: it is empty"),
        ({"prompt": "the same"}, "has 1 usable line "),
    ):
        task = load_task(f"jsonl:{own_file(tmp_path, 5, **columns)}@verifier=number")
        for draw in (lambda: next(task.stream("train")), lambda: task.batch(2, 0, 0)):  # noqa: B023
            with pytest.raises(UnmaskError, match=said):
                draw()


def test_a_whole_file_is_the_test(tmp_path):
    file = own_file(tmp_path, 100, verifier="number")
    with pytest.warns(UserWarning, match=r"has 1\d test examples .* 1000 were asked for"):
        assert len(load_task(f"jsonl:{file}").examples("test", 1000)) < 20
    task = load_task(f"jsonl:{file}@split=test")
    assert len(task.examples("test", 100)) == 100
    with pytest.raises(UnmaskError, match=r"all lines .* are test problems"):
        task.examples("train", 1)
    assert task.name == f"jsonl:{file}@split=test"


def test_lines_with_equal_prompts_are_counted(tmp_path):
    rows = [{"prompt": f"q{i % 8}", "answer": "5", "verifier": "text"} for i in range(10)]
    write_rows(tmp_path / "mine.jsonl", rows)
    with pytest.warns(UserWarning, match="2 of 10 lines have the prompt of an earlier line"):
        load_task(f"jsonl:{tmp_path}/mine.jsonl").examples("train", 1)


def test_settings_of_a_task(tmp_path):
    (tmp_path / "prompt.txt").write_text("Question: {question}\nWrite \\boxed{}.\nAnswer:", "utf-8")
    write_rows(
        tmp_path / "gsm8k" / "test.jsonl", [{"question": "1 + {question}?", "answer": "#### 1"}]
    )
    plain = load_task("gsm8k", data_dir=tmp_path)
    own = load_task(f"gsm8k@template={tmp_path}/prompt.txt,chat=no", data_dir=tmp_path)
    (example,) = own.examples("test", 1)
    assert example.prompt == "Question: 1 + {question}?\nWrite \\boxed{}.\nAnswer:"
    assert example.system is None and plain.examples("test", 1)[0].system == ""
    assert own.template.startswith("own@") and own.template.endswith("(no chat)")
    assert plain.template == "gsm8k@1"
    assert example.split() == plain.examples("test", 1)[0].split()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gsm8k@chat=maybe", "chat=maybe"),
        ("gsm8k@chat=no,chat=no", "twice"),
        ("gsm8k@chat=no,colour=red", "colour=red"),
        ("gsm8k@verifier=number", "for jsonl:FILE"),
        ("gsm8k@template=nowhere.txt", "cannot be read"),
        ("chain@chat=no", "takes no settings"),
        ("jsonl:FILE@verifier=magic", "'magic' is not known"),
        ("jsonl:FILE@split=train", "split=train"),
        ("jsonl:FILE@template=EMPTY", "no field"),
    ],
)
def test_bad_settings_are_refused(name, said, tmp_path):
    (tmp_path / "empty.txt").write_text("{question}", "utf-8")
    file = own_file(tmp_path, 5, verifier="text")
    name = name.replace("FILE", str(file)).replace("EMPTY", f"{tmp_path}/empty.txt")
    with pytest.raises(UnmaskError, match=said):
        load_task(name, data_dir=tmp_path).examples("train", 1)


@pytest.mark.parametrize("file", ["my+file.jsonl", "my:2.jsonl", "a@chat=no.jsonl", "a+b+c.jsonl"])
def test_files_may_have_names_with_signs(file, tmp_path):
    write_rows(
        tmp_path / file, [{"prompt": f"q{i}", "answer": "5", "verifier": "text"} for i in range(9)]
    )
    name = f"jsonl:{tmp_path}/{file}"
    assert load_task(name).examples("train", 1)
    mixed = load_task(f"chain:3+{name}:2")
    assert {e.task for e in mixed.batch(50, 0, 0)} == {"chain", name}
    assert load_task(f"{name}@verifier=text+chain").batch(4, 0, 0)


def test_a_large_file_is_read_in_little_memory(tmp_path):
    file = own_file(tmp_path, 50_000, verifier="text")
    code = (
        "import resource, sys; from unmask import load_task; import unmask.tasks.jsonl;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "load_task(sys.argv[1]).examples('test', 5);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, f"jsonl:{file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KiB


@pytest.mark.parametrize("hidden", [False, True])
def test_progress_bars_are_as_they_were_before(hidden, tmp_path):
    switch = datasets.disable_progress_bars if hidden else datasets.enable_progress_bars
    switch()
    try:
        write_task(tmp_path, "gsm8k", ["1"])
        load_task("gsm8k", data_dir=tmp_path).examples("test", 1)
        assert datasets.are_progress_bars_disabled() == hidden
        with pytest.raises(UnmaskError, match="cannot be read"):
            (tmp_path / "gsm8k" / "test.jsonl").write_text("{broken", "utf-8")
            load_task("gsm8k", data_dir=tmp_path).examples("test", 1)
        assert datasets.are_progress_bars_disabled() == hidden
    finally:
        datasets.enable_progress_bars()


def raise_error(*_):
    raise KeyError("changed")


@pytest.mark.parametrize("score", [lambda *_: 0.0, lambda *_: float("nan"), raise_error])
def test_a_generator_whose_verifier_refuses_its_own_answer_is_refused(monkeypatch, score):
    """A changed library must not look like a model that is always wrong."""
    from reasoning_gym.arithmetic.lcm import LCMDataset

    load_task("reasoning_gym:lcm")
    monkeypatch.setattr(LCMDataset, "score_answer", lambda self, answer, entry: score())
    with pytest.raises(UnmaskError, match="reasoning_gym:lcm does not take the generator's own"):
        load_task("reasoning_gym:lcm")


@pytest.mark.parametrize("name", ["game_of_life_halting", "complex_arithmetic", "coin_flip"])
def test_a_generator_whose_verifier_takes_nonsense_is_refused(name):
    with pytest.raises(UnmaskError, match=f"reasoning_gym:{name} takes '.*' for a right answer"):
        load_task(f"reasoning_gym:{name}")


def test_a_generator_without_answers_of_its_own_is_let_in_but_not_for_pre_training(tmp_path):
    from unmask.cli import main

    task = load_task("reasoning_gym:rush_hour")
    assert task.examples("train", 1)[0].answer == "" and not task.has_answers
    assert load_task("reasoning_gym:lcm").has_answers
    command = ["pretrain", "--task", "reasoning_gym:rush_hour", "--steps", "2"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["lcm", "spell_backward", "gsm_symbolic", "acre"])
def test_problems_are_those_of_the_library(name):
    """Whether parts share what they hold or not."""
    import reasoning_gym as gym

    from unmask.tasks.reasoning_gym import PREPARED, SIZE, read_parts

    size = PREPARED.get(name, SIZE)
    expected = gym.create_dataset(name, size=size, seed=3 * size)
    found = read_parts(gym, name, size)(3)
    for place in (0, 7, size - 1):
        assert found[place]["question"] == expected[place]["question"]
        assert found[place]["answer"] == expected[place]["answer"]


def test_a_generator_that_prepares_its_problems_gives_the_first_at_once():
    began = time.perf_counter()
    assert load_task("reasoning_gym:acre").examples("train", 5)
    assert time.perf_counter() - began < 5


def test_own_problems_without_a_verifier_are_told_both_ways_out(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n', encoding="utf-8")
    with pytest.raises(UnmaskError, match=r"no column verifier.*jsonl:FILE@verifier=number"):
        load_task(f"jsonl:{tmp_path}/mine.jsonl").examples("train", 1)
