"""`unmask generate`: the files that it reads and writes, and its decode options."""

import csv
import io
import json
import os

import pyarrow.parquet
import pytest
import torch

import unmask
from tests.forks import run_code, run_two
from unmask.cli import main
from unmask.policies import NetworkConfig, PolicyNetwork
from unmask.scoring import infill_lengths

PROMPTS = ["7 a +5 b *3 =", "1 a +1 b -4 c *2 =", "3 a *3 ="]


@pytest.fixture
def generate(tiny_dir, tmp_path, capsys):
    """Runs `unmask generate` on the tiny model; gives the records that it wrote, or the error."""
    numbers = iter(range(100))

    def generate(*arguments, model=tiny_dir):
        out = tmp_path / f"answers-{next(numbers)}.jsonl"
        words = ["generate", "--model", str(model), "--dtype", "float32", "--output", str(out)]
        code = main([*words, *map(str, arguments)])
        captured = capsys.readouterr()
        if code:
            assert captured.err.startswith("unmask generate: ") and captured.err.count("\n") == 1
            assert not out.exists()
            return captured.err
        lines = out.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
        return [json.loads(line) for line in lines]

    return generate


def test_command_reads_prompt_files_and_writes_answers(tmp_path, tiny_dir, capsys):
    file, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    chat = [{"role": "user", "content": PROMPTS[1]}]
    file.write_text(
        "\n".join(map(json.dumps, [PROMPTS[0], {"prompt": PROMPTS[2]}, {"messages": chat}])) + "\n"
    )
    command = [
        "generate",
        "--model",
        str(tiny_dir),
        "--prompts",
        str(file),
        "--output",
        str(out),
        "--gen-length",
        "8",
        "--batch-size",
        "2",
    ]
    assert main(command) == 0
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["prompt"] for r in records] == [PROMPTS[0], PROMPTS[2], chat]
    assert all(set(r) == {"prompt", "text", "nfe", "tokens"} for r in records)
    assert "tokens per forward pass" in capsys.readouterr().out
    assert main(command) == 2 and "already exists" in capsys.readouterr().err
    reader, writer = os.pipe()
    assert main([f"/dev/fd/{writer}" if word == str(out) else word for word in command]) == 0
    assert os.read(reader, 2**16).decode() == out.read_text()
    for descriptor in (reader, writer):
        os.close(descriptor)
    for line in ("{", "17", '{"text": "x"}', '{"messages": [{"role": "user"}]}', "[]"):
        file.write_text(line + "\n")
        assert (
            main(
                [
                    "generate",
                    "--model",
                    str(tiny_dir),
                    "--prompts",
                    str(file),
                    "--max-new-tokens",
                    "4",
                ]
            )
            == 2
        )
        assert "line 1 of" in capsys.readouterr().err


def test_command_chats(tiny_dir, capsys):
    assert (
        main(
            [
                "generate",
                PROMPTS[0],
                "--model",
                str(tiny_dir),
                "--system",
                "1",
                "--max-new-tokens",
                "4",
                "--dtype",
                "float32",
            ]
        )
        == 0
    )
    chatted = capsys.readouterr().out
    model = unmask.load_model(tiny_dir, dtype=torch.float32)
    messages = [{"role": "system", "content": "1"}, {"role": "user", "content": PROMPTS[0]}]
    assert unmask.generate(model, [messages], "threshold:0.9", max_new_tokens=4).text[0] in chatted


