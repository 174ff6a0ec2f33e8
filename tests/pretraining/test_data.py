"""Batches of examples."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from unmask import UnmaskError, load_task
from unmask.pretraining import PretrainConfig
from unmask.pretraining.data import (
    BATCHES_AT_ONCE,
    encode,
    find_vocabulary,
    fits,
    tokenize,
    varied_batches,
)

STEPS = range(100)
TASK = load_task("word-problems")
LENGTHS = (48, 192)
CONFIG = PretrainConfig(
    task="word-problems",
    vocabulary=2048,
    whole_numbers=100,
    buffer_lengths=LENGTHS,
    batch_size=8,
)


@pytest.fixture(scope="module")
def vocabulary():
    return find_vocabulary(TASK, CONFIG)


def test_rows_hold_a_prompt_its_answer_and_ends_of_sequence_alone(vocabulary):
    eos = vocabulary.tokenizer.eos_token_id
    batches = list(islice(varied_batches(TASK, vocabulary, CONFIG, STEPS, LENGTHS), 40))
    seen = set()
    for batch in batches:
        for row, end, hidden in zip(batch.tokens, batch.ends, batch.masks, strict=True):
            text = vocabulary.tokenizer.decode(row[: end - 1])
            assert "####" in text and eos not in row[: end - 1]
            assert (row[end - 1 :] == eos).all()
            assert hidden.any() and not hidden[0]
            seen.add(text)
    assert len(seen) > 0.9 * 40 * 8


def test_buffers_have_many_lengths_and_rows_of_a_batch_are_alike(vocabulary):
    batches = list(
        islice(varied_batches(TASK, vocabulary, CONFIG, STEPS, LENGTHS), 2 * BATCHES_AT_ONCE)
    )
    lengths = [batch.tokens.shape[1] for batch in batches]
    assert len(set(lengths)) > BATCHES_AT_ONCE
    spread = torch.stack([batch.ends.float().std() for batch in batches]).mean()
    assert spread < 0.3 * torch.cat([batch.ends for batch in batches]).float().std()


def test_a_step_has_the_same_batch_wherever_a_run_starts(vocabulary):
    whole = list(islice(varied_batches(TASK, vocabulary, CONFIG, STEPS, LENGTHS), 24))
    late = list(islice(varied_batches(TASK, vocabulary, CONFIG, STEPS[19:], LENGTHS), 5))
    for one, other in zip(whole[19:], late, strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.masks, other.masks)


def test_an_example_that_does_not_fit_is_named(vocabulary):
    example = TASK.examples("train", 1)[0]
    with pytest.raises(UnmaskError, match="tokens; the task allows"):
        encode(replace(vocabulary, prompt_length=3), [example])
    assert fits(vocabulary, *tokenize(vocabulary.tokenizer, [example])[0])


def test_a_task_whose_examples_never_fit_is_refused(vocabulary):
    short = replace(vocabulary, answer_length=1)
    with pytest.raises(UnmaskError, match="word-problems"):
        next(varied_batches(TASK, short, CONFIG, STEPS, LENGTHS))
