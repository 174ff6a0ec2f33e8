"""The tokenizers that are learned from a sample."""

import re

import pytest

from unmask import UnmaskError, load_task
from unmask.models.tokenizer import learned_tokenizer

TEXTS = [
    text for e in load_task("word-problems").examples("train", 400) for text in (e.prompt, e.answer)
]


def pieces(tokenizer, text):
    return [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]


def test_whole_numbers_are_one_token_wherever_they_stand():
    tokenizer = learned_tokenizer(TEXTS, 2048, 100)
    known = tokenizer.get_vocab()
    assert all(str(n) in known for n in range(101))
    for text in ("He has 24 + 11 apples, $24/2.", "24", "(24)", "x24", "#### 24", "24\n11 is 24"):
        assert "24" in pieces(tokenizer, text)
        assert "".join(pieces(tokenizer, text)) == text
    assert pieces(tokenizer, "24 + 11 = 35") == ["24", " + ", "11", " = ", "35"]


def test_words_stay_apart_with_whole_numbers():
    tokenizer = learned_tokenizer(TEXTS, 2048, 100)
    for token in tokenizer.get_vocab():
        letters = token.replace("Ġ", " ").strip()
        assert " " not in letters or token in tokenizer.all_special_tokens
        assert not re.search(r"[0-9][^0-9]|[^0-9][0-9]", letters)


def test_any_text_survives():
    tokenizer = learned_tokenizer(TEXTS, 2048, 100)
    for text in (*TEXTS, "Ωhm  two spaces\n\n\ttab 1,234.5 €3½ 100000"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_tokens_without_whole_numbers():
    assert pieces(learned_tokenizer(TEXTS), "24")[-2:] == ["2", "4"]


@pytest.mark.parametrize("largest", [60, 110])
def test_a_vocabulary_without_room_for_all_numbers_is_refused(largest):
    texts = TEXTS[:200]
    with pytest.raises(UnmaskError, match=r"give at least [0-9]+, or a smaller") as refusal:
        learned_tokenizer(texts, 300, largest)
    needed = int(re.search(r"at least (\d+)", str(refusal.value)).group(1))
    tokenizer = learned_tokenizer(texts, needed, largest)
    assert all(pieces(tokenizer, str(n)) == [str(n)] for n in range(largest + 1))
    with pytest.raises(UnmaskError, match=f"give at least {needed},"):
        learned_tokenizer(texts, needed - 1, largest)
