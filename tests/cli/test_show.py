"""The canvas as lines of a terminal."""

import io

import pytest
from rich.console import Console
from rich.text import Text

import unmask
from unmask.cli.show import canvas_line, fold_line, generate_shown


@pytest.fixture(scope="module")
def words_model():
    return unmask.load_model("embedded/word-problems")


def test_text_stands_as_it_is_written_and_marks_stand_apart(words_model):
    ids = words_model.tokenizer("His friend has 7 books.\n#### 20", add_special_tokens=False)
    row = [*ids["input_ids"], words_model.eos_ids[0], words_model.eos_ids[0]]
    line = canvas_line(words_model, row, [False] * len(row))
    assert line.plain == "His friend has 7 books. ↵ #### 20 ⌁⌁"
    friend = words_model.tokenizer(" friend", add_special_tokens=False)["input_ids"]
    assert len(friend) == 1 and friend[0] in row
    hidden = [words_model.mask_id if token == friend[0] else token for token in row]
    assert "His · has 7 books. ↵" in canvas_line(words_model, hidden, [True] * len(row)).plain
    masks = [words_model.mask_id] * 3
    assert canvas_line(words_model, masks, [False] * 3).plain == "···"


def test_words_of_a_model_that_writes_words_keep_their_spaces():
    model = unmask.load_model("embedded/chain")
    ids = model.tokenizer("a then 7 +5 gives 2 .", add_special_tokens=False)["input_ids"]
    row = [*ids[:1], model.mask_id, model.mask_id, *ids[3:], model.eos_ids[0]]
    fresh = [False] * (len(row) - 1) + [True]
    line = canvas_line(model, row, fresh)
    assert line.plain == "a ·· +5 gives 2 . ⌁"
    assert [line.plain[s.start : s.end] for s in line.spans if s.style == "bold green"] == ["⌁"]


@pytest.mark.parametrize("width", [10, 11, 17, 200])
def test_long_lines_are_cut_at_spaces_and_marks_and_lose_nothing(width):
    text = "We found ··· eggs " + "·" * 30 + " Kilimandscharo-Besteigung 日本語日本語 " + "⌁" * 15
    parts = fold_line(Text(text), width)
    assert all(part.cell_len <= width for part in parts)
    assert "".join(part.plain for part in parts).replace(" ", "") == text.replace(" ", "")
    if width == 17:
        assert [part.plain for part in parts[:3]] == ["We found ··· eggs", "·" * 17, "·" * 13]


def test_every_pass_is_printed_with_its_continuation_indented(words_model):
    out = io.StringIO()
    console = Console(file=out, width=60)
    prompt = unmask.load_task("word-problems").examples("test", 1)[0].prompt
    found = generate_shown(
        words_model, [prompt], "embedded/word-problems", console, max_new_tokens=128
    )
    lines = out.getvalue().splitlines()
    heads = [line[:6].strip() for line in lines]
    assert [head for head in heads if head] == [str(i + 1) for i in range(int(found.nfe[0]))]
    assert all(len(line) <= 60 for line in lines)
    last = heads.index(str(int(found.nfe[0])))
    shown = " ".join(line[6:].rstrip("⌁ ") for line in lines[last:]).strip()
    assert shown == " ↵ ".join(found.text[0].split("\n"))
