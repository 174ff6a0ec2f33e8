"""Batches of training examples: the same as the slow statements, without their cost."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask import UnmaskError
from unmask.tasks import Example, Task
from unmask.tasks import mixture as mixtures
from unmask.tasks.examples import split_of
from unmask.tasks.sources import DatasetSource, GeneratedSource


def data_set(size):
    rows = [Example(f"p{i}", f"a{i}") for i in range(size)]
    return DatasetSource(lambda split: rows)


def slow_rows(source, name, start, stop, seed):
    """Shuffles the whole data set for every single row."""
    rows = source.rows("train")
    found = []
    for i in range(start, stop):
        epoch, place = divmod(i, len(rows))
        found.append(random.Random(f"{name}/{seed}/{epoch}").sample(rows, len(rows))[place])
    return found


def slow_mixture(source, start, stop, seed, group):
    """Draws the tasks of all examples since the first one."""
    shares = np.array(source.weights) / sum(source.weights)
    chosen = np.random.default_rng(seed).choice(len(source.tasks), stop, p=shares)
    found = {}
    for i, task in enumerate(source.tasks):
        first, last = int((chosen[:start] == i).sum()), int((chosen == i).sum())
        found[i] = iter(task.source.batch(task.name, first, last, seed, group))
    return [replace(next(found[i]), task=source.tasks[i].name) for i in chosen[start:].tolist()]


# Starts and sizes in any order: rounds follow one another, skip the other ranks', or start again.
ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=6)


@given(ranges, st.integers(1, 30), st.integers(0, 3))
def test_rows_are_those_of_a_fresh_shuffle(ranges, size, seed):
    source = data_set(size)
    for start, n in ranges:
        expected = slow_rows(source, "t", start, start + n, seed)
        assert source.batch("t", start, start + n, seed, 0) == expected


def make_tasks():
    def score(completion, example):
        return 1.0

    drawn = GeneratedSource(lambda rng: Example(str(rng.random()), "a"))
    sources = (data_set(7), data_set(40), drawn)
    return tuple(Task(f"t{i}", source, score) for i, source in enumerate(sources))


@given(ranges, st.integers(0, 3))
def test_examples_of_a_mixture_are_those_of_drawing_all_tasks_again(ranges, seed):
    source = mixtures.MixtureSource(make_tasks(), (1.0, 2.5, 0.5))
    for start, n in ranges:
        expected = slow_mixture(source, start, start + n, seed, start)
        assert source.batch("m", start, start + n, seed, start) == expected


def test_a_far_example_of_a_mixture_is_the_same(monkeypatch):
    monkeypatch.setattr(mixtures, "CHUNK", 100)
    source = mixtures.MixtureSource(make_tasks(), (1.0, 2.5, 0.5))
    assert source.batch("m", 5000, 5010, 3, 1) == slow_mixture(source, 5000, 5010, 3, 1)


def test_an_epoch_is_shuffled_once(monkeypatch):
    shuffles = []
    sample = random.Random.sample

    def counted(self, population, k, **named):
        shuffles.append(k)
        return sample(self, population, k, **named)

    monkeypatch.setattr(random.Random, "sample", counted)
    source = data_set(1000)
    for step in range(300):  # 1.2 epochs
        source.batch("t", 4 * step, 4 * step + 4, 0, 0)
    assert shuffles == [1000, 1000]


@pytest.mark.parametrize("world", [1, 4])
def test_a_mixture_draws_each_task_once(monkeypatch, world):
    drawn = []
    draw = mixtures.TaskSequence.draw

    def counted(self, n):
        drawn.append(n)
        return draw(self, n)

    monkeypatch.setattr(mixtures.TaskSequence, "draw", counted)
    source = mixtures.MixtureSource(make_tasks(), (1.0, 2.5, 0.5))
    for step in range(100):
        start = 8 * world * step
        source.batch("m", start, start + 8, 0, step)
    assert sum(drawn) == 8 * world * 99 + 8


def endless(size):
    """A generator of `size` different problems, none of which is for validation."""
    prompts = [f"{i} + 1 =" for i in range(1000)]
    prompts = [prompt for prompt in prompts if split_of(prompt) != "validation"][:size]
    return GeneratedSource(lambda rng: Example(rng.choice(prompts), "a"))


@pytest.mark.parametrize("size", [1, 20])
def test_a_generator_without_problems_of_a_split_is_refused(size):
    """It would be drawn from without end."""
    task = Task("few", endless(size), lambda completion, example: 1.0)
    with pytest.raises(UnmaskError, match="task few has no validation problem among 10000 drawn"):
        task.examples("validation", 1)
    mixed = mixtures.mixture("mixed", [task, *make_tasks()], [1, 1, 1, 1])
    with pytest.raises(UnmaskError, match="task few has no validation problem"):
        mixed.examples("validation", 20)


def test_a_generator_of_few_problems_gives_those_it_has():
    task = Task("few", endless(40), lambda completion, example: 1.0)
    with pytest.warns(UserWarning, match="were asked for"):
        found = task.examples("test", 100)
    assert 0 < len(found) == len({e.prompt for e in found}) < 40


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.filterwarnings("ignore:task")
def test_rows_behind_many_equal_ones_are_found(split):
    rows = [Example("same", "a")] * 3000 + [Example(f"p{i}", "a") for i in range(20)]
    task = Task("rows", DatasetSource(lambda split: rows), lambda completion, example: 1.0)
    assert len(task.examples(split, 30)) == 21
    drawn = Task("drawn", GeneratedSource(lambda rng: Example("p", "a")), task.score)
    other = "train" if split_of("p") == "train" else "test"
    mixed = mixtures.mixture("mixed", [task, drawn], [1, 1])
    assert len(mixed.examples(split if split == other else other, 30)) == 22
