"""Single lines with a hidden result."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from unmask import UnmaskError, load_task
from unmask.models.tokenizer import learned_tokenizer
from unmask.pretraining import PretrainConfig
from unmask.pretraining.data import (
    BATCHES_AT_ONCE,
    Vocabulary,
    find_vocabulary,
    varied_batches,
)
from unmask.pretraining.results import find_kinds, line_batches, pad_lines, split_lines

STEPS = range(100)
TASK = load_task("word-problems")
CONFIG = PretrainConfig(
    task="word-problems",
    vocabulary=2048,
    whole_numbers=100,
    buffer_lengths=(48, 192),
    result_lines=8,
)


@pytest.fixture(scope="module")
def vocabulary():
    return find_vocabulary(TASK, CONFIG)


@pytest.mark.parametrize(
    ("answer", "results"),
    [
        ("He has 2 + 3 = 5 apples.\n#### 5", ["5"]),
        ("He pays 2 * $3 = $6 + $1 = $7 now.\n6 - 4 = 2 it is.", ["7", "2"]),
        ("23*3=69", ["69"]),
        ("x = 4", []),
        ("He has 5 apples and 6 pears today.", []),
    ],
)
def test_the_last_number_behind_an_equals_sign_is_found(vocabulary, answer, results):
    tokens = vocabulary.tokenizer(answer)["input_ids"]
    lines = split_lines(tokens, find_kinds(vocabulary))
    decode = vocabulary.tokenizer.decode
    assert [decode([line[i] for i in number]) for line, number in lines] == results


@pytest.mark.parametrize("whole_numbers", [None, 20])
def test_all_digits_of_a_number_are_hidden(whole_numbers):
    texts = [e.answer for e in TASK.examples("train", 100)]
    tokenizer = learned_tokenizer(texts, 1024, whole_numbers)
    vocabulary = Vocabulary(tokenizer, 100, 100, 100)
    answer = "7 boxes * 16 pens = 112 pens\n23*30=690\n2 * $50 = $100 + $11 = $111 now"
    lines = split_lines(tokenizer(answer)["input_ids"], find_kinds(vocabulary))
    batch = pad_lines(lines, tokenizer.eos_token_id)
    shown = [
        tokenizer.decode(row[~hidden][: end - 1 - hidden.sum()])
        for row, hidden, end in zip(batch.tokens, batch.masks, batch.ends, strict=True)
    ]
    assert shown == ["7 boxes * 16 pens =  pens", "23*30=", "2 * $50 = $100 + $11 = $ now"]


def test_each_row_is_a_line_with_one_hidden_number(vocabulary):
    for batch in islice(line_batches(TASK, vocabulary, CONFIG, STEPS), BATCHES_AT_ONCE):
        assert len(batch.tokens) == CONFIG.result_lines
        assert (batch.masks.sum(1) == 1).all()
        for row, end, hidden in zip(batch.tokens, batch.ends, batch.masks, strict=True):
            text = vocabulary.tokenizer.decode(row[: end - 1])
            assert "=" in text and "\n" not in text
            assert vocabulary.tokenizer.decode(row[hidden]).isdigit()
            assert (row[end - 1 :] == vocabulary.tokenizer.eos_token_id).all()


def test_a_step_has_the_same_lines_wherever_a_run_starts(vocabulary):
    whole = list(islice(line_batches(TASK, vocabulary, CONFIG, STEPS), 20))
    late = next(line_batches(TASK, vocabulary, CONFIG, STEPS[19:]))
    assert torch.equal(whole[19].tokens, late.tokens)


def test_long_lines_do_not_stand_beside_long_examples(vocabulary):
    """Each is shuffled on its own: how long its batches are says nothing of the other's."""
    lines = islice(line_batches(TASK, vocabulary, CONFIG, STEPS), BATCHES_AT_ONCE)
    whole = varied_batches(TASK, vocabulary, CONFIG, STEPS, CONFIG.buffer_lengths)
    pairs = zip(lines, whole, strict=False)
    lengths = torch.tensor([[float(x.ends.float().mean()) for x in pair] for pair in pairs])
    assert lengths.T.corrcoef()[0, 1].abs() < 0.5


def test_a_task_without_such_lines_is_refused(vocabulary):
    with pytest.raises(UnmaskError, match="result_lines"):
        next(line_batches(load_task("reasoning_gym:leg_counting"), vocabulary, CONFIG, STEPS))


def test_lines_need_buffers():
    with pytest.raises(UnmaskError, match="result_lines"):
        replace(CONFIG, buffer_lengths=None)
    with pytest.raises(UnmaskError, match="result_lines"):
        replace(CONFIG, result_lines=-1)
