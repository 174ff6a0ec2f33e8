"""Infilling of unknown length."""

import pytest
import torch

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


def test_wrong_arguments_are_refused_before_anything_is_decoded(tiny_model):
    def never_called(observation):
        raise AssertionError

    for changes, says in (
        ({"samples": 3}, "samples is 3; give an even number"),
        ({"samples": "many"}, "samples is 'many'; give a whole number"),
        ({"keys": [1, 2]}, r"keys is \[1, 2\]; give a list of .* for each of 3 prompts"),
        ({"keys": 5}, "keys is 5; give a list"),
        ({"keys": ["a", "b", "c"]}, "key is 'a'; give a whole number"),
        ({"prompts": PROMPTS[0]}, r"give a list of prompts: \[text\]"),
        ({"model": "embedded/chain"}, "model is 'embedded/chain'; give one that load_model"),
    ):
        arguments = {"model": tiny_model, "prompts": PROMPTS} | changes
        with pytest.raises(UnmaskError, match=says):
            infill_lengths(policy=never_called, lengths=(1, 2), **arguments)


def test_a_gap_that_a_policy_leaves_masked_has_no_likelihood(tiny_model):
    def reveal_nothing(observation):
        return torch.zeros_like(observation.masked)

    with (
        pytest.warns(UserWarning, match="still hold masks"),
        pytest.raises(UnmaskError, match="left masks in a gap"),
    ):
        infill_lengths(tiny_model, PROMPTS, reveal_nothing, (1, 2))


LAST = {"stop_at_eos": True, "eos": "last"}


def test_settings_that_leave_holes_are_refused(tiny_model):
    for wrong in ({"choices": ("7",)}, {"max_passes": 1}, {"stop": ("7",)}, LAST):
        with pytest.raises(UnmaskError, match="leave it out"):
            infill_lengths(tiny_model, PROMPTS, "confidence:1", (1, 2), **wrong)
