"""Answers that are one of some choices, and tokens allowed at each position."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import unmask
from tests.decoding.test_blocks import outcome, rule_of, run_engine
from tests.decoding.test_rows import learned
from tests.decoding.test_thousand import SPECS, small_model
from tests.reference.decode import decode_row
from unmask import UnmaskError, load_policy
from unmask.decoding import DecodeOptions, Request
from unmask.decoding.calls import decode
from unmask.decoding.request import Tokens, as_token_sets, extent_of
from unmask.scoring import encode_pair

WORDS = ["7", "3", "a", "b", "+5", "*3", "=", "#", "then"]
PROMPT = "7 a +5 b *3 ="


def draw_weights(model, seed):
    torch.manual_seed(seed)
    for weight in model.network.parameters():
        if weight.ndim == 2:
            weight.normal_(std=0.5)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_every_answer_is_one_of_its_choices(tiny_model, seed):
    """Any policy, attention, temperature and block length; rows of other choices beside them."""
    rng = random.Random(seed)
    model = replace(tiny_model, attention_block=rng.choice([None, None, 3, 4]))
    requests = []
    policies = [load_policy(s) for s in ("random:3", "confidence:4", "threshold:0.2")]
    policies += [learned(), learned(2, action="plackett-luce")]
    for i in range(6):
        choices = tuple(
            " ".join(rng.choices(WORDS[:4], k=rng.randint(1, 5))) for _ in range(rng.randint(1, 5))
        )
        options = DecodeOptions(
            max_new_tokens=rng.randint(5, 8),
            temperature=rng.choice([0.0, 1.5]),
            top_k=rng.choice([0, 2]),
            choices=choices if i else (),
        )
        prompt = tuple(model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
        requests.append(Request(prompt[: rng.randint(1, 7)], rng.choice(policies), options, key=i))
    together, _ = run_engine(model, requests, rng.randint(1, 6))
    for request, result in zip(requests, together, strict=True):
        ((alone,), _) = run_engine(model, [request], 1)
        assert outcome(result) == outcome(alone)
        text = model.tokenizer.decode([t for t in result.tokens.tolist() if t not in model.eos_ids])
        if request.options.choices:
            assert text in request.options.choices
            assert result.nfe <= extent_of(model, request).most


def test_confidences_are_among_the_allowed_tokens():
    """Against whole logits with the other tokens at −∞, in one slice of the vocabulary and two."""
    for vocabulary in (37, 2100):
        model, rng = small_model(vocabulary, 1, 2, False), random.Random(vocabulary)
        for seed in range(20):
            draw_weights(model, seed)
            length = rng.randint(1, 6)
            prompt = [rng.randrange(4, vocabulary - 1) for _ in range(rng.randint(1, 6))]
            sets = [
                None if rng.random() < 0.2 else rng.sample(range(4, vocabulary - 1), k=3)
                for _ in range(rng.randint(1, length))
            ]
            spec = rng.choice(SPECS)
            found = decode(model, [prompt], load_policy(spec), max_new_tokens=length, allowed=sets)
            expected = decode_row(model, prompt, rule_of(spec), length, length, allowed=sets)
            row = (found.tokens[0].tolist(), found.nfe[0].item(), found.reveal_step[0].tolist())
            assert row == expected, (vocabulary, seed, spec)


def test_an_array_for_another_vocabulary_is_refused(tiny_model):
    for width in (5, tiny_model.vocabulary + 1):
        with pytest.raises(UnmaskError, match=f"an array for {width} tokens"):
            unmask.generate(
                tiny_model,
                [[5, 6]],
                "confidence:1",
                max_new_tokens=4,
                allowed=torch.ones(2, width).bool(),
            )


def test_errors_name_what_was_wrong(tiny_model):
    """A choice is no prompt, and nobody fills its masks."""
    for options, says in (
        ({"choices": ("# <mask>",)}, r"the choice '# <mask>' holds the mask token <mask>; leave"),
        ({"choices": ("hello",)}, r"the choice 'hello' has words"),
        ({"allowed": [["<mask>"]]}, r"the allowed text '<mask>' holds the mask token"),
    ):
        with pytest.raises(UnmaskError, match=says):
            unmask.generate(tiny_model, [PROMPT], "confidence:1", max_new_tokens=4, **options)
    with pytest.raises(UnmaskError, match=r"the text to be scored '.*# <mask>' holds the mask"):
        encode_pair(tiny_model, PROMPT, "# <mask>")
    with pytest.raises(UnmaskError) as error:
        unmask.infill(tiny_model, ["7 a " * 9999], "confidence:1")
    assert len(str(error.value)) < 200


def test_a_large_vocabulary_is_read_once(tiny_model):
    """Rows with the same sets have the same objects, whose hash is known."""
    mask = torch.ones(16, 50_000, dtype=torch.bool)
    mask[:, 7] = False
    mask[3] = True
    sets = as_token_sets(mask)
    assert len({id(ids) for ids in sets}) == 2 and sets[3] is None and len(sets[0]) == 49_999
    options = DecodeOptions(max_new_tokens=16)
    made = [Request((5,), load_policy("confidence:1"), options, allowed=sets) for _ in range(2)]
    assert made[0].allowed is made[1].allowed is sets
    assert as_token_sets([[4, 3], [3, 4], None]) == ((3, 4), (3, 4), None)

    class Met(int):
        """A number that counts how often it is asked for its hash."""

        asked = 0

        def __hash__(self):
            Met.asked += 1
            return 7

    ids = Tokens([Met(7)])
    assert len({hash(ids), hash(ids), hash(ids)}) == 1 and Met.asked == 1


def test_ways_to_say_what_is_allowed(tiny_model):
    tokenizer = tiny_model.tokenizer
    digits = [str(n) for n in range(10)]
    ids = tokenizer.convert_tokens_to_ids(digits)
    masks = torch.zeros(3, tiny_model.vocabulary, dtype=torch.bool)
    masks[0, tokenizer.convert_tokens_to_ids("#")] = True
    masks[1, ids] = True
    masks[2] = True
    found = [
        unmask.generate(
            tiny_model, [PROMPT, "3 a *3 ="], "confidence:2", max_new_tokens=5, allowed=allowed
        ).tokens.tolist()
        for allowed in (
            [["#"], digits, None],
            [["#"], ids],
            masks,
            masks.numpy(),
            np.asarray(masks)[:2],
        )
    ]
    assert all(each == found[0] for each in found)
    assert all(row[1] in ids for row in found[0])
    filled = unmask.infill(
        tiny_model, ["7 a <mask> = <mask> 3"], "confidence:1", allowed=[["+5"], digits]
    ).text[0]
    assert filled.startswith("7 a +5 = ") and filled.split()[4] in digits


def test_choices_that_are_one_are_sure_and_take_one_pass(tiny_model):
    found = unmask.generate(tiny_model, [PROMPT], "threshold:0.9", choices=("7 then 3",))
    assert (found.text, found.nfe.tolist()) == (["7 then 3"], [1])
    assert found.tokens.shape[1] == 3  # as long as the longest choice
    found = unmask.generate(
        tiny_model, [PROMPT], "threshold:0.9", choices=("7", "3 3 3"), max_new_tokens=6
    )
    assert found.text[0] in ("7", "3 3 3") and found.tokens.shape[1] == 6


def test_the_likeliest_first_token_decides(tiny_model):
    """With one token a choice, the answer is the choice with the largest probability."""
    choices = ("7", "3", "a", "#")
    ids = tiny_model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    canvas = torch.tensor([[*ids, tiny_model.mask_id]])
    logits = tiny_model.logits(canvas, torch.ones_like(canvas))[0, -1]
    best = max(choices, key=lambda c: logits[tiny_model.tokenizer.convert_tokens_to_ids(c)])
    found = unmask.generate(tiny_model, [PROMPT], "confidence:1", choices=choices)
    assert found.text == [best]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"choices": ("7", "")}, "choices is"),
        ({"choices": ("7", "<eos>")}, "ends a text"),
        ({"choices": ("7 7 7",), "max_new_tokens": 2}, "has 3 tokens, and answers have 2"),
        ({"choices": ("7",), "eos": "never"}, "leave out eos"),
        ({"choices": ("7",), "allowed": [["7"]]}, "give one of them"),
        ({"choices": ("7",) * 1001}, "at most 1000"),
        ({"choices": ("xyz",)}, "does not know"),
        ({"allowed": [["7 7"]], "max_new_tokens": 2}, "which is 2 tokens"),
        ({"allowed": [[]], "max_new_tokens": 2}, "no token at position 0"),
        ({"allowed": [None, [0]], "max_new_tokens": 2}, "no token at position 1"),
        ({"allowed": [[9999]], "max_new_tokens": 2}, "token id 9999"),
        ({"allowed": [[5]] * 3, "max_new_tokens": 2}, "has 3 positions"),
        ({"allowed": [5], "max_new_tokens": 2}, "allowed holds 5"),
        ({"allowed": "digits", "max_new_tokens": 2}, "allowed is 'digits'"),
        ({"allowed": torch.ones(2, 3), "max_new_tokens": 2}, "give a bool one"),
        ({"allowed": torch.ones(2, dtype=torch.bool), "max_new_tokens": 2}, "give a bool one"),
    ],
)
def test_refusals(tiny_model, wrong, says):
    with pytest.raises(UnmaskError, match=says):
        unmask.generate(tiny_model, [PROMPT], "confidence:1", **wrong)


def test_infilling_takes_choices_that_fill_all_masks(tiny_model):
    prompt = "7 a <mask> <mask> 3"
    found = unmask.infill(tiny_model, [prompt], "confidence:2", choices=("+5 =", "*3 ="))
    assert found.text[0] in ("7 a +5 = 3", "7 a *3 = 3")
    with pytest.raises(UnmaskError, match="fill all of them"):
        unmask.infill(tiny_model, [prompt], "confidence:2", choices=("+5",))
