"""Batches of examples."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch

from unmask import UnmaskError, load_task
from unmask.pretraining import PretrainConfig, data
from unmask.pretraining.data import (
    BATCHES_AT_ONCE,
    draw_examples,
    encode,
    find_vocabulary,
    fits,
    fixed_batch,
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


def test_a_task_of_words_may_leave_its_lengths_to_a_sample(monkeypatch):
    """The sample is small here, so that longer examples follow, which are left out."""
    monkeypatch.setattr(data, "SAMPLE", 2)
    chain, config = load_task("chain"), PretrainConfig(batch_size=64)
    for task in (replace(chain, max_prompt_tokens=None), replace(chain, max_new_tokens=None)):
        vocabulary, whole = (find_vocabulary(each, config) for each in (task, chain))
        assert vocabulary.tokenizer.get_vocab() == whole.tokenizer.get_vocab()
        assert vocabulary.prompt_length < whole.prompt_length
        assert fixed_batch(task, vocabulary, config, 0).prompt_lengths.max() <= (
            vocabulary.prompt_length
        )


@pytest.fixture
def rows(tmp_path):
    """A data set of 400 problems, most of them to train on."""
    lines = [json.dumps({"prompt": f"word {i}", "answer": f"{i}"}) for i in range(400)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    return f"jsonl:{path}@verifier=text"


def count_shuffles(monkeypatch):
    """The list to which each shuffle of a data set adds its size."""
    shuffles = []
    sample = random.Random.sample

    def counted(self, population, k, **named):
        shuffles.append(k)
        return sample(self, population, k, **named)

    monkeypatch.setattr(random.Random, "sample", counted)
    return shuffles


def test_a_data_set_is_gone_through_in_epochs(rows, monkeypatch):
    task, config = load_task(rows), PretrainConfig(task=rows, batch_size=16)
    vocabulary = find_vocabulary(task, config)
    size = len(task.source.rows("train"))
    shuffles = count_shuffles(monkeypatch)
    batches = [fixed_batch(task, vocabulary, config, step) for step in range(2 * size // 16)]
    texts = [vocabulary.tokenizer.decode(row) for batch in batches for row in batch.tokens]
    assert set(Counter(texts[:size]).values()) == {1} and texts[:size] != texts[size : 2 * size]
    assert set(Counter(texts).values()) <= {1, 2}
    assert len(shuffles) == 2
    late = fixed_batch(load_task(rows), vocabulary, config, 20)
    assert torch.equal(late.tokens, batches[20].tokens)


def test_rows_that_do_not_fit_are_replaced_by_those_that_follow(rows):
    task, config = load_task(rows), PretrainConfig(task=rows, batch_size=16)
    vocabulary = replace(find_vocabulary(task, config), answer_length=2)
    tokens = fixed_batch(task, vocabulary, config, 3).tokens
    first = islice(draw_examples(task, config, 3, 16), 100)
    fitting = [e for e in first if fits(vocabulary, *tokenize(vocabulary.tokenizer, [e])[0])]
    assert torch.equal(tokens, encode(vocabulary, fitting[:16])[0])


def test_a_mixture_with_a_data_set_shuffles_it_once_an_epoch(rows, monkeypatch):
    task, config = load_task(f"{rows}+chain"), PretrainConfig(batch_size=8)
    shuffles = count_shuffles(monkeypatch)
    found = [list(islice(draw_examples(task, config, step, 8), 12)) for step in range(20)]
    assert len(shuffles) == 1
    generated = [e.prompt for part in found for e in part if e.task == "chain"]
    assert len(set(generated)) > 0.9 * len(generated) > 0
    assert found[7] == list(islice(draw_examples(load_task(task.name), config, 7, 8), 12))
