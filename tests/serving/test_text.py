"""The text that a stream sends: whole characters that no later pass changes."""

import random

import pytest

import unmask
from unmask.decoding import DecodeOptions, Request
from unmask.decoding.generation import answer_text
from unmask.serving.answers import free_of_stops, settled_text


@pytest.fixture(scope="module")
def bytes_model():
    """A model whose tokenizer writes bytes, so that a character takes several tokens."""
    return unmask.load_model("embedded/word-problems")


TEXTS = ["The answer is 12 # 12", "中文 😀 naïve\n# 7", "aa ab aab aaab"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stop", [(), ("# ",), ("aab", "answer"), ("😀",), ("b a",)])
def test_what_is_sent_only_grows_and_ends_as_the_answer(bytes_model, text, stop):
    model, rng = bytes_model, random.Random(text)
    final = model.tokenizer(text)["input_ids"] + [model.eos_ids[0]] * 4
    options = DecodeOptions(max_new_tokens=len(final), stop=stop)
    request = Request((5,), unmask.load_policy("threshold:0.9"), options)
    wanted = answer_text(model, final, stop)
    for _ in range(20):
        tokens, sent, grew = [model.mask_id] * len(final), "", 0
        for position in rng.sample(range(len(final)), len(final)):
            tokens[position] = final[position]
            now = settled_text(model, request, tokens)
            assert now.startswith(sent) and "�" not in now
            grew, sent = grew + (now != sent), now
        assert wanted.startswith(sent)
    in_order = [model.mask_id] * len(final)
    lengths = set()
    for position, token in enumerate(final):
        in_order[position] = token
        lengths.add(len(settled_text(model, request, in_order)))
    assert settled_text(model, request, in_order) == wanted and len(lengths) > 1


def test_a_possible_beginning_of_a_stop_string_waits(bytes_model):
    model = bytes_model
    tokens = model.tokenizer("so it is #")["input_ids"]
    policy = unmask.load_policy("threshold:0.9")
    buffer = [*tokens, *[model.mask_id] * 4]
    for stop, waits in ((("# 1",), True), (("1",), False)):
        options = DecodeOptions(max_new_tokens=len(buffer), stop=stop)
        text = settled_text(model, Request((5,), policy, options), buffer)
        assert ("#" not in text) == waits and "so it" in text


def test_the_work_for_a_stop_string_does_not_grow_with_it(bytes_model, monkeypatch):
    model, places, decoded = bytes_model, [], []
    decode = model.tokenizer.decode

    class Stop(str):
        def __getitem__(self, key):
            places.append(key)
            return super().__getitem__(key)

        def startswith(self, *begins):
            places.append(begins)
            return super().startswith(*begins)

    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: decoded.append(1) or decode(ids))
    text = "so it is " * 40
    tokens = model.tokenizer(text)["input_ids"]
    assert free_of_stops(model, tokens, [Stop("x" * 10_000 + "y")]) == len(tokens)
    assert len(places) <= len(text)
    decoded.clear()
    count = free_of_stops(model, tokens, [Stop(text[9:] + "x")])  # all but "so it is " waits
    assert decode(tokens[:count]) in text[:9] and count > 0
    assert len(decoded) < len(tokens) / 3
