"""Infilling of unknown length."""

import pytest

from unmask import UnmaskError, infill
from unmask.scoring import Text, bound_likelihood, infill_lengths

PROMPTS = ["7 a <mask> = 2 # 2", "<mask> b *3 =", "1 a +5 <mask>"]


def test_the_likeliest_of_all_lengths_is_kept(tiny_model):
    found = infill_lengths(tiny_model, PROMPTS, "confidence:1", (2, 4), samples=16)
    assert len({filling.length for filling in found}) > 1
    for prompt, filling in zip(PROMPTS, found, strict=True):
        scores, nfe = {}, 0
        for length in (2, 3, 4):
            gap = prompt.replace("<mask>", " ".join(["<mask>"] * length))
            one = infill(tiny_model, [gap], "confidence:1", eos="never")
            ids = tiny_model.tokenizer(gap, add_special_tokens=False)["input_ids"]
            holes = [i for i, token in enumerate(ids) if token == tiny_model.mask_id]
            for place, token in zip(holes, one.tokens[0].tolist(), strict=True):
                ids[place] = token
            (score,) = bound_likelihood(tiny_model, [Text(tuple(ids), tuple(holes))], samples=16)
            scores[length] = score.per_token
            nfe += int(one.nfe[0])
            if length == filling.length:
                assert filling.text == one.text[0]
                assert list(filling.tokens) == one.tokens[0].tolist()
        assert filling.per_token == scores
        assert filling.length == max(scores, key=scores.get)
        assert filling.nfe == nfe == 9 and filling.answer_tokens == filling.length
        assert infill_lengths(
            tiny_model, [prompt], "confidence:1", (2, 4), samples=16, batch_size=1
        ) == [filling]


def test_no_end_of_text_unless_it_is_asked_for(tiny_model):
    found = infill_lengths(tiny_model, PROMPTS, "random:1", (3, 6), temperature=2.0)
    assert not any(tiny_model.end_set & set(filling.tokens) for filling in found)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([], "confidence:1", (1, 2)), "at least one prompt"),
        ((["7 a"], "confidence:1", (1, 2)), "no mask token"),
        ((["<mask> a <mask>"], "confidence:1", (1, 2)), "2 mask tokens"),
        ((PROMPTS, "confidence:1", (0, 2)), "least length is 0"),
        ((PROMPTS, "confidence:1", (3, 2)), "greatest length is 2"),
        ((PROMPTS, "confidence:1", (1, 2000)), "greatest length is 2000"),
    ],
)
def test_refusals(tiny_model, arguments, says):
    with pytest.raises(UnmaskError, match=says):
        infill_lengths(tiny_model, *arguments)


LAST = {"stop_at_eos": True, "eos": "last"}


def test_settings_that_leave_holes_are_refused(tiny_model):
    for wrong in ({"choices": ("7",)}, {"max_passes": 1}, {"stop": ("7",)}, LAST):
        with pytest.raises(UnmaskError, match="leave it out"):
            infill_lengths(tiny_model, PROMPTS, "confidence:1", (1, 2), **wrong)
