"""`unmask score`: what it reads and writes."""

import csv
import io
import json
import re

import pyarrow.parquet
import pytest

from unmask.cli import main
from unmask.scoring import bound_likelihood, encode_pair, exact_likelihood

PAIRS = [("7 a +5 =", "# 2"), ("7 a +5 =", "# 3 3"), ("1 b", "+5 = 6")]


@pytest.fixture
def score(tiny_dir, capsys):
    """Runs `unmask score` on the tiny model: exit code, output and error."""

    def score(*arguments):
        code = main(["score", "--model", str(tiny_dir), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return score


def test_the_command_writes_what_the_functions_find(score, tiny_model, tmp_path):
    lines = [json.dumps({"prompt": prompt, "continuation": text}) for prompt, text in PAIRS[1:]]
    chat = [{"role": "user", "content": PAIRS[0][0]}]
    lines.append(json.dumps({"messages": chat, "continuation": PAIRS[0][1]}))
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [encode_pair(tiny_model, *pair) for pair in (*PAIRS, (chat, PAIRS[0][1]))]
    common = (*PAIRS[0], "--texts", tmp_path / "in.jsonl", "--output")
    for name, options, expected in (
        ("bound", (), bound_likelihood(tiny_model, texts)),
        ("drawn", ("--samples", 4), bound_likelihood(tiny_model, texts, samples=4)),
        ("order", ("--order", "left-to-right"), exact_likelihood(tiny_model, texts)),
        (
            "policy",
            ("--order", "confidence:1", "--block-length", 2, "--batch-size", 2),
            exact_likelihood(tiny_model, texts, "confidence:1", block_length=2),
        ),
    ):
        code, out, error = score(*common, tmp_path / name, *options)
        assert (code, error) == (0, "") and "4 texts written to" in out
        records = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert [record["continuation"] for record in records] == [
            text for _, text in (*PAIRS, PAIRS[0])
        ]
        assert records[3]["prompt"] == chat
        for record, found in zip(records, expected, strict=True):
            values = {**vars(found), "per_token": found.per_token}
            assert {key: record[key] for key in values} == values
    assert any(each.standard_error for each in bound_likelihood(tiny_model, texts, samples=4))


def test_answers_are_scored_on_a_canvas_of_their_own_length(score, tiny_model, tmp_path):
    for options, order in (((), None), (("--order", "confidence:1"), "confidence:1")):
        path = tmp_path / str(order)
        code, _, error = score(*PAIRS[0], "--max-new-tokens", 6, "--output", path, *options)
        assert (code, error) == (0, "")
        text = encode_pair(tiny_model, *PAIRS[0], max_new_tokens=6)
        assert text.targets[2:] == (tiny_model.eos_ids[0],) * 4
        if order is None:
            (found,) = bound_likelihood(tiny_model, [text])
        else:
            (found,) = exact_likelihood(tiny_model, [text], order)
        record = json.loads(path.read_text(encoding="utf-8"))
        assert (record["log_likelihood"], record["tokens"]) == (found.log_likelihood, 6)
    code, _, error = score(*PAIRS[0], "--max-new-tokens", 1)
    assert code == 2 and "has 2 tokens and max_new_tokens is 1" in error
    assert score(*PAIRS[0], "--max-new-tokens", 0)[0] == 2


def test_results_are_printed_or_become_a_table(score, tmp_path):
    code, out, _ = score("7 a +5 =", "# 2", "# 3")
    assert code == 0 and out.count("\n") == 2
    line = r"-\d+\.\d{3} nats   7 a \+5 =  →  # 3   \(2 tokens, -\d+\.\d{3} each, 3 passes\)"
    assert re.fullmatch(line, out.splitlines()[1])
    for kind in ("csv", "parquet", "jsonl"):
        assert score("7 a +5 =", "# 2", "# 3", "--output", tmp_path / f"out.{kind}")[0] == 0
    expected = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist() == expected
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["log_likelihood"]) for row in rows] == [
        record["log_likelihood"] for record in expected
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.csv",
        "out.jsonl",
        "out.parquet",
    ]


def test_texts_come_from_standard_input(score, monkeypatch):
    line = json.dumps({"prompt": "7 a +5 =", "continuation": "# 2"}).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line)))
    code, out, _ = score("--texts", "-")
    assert (code, out) == (0, score("7 a +5 =", "# 2")[1])


def test_bad_input_is_one_sentence(score, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "7 a"}\n')
    for arguments, says in (
        ((), "no texts were given"),
        (("7 a",), "without a continuation"),
        (("7 a", ""), "no tokens"),
        (("7 a", "# 2", "--samples", "3"), "even number"),
        (("7 a", "# 2", "--samples", "-1"), "samples"),
        (("7 a", "# 2", "--order", "best"), "best"),
        (("7 a", "# 2", "--block-length", "2"), "--order"),
        (("7 a", "# 2", "--order", "left-to-right", "--samples", "4"), "--samples and --order"),
        (("7 a", "# 2", "--order", "confidence:1", "--samples", "128"), "--samples and --order"),
        (("7 a", "# 2", "--order", "left-to-right", "--seed", "1"), "--seed"),
        (("7 a", "xyz"), "tokenizer does not know"),
        (("--texts", tmp_path / "in.jsonl"), "line 1 of"),
        (("--texts", tmp_path / "none.jsonl"), "none.jsonl"),
        (("7 a", "# 2", "--output", tmp_path / "in.jsonl"), "already exists"),
    ):
        code, _, error = score(*arguments)
        assert code == 2 and error.count("\n") == 1 and says in error, (arguments, error)
