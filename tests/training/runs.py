"""Small training runs, and how they are killed."""

import json

import unmask.training.trainer as trainer
from unmask import TrainConfig
from unmask.tensors import read_tensors

SETTINGS = {
    "task": "chain",
    "max_new_tokens": 6,
    "block_length": 3,
    "rounds": 6,
    "prompts": 3,
    "rollouts": 4,
    "width": 16,
    "lr": 1e-2,
    "eval_prompts": 4,
    "eval_every": 2,
    "save_every": 2,
}


def tiny_run(out, tiny_dir, **changes):
    """The settings of a run that takes a second."""
    return TrainConfig(out=out, model=str(tiny_dir), **(SETTINGS | changes))


def read_metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_equal_weights(run, other, names=("checkpoint.safetensors",)):
    for name in names:
        a, b = read_tensors(run / name), read_tensors(other / name)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].equal(b[key]), (name, key)


class Killed(BaseException):
    """What a kill is in these tests: nothing catches it."""


def kill_before_round(monkeypatch, number, original=trainer.train_round):
    """From now on a training run dies when it begins round `number`, counted from 0."""

    def train_round(session, state, phase):
        if state.round == number:
            raise Killed
        return original(session, state, phase)

    monkeypatch.setattr(trainer, "train_round", train_round)
