"""The text of a buffer while it fills: whole characters, and marks where nothing is known yet."""

import random
from dataclasses import replace

import pytest
import torch

import unmask
from unmask.cli.show import canvas_line
from unmask.decoding import finish, stream, text_so_far
from unmask.decoding.generation import answer_text
from unmask.decoding.text import token_labels
from unmask.models.tokenizer import learned_tokenizer

TEXTS = [
    "中文 😀 done",
    "plain words",
    "é",
    "🇩🇪 flag",
    "a\u2028b\u0085c",
    "한국어 and عربى",
    "😀😀",
]


@pytest.fixture(scope="module")
def byte_model(tiny_model):
    """The tiny model with a byte-level tokenizer, in which a character may be several tokens."""
    tokenizer = learned_tokenizer(["plain words done flag and"] * 30, 320)
    special = {
        "mask_id": tokenizer.mask_token_id,
        "eos_ids": (tokenizer.eos_token_id,),
        "never_ids": (tokenizer.mask_token_id, tokenizer.pad_token_id),
    }
    return replace(tiny_model, tokenizer=tokenizer, **special)


@pytest.mark.parametrize("text", TEXTS)
def test_no_half_character_is_shown_in_any_order(byte_model, text):
    ids = byte_model.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids += [byte_model.eos_ids[0]] * 2
    for seed in range(20):
        order = list(range(len(ids)))
        random.Random(seed).shuffle(order)
        row, before = [byte_model.mask_id] * len(ids), "·"
        for place in order:
            row[place] = ids[place]
            before = text_so_far(byte_model, row)
            assert "\ufffd" not in before
            assert "\ufffd" not in canvas_line(byte_model, row, [False] * len(row)).plain
            assert set(before) <= set(text) | {"·"}
        assert before == text == answer_text(byte_model, ids, ())
    from_the_left = [byte_model.mask_id] * len(ids)
    for place, token in enumerate(ids[:-2]):
        from_the_left[place] = token
        settled = text_so_far(byte_model, from_the_left, hole="\0").split("\0")[0]
        assert text.startswith(settled)


def test_bytes_that_are_no_text_are_shown_when_the_row_is_finished(byte_model):
    broken = byte_model.tokenizer("😀", add_special_tokens=False)["input_ids"][:2]
    mask, end = byte_model.mask_id, byte_model.eos_ids[0]
    assert text_so_far(byte_model, [*broken, mask]) == "···"
    assert text_so_far(byte_model, [*broken, end]) == answer_text(byte_model, [*broken, end], ())


def test_the_text_ends_at_the_end_of_text_or_a_settled_stop_string(byte_model):
    def ids(text):
        return byte_model.tokenizer(text, add_special_tokens=False)["input_ids"]

    mask, end = byte_model.mask_id, byte_model.eos_ids[0]
    assert text_so_far(byte_model, [*ids("flag"), end, mask, mask]) == "flag"
    row = [*ids("plain #words"), mask, *ids("# done")]
    assert text_so_far(byte_model, row, stop=("#",)) == "plain "
    row = [*ids("plain"), mask, *ids("# done")]
    assert text_so_far(byte_model, row, stop=("#",)) == "plain·# done"
    assert text_so_far(byte_model, torch.tensor(row), hole="_") == "plain_# done"
    pad = byte_model.tokenizer.pad_token_id
    assert text_so_far(byte_model, [*ids("plain"), pad, *ids("flag")]) == "plainflag"


def test_it_ends_with_the_text_of_the_generation():
    model, last = unmask.load_model("embedded/chain"), {}
    prompts = ["7 a +5 b *3 =", "3 a *3 b -1 ="]

    def see(step):
        for row, tokens in zip(step.rows.tolist(), step.tokens, strict=True):
            last[row] = text_so_far(model, tokens)

    whole = finish(stream(model, prompts, "threshold:0.9", max_new_tokens=48), see)
    assert [last[row] for row in range(2)] == whole.text


def test_labels_of_tokens_are_readable():
    model = unmask.load_model("embedded/word-problems")
    ids = model.tokenizer("He saw 24 cats.\n#### 24")["input_ids"]
    labels = token_labels(model, [*ids, model.eos_ids[0], model.mask_id])
    parts = ["He", "saw", "␣", "24", "c", "ats", ".", "↵", "####", "24", "<eos>", "<mask>"]
    assert labels == parts