def test_steps_and_trade_off_on_the_command_line(tmp_path, tiny_dir, capsys):
    ask = ["generate", "--model", str(tiny_dir), "--gen-length", "12", "--output"]
    assert main([*ask, str(tmp_path / "a"), "--steps", "4", "--alg", "maskgit_plus", "7 a"]) == 0
    assert main([*ask, str(tmp_path / "b"), "--policy", "confidence:3", "7 a"]) == 0
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()

    network = PolicyNetwork(NetworkConfig(width=16, mlp=16, conditioned=True))
    front = [
        {
            "sampler": f"@alpha={a}",
            "alpha": a,
            "nfe": n,
            "accuracy": 1,
            "accuracy_low": 1,
            "accuracy_high": 1,
        }
        for a, n in ((0.1, 9), (9, 3))
    ]
    unmask.LearnedPolicy(network, alpha=1.0, metadata={"pareto": front}).save_pretrained(
        tmp_path / "policy"
    )
    policy = ["--policy", str(tmp_path / "policy")]
    assert main([*ask, str(tmp_path / "c"), *policy, "--alpha", "9", "7 a"]) == 0
    assert main([*ask, str(tmp_path / "d"), *policy, "--target-nfe", "3", "7 a"]) == 0
    assert (tmp_path / "c").read_text() == (tmp_path / "d").read_text()

    capsys.readouterr()
    for options, message in (
        (["--steps", "50"], "at most the answers' length"),
        (["--steps", "4", "--alg", "origin"], "has no equal here"),
        (["--steps", "4", "--policy", "margin:1"], "both given"),
        (["--alg", "random"], "without --steps"),
        (["--steps", "4", "--alpha", "1"], "neither with --alpha"),
        (["--infill"], "--max-new-tokens does not go with --infill"),
        (["--delay", "0"], "--delay was given without --show"),
        (["--show", "--delay", "-1"], "delay is -1.0; give seconds"),
        (["--alpha", "1", "--target-nfe", "5", *policy], "both given"),
        (["--alpha", "1"], "for learned policies"),
        (["--target-nfe", "50", *policy], "calibrated for 3 to 9"),
    ):
        assert main([*ask, str(tmp_path / "e"), *options, "7 a"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "e").exists()
    gaps = ["generate", "--model", str(tiny_dir), "--infill", "--steps", "4", "7 a <mask>"]
    assert main(gaps) == 2 and "nor with --infill" in capsys.readouterr().err


def test_a_prompts_file_is_split_at_newlines_only(generate, tmp_path):
    """U+2028, U+2029, U+0085 and a carriage return may stand inside a string or behind a line."""
    from unmask.cli.generate import read_prompt_lines

    file = tmp_path / "prompts.jsonl"
    prompts = ["a\u2028b", "c\x85d\u2029", "e", "f\u000cg"]
    text = "\r\n".join(json.dumps(p, ensure_ascii=False) for p in prompts[:3])
    file.write_bytes(("\ufeff" + text + '\n\n{"prompt": "f\\fg"}').encode())
    assert read_prompt_lines(file) == prompts


def test_a_prompts_file_may_begin_with_a_byte_order_mark(generate, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(PROMPTS[0]).encode() + b"\n")
    records = generate("--prompts", file, "--max-new-tokens", 4)
    assert [record["prompt"] for record in records] == [PROMPTS[0]]


def test_prompts_come_from_standard_input(generate, monkeypatch):
    def feed(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    feed("\n".join(map(json.dumps, PROMPTS[1:])).encode())
    records = generate(PROMPTS[0], "--prompts", "-", "--max-new-tokens", 4)
    assert [record["prompt"] for record in records] == PROMPTS
    feed(b'"1 a +1 ="\n{\n')
    assert "line 2 of standard input is not JSON" in generate("--prompts", "-")
    feed(b"\xff\xfe")
    assert "prompts file standard input cannot be read" in generate("--prompts", "-")
    feed(b"")
    assert "no prompts were given" in generate("--prompts", "-")


@pytest.mark.parametrize(
    "line", [r'"\ud800"', "[" * 5000, r'{"messages": [{"role": "user", "content": "\udc00"}]}']
)
def test_lines_that_hold_no_text_are_refused(generate, tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    assert "line 1 of" in generate("--prompts", file, "--max-new-tokens", 4)


def test_a_system_message_is_for_prompts_that_bring_none(generate, tmp_path):
    file = tmp_path / "prompts.jsonl"
    own = [{"role": "system", "content": "2"}, {"role": "user", "content": PROMPTS[1]}]
    file.write_text(json.dumps({"messages": own}) + "\n", encoding="utf-8")
    records = generate(PROMPTS[0], "--prompts", file, "--system", "1", "--max-new-tokens", 4)
    user = {"role": "user", "content": PROMPTS[0]}
    assert [r["prompt"] for r in records] == [[{"role": "system", "content": "1"}, user], own]


def test_every_decode_option_reaches_the_decoder(generate, tiny_model):
    shared = {
        "block_length": 6,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.8,
        "seed": 3,
        "max_passes": 4,
    }
    shared |= {"eos": "never", "cfg_scale": 0.5, "stop": ("3", "4")}
    words = [str(word) for name, value in shared.items() for word in option_words(name, value)]
    records = generate(*PROMPTS, "--policy", "confidence:2", "--max-new-tokens", 12, *words)
    expected = unmask.generate(tiny_model, PROMPTS, "confidence:2", max_new_tokens=12, **shared)
    assert [record["text"] for record in records] == expected.text
    assert [record["nfe"] for record in records] == expected.nfe.tolist()
    for cache in ("prefix", "dual"):
        words = ["--cache", cache, "--cache-refresh", "2", "--block-length", "6", "--stop-at-eos"]
        records = generate(*PROMPTS, "--max-new-tokens", 12, *words)
        options = {"cache": cache, "cache_refresh": 2, "block_length": 6, "stop_at_eos": True}
        expected = unmask.generate(
            tiny_model, PROMPTS, "threshold:0.9", max_new_tokens=12, **options
        )
        assert [record["nfe"] for record in records] == expected.nfe.tolist()


def option_words(name, value):
    values = value if isinstance(value, tuple) else (value,)
    return ["--" + name.replace("_", "-"), *values]


def test_lladas_names_of_the_end_of_text_rules(generate, tmp_path):
    model = "embedded/chain"
    common = (*PROMPTS, "--policy", "confidence:2", "--gen-length=48")
    never = generate(*common, "--eos", "never", model=model)
    assert generate(*common, "--logits-eos-inf", model=model) == never
    last = generate(*common, "--eos", "last", model=model)
    assert generate(*common, "--confidence-eos-eot-inf", model=model) == last
    assert never != last
    file = tmp_path / "file.yaml"
    file.write_text("logits_eos_inf: true\n", encoding="utf-8")
    assert generate(*common, "--config", file, model=model) == never
    both = ["--logits-eos-inf", "--confidence-eos-eot-inf"]
    assert "both given" in generate(*common, *both, model=model)
    assert "--eos last were both given" in generate(*common, "--eos", "last", both[0], model=model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-p", "0"], "top_p is 0.0"),
        (["--top-k", "-1"], "top_k is -1"),
        (["--eos", "maybe"], "'maybe'"),
        (["--max-passes", "0"], "max_passes is 0"),
        (["--cache-refresh", "2"], "cache_refresh was given without cache"),
        (["--revision", "main"], "is a local directory; leave it out"),
        (["--device", "meta"], "device 'meta' cannot be used"),
    ],
)
def test_options_that_cannot_be_used_are_refused(generate, words, message):
    assert message in generate(PROMPTS[0], *words)


def test_an_interrupt_keeps_the_answers_that_are_finished(tiny_dir, tmp_path):
    out = tmp_path / "answers.jsonl"
    words = ["generate", *PROMPTS, "--model", str(tiny_dir), "--batch-size", "1", "--show"]
    words += ["--policy", "confidence:24", "--max-new-tokens", "48", "--delay", "0"]
    words += ["--output", str(out)]
    code = (
        "import unmask.cli.show as show, sys\n"
        "steps = []\n"
        "def interrupt(*_):\n"
        "    steps.append(1)\n"
        "    if len(steps) == 5: raise KeyboardInterrupt\n"
        "    return {}\n"
        "show.canvas_lines = interrupt\n"
        f"from unmask.cli import main; sys.exit(main({words!r}))"
    )
    result = run_code(code)
    assert (result.returncode, result.stderr) == (130, "unmask generate: interrupted\n")
    assert result.stdout == f"2 of 3 answers written to {out}\n"
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    model = unmask.load_model(tiny_dir)
    whole = unmask.generate(model, PROMPTS, "confidence:24", max_new_tokens=48)
    expected = list(zip(PROMPTS, whole.text, whole.nfe.tolist(), strict=True))
    found = [(record["prompt"], record["text"], record["nfe"]) for record in records]
    assert len(found) == 2 and set(found) < set(expected)


def records_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_several_samples_of_each_prompt(tmp_path, capsys):
    ask = ["generate", "--temperature", "2", "--max-new-tokens", "6", "--output"]
    prompts = ["7 a +5 b *3 =", "3 a *3 b -1 ="]
    assert main([*ask, str(tmp_path / "four"), "--samples", "4", *prompts]) == 0
    assert capsys.readouterr().out.startswith("8 answers in ")
    four = records_of(tmp_path / "four")
    assert [record["prompt"] for record in four] == [p for p in prompts for _ in range(4)]
    assert [record["sample"] for record in four] == [0, 1, 2, 3] * 2
    assert len({record["text"] for record in four[:4]}) > 1
    assert main([*ask, str(tmp_path / "one"), *prompts]) == 0
    ones = records_of(tmp_path / "one")
    assert [{**record, "sample": 0} for record in ones] == [four[0], four[4]]


def test_a_name_that_ends_in_csv_or_parquet_is_a_table(tmp_path):
    (tmp_path / "in.jsonl").write_text(
        '"7 a +5 ="\n{"messages": [{"role": "user", "content": "3 a *3 ="}]}\n'
    )
    ask = ["generate", "--max-new-tokens", "6", "--prompts", str(tmp_path / "in.jsonl")]
    assert main([*ask, "--output", str(tmp_path / "out.csv")]) == 0
    assert main([*ask, "--output", str(tmp_path / "out.jsonl")]) == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    records = records_of(tmp_path / "out.jsonl")
    assert [json.loads(row["prompt"]) for row in rows[1:]] == [records[1]["prompt"]]
    for row, record in zip(rows, records, strict=True):
        assert (row["text"], int(row["nfe"])) == (record["text"], record["nfe"])
    assert main([*ask, "--output", str(tmp_path / "out.parquet")]) == 0
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    chat = json.dumps(records[1]["prompt"])
    assert table == [records[0], {**records[1], "prompt": chat}]


@pytest.mark.parametrize("name", ["out.xlsx", "out.TSV", "out.feather"])
def test_a_kind_of_table_that_is_not_written_is_refused(tmp_path, capsys, name):
    assert main(["generate", PROMPTS[0], "--output", str(tmp_path / name)]) == 2
    assert "name a file that ends in .csv, .parquet or .jsonl" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_masks_in_the_prompt_and_new_tokens_behind(tmp_path):
    ask = ["generate", "--infill", "7 a <mask> =", "--output"]
    assert main([*ask, str(tmp_path / "a"), "--append", "3"]) == 0
    written = ["generate", "--infill", "7 a <mask> = <mask> <mask> <mask>", "--output"]
    assert main([*written, str(tmp_path / "b")]) == 0
    (found,), (same,) = records_of(tmp_path / "a"), records_of(tmp_path / "b")
    assert (found["text"], found["nfe"]) == (same["text"], same["nfe"])


def test_two_processes_share_the_prompts_and_write_one_file(tmp_path):
    prompts = [f"{n} a +5 b *3 =" for n in range(1, 6)]
    options = ["generate", "--temperature", "1", "--max-new-tokens", "6", *prompts, "--output"]
    assert run_two(tmp_path / "log", *options, tmp_path / "two").count("5 answers in") == 1
    assert main([*options, str(tmp_path / "one")]) == 0
    assert (tmp_path / "two").read_text() == (tmp_path / "one").read_text()


def test_answers_are_one_of_some_choices(generate):
    records = generate(*PROMPTS, "--choices", "# 7", "a then 3", "--policy", "confidence:1")
    assert {record["text"] for record in records} <= {"# 7", "a then 3"}
    assert all(record["nfe"] <= 3 for record in records)  # as long as the longest choice
    error = generate(PROMPTS[0], "--choices", "# 7", "--max-new-tokens", "1")
    assert "has 2 tokens, and answers have 1" in error
    assert "leave out eos" in generate(PROMPTS[0], "--choices", "# 7", "--eos", "never")


def test_a_file_says_which_tokens_are_allowed(generate, tmp_path):
    (tmp_path / "allowed.json").write_text('[["#"], ["1", "2", "3"], null]', encoding="utf-8")
    length = ("--max-new-tokens", "4", "--policy", "confidence:2")
    records = generate(*PROMPTS, "--allowed", tmp_path / "allowed.json", *length)
    assert all(record["text"].split()[:2][0] == "#" for record in records)
    assert all(record["text"].split()[1] in "123" for record in records)
    for text, says in (
        ("[[", "as JSON"),
        ("{}", "allowed is {}"),
        ('[["1 2"]]', "which is 2 tokens"),
        ("[1]", "allowed holds 1"),
        ("[[1.5]]", "allowed holds [1.5]"),
        ("[[]]", "no token at position 0"),
        ('[["\\ud800"]]', "surrogate"),
    ):
        (tmp_path / "allowed.json").write_text(text, encoding="utf-8")
        assert says in generate(PROMPTS[0], "--allowed", tmp_path / "allowed.json", *length), text
    assert "none.json" in generate(PROMPTS[0], "--allowed", tmp_path / "none.json", *length)


def test_a_gap_of_unknown_length(generate, tiny_model):
    ask = ("7 a <mask> = 2 # 2", "--infill", "--policy", "confidence:1")
    (record,) = generate(*ask, "--infill-length", "2", "4")
    (found,) = infill_lengths(tiny_model, [ask[0]], "confidence:1", (2, 4))
    expected = {"text": found.text, "length": found.length, "nfe": 9, "tokens": found.answer_tokens}
    assert {name: record[name] for name in expected} == expected
    assert record["per_token"] == max(found.per_token.values())
    drawn = ("--samples", "4", "--temperature", "2")
    assert len({r["text"] for r in generate(*ask, "--infill-length", "2", "4", *drawn)}) > 1
    for options, says in (
        (("--infill-length", "4", "2"), "greatest length is 2"),
        (("--infill-length", "1", "2", "--append", "1"), "--append"),
        (("--infill-length", "1", "2", "--show"), "--show"),
        (("--infill-length", "1", "2", "--choices", "7"), "leave it out"),
        (("--infill-length", "1"), "--infill-length"),
    ):
        assert says in generate(*ask, *options), options
    assert "--infill" in generate(PROMPTS[0], "--infill-length", "1", "2")
