"""The run directory: what a run was started with, and all that changes from round to round."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import ConfigDict
from typing_extensions import TypedDict

from unmask.errors import UnmaskError, count_of, refuse_errors
from unmask.files import check_data, check_plain, read_json, write_json
from unmask.models.head import CONFIDENCE_RULE
from unmask.policies import LearnedPolicy, PolicyNetwork
from unmask.processes import count_processes
from unmask.provenance import provenance
from unmask.settings import change_settings, flat_settings
from unmask.tasks import Task
from unmask.tensors import (
    check_weights,
    load_optimizer,
    optimizer_tensors,
    read_tensors,
    read_whole,
    write_tensors,
)
from unmask.training.config import AUTO, TrainConfig
from unmask.training.labels import Label
from unmask.training.rewards import Reward, name_function
from unmask.training.session import Session, new_network

# What may differ when a run is resumed: it changes where, on what and how fast a run takes place,
# never what it computes. Not micro_batch: gradients are summed in another order then.
FREE = ("out", "resume", "device", "batch_size", "save_every")
CHECKPOINT = "checkpoint.safetensors"


class StartedRun(TypedDict):
    """run.json. Runs of older versions recorded no functions and no task of the user's."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    settings: dict[str, Any]
    reward_function: NotRequired[str | None]
    label_function: NotRequired[str | None]
    task_object: NotRequired[str | None]
    provenance: NotRequired[dict[str, Any]]


@dataclass
class TrainState:
    """All that changes from round to round.

    Attributes:
        network: the policy network.
        optimizer: of its parameters.
        round: how many rounds are over.
        best: the largest mean reward on validation prompts so far.
        evaluated: the round of the latest evaluation that `best` knows.
        first: the network that GRPO began with, while `kl_penalty` needs it.
    """

    network: PolicyNetwork
    optimizer: torch.optim.Optimizer
    round: int = 0
    best: float = -math.inf
    evaluated: int = 0
    first: PolicyNetwork | None = None


def new_state(session: Session) -> TrainState:
    """The state before the first round. Where a checkpoint is to replace it, the policy that the
    run began with is not needed any more."""
    begins = rounds_done(session.config) is None
    network = new_network(session, session.config.policy.start if begins else None)
    config = session.config.optim
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    return TrainState(network, optimizer)


def copy_network(network: PolicyNetwork) -> PolicyNetwork:
    """A copy that is not trained."""
    return copy.deepcopy(network).requires_grad_(False)


def rounds_done(config: TrainConfig) -> int | None:
    """How many rounds are over, by the checkpoint of the run that is resumed; None without one.

    Raises:
        UnmaskError: if it is damaged.
    """
    path = config.run.out / CHECKPOINT
    if config.run.resume is None or not path.exists():
        return None
    with refuse_misfit(path):
        return read_whole(read_tensors(path), "round", config.rollout.rounds)


def refuse_misfit(path: Path) -> AbstractContextManager[None]:
    """`refuse_errors` of a checkpoint that is not of the run in whose directory it is."""
    return refuse_errors(f"{path} does not fit the settings in run.json", "start a new run")


def save_state(state: TrainState, directory: Path) -> None:
    """Writes the checkpoint: one file, replaced whole."""
    tensors = {f"policy/{name}": value for name, value in state.network.state_dict().items()}
    if state.first is not None:
        tensors |= {f"first/{name}": value for name, value in state.first.state_dict().items()}
    tensors |= optimizer_tensors(state.optimizer, "optimizer")
    tensors |= {
        "round": torch.tensor(state.round),
        "best": torch.tensor(state.best, dtype=torch.float64),
        "evaluated": torch.tensor(state.evaluated),
    }
    write_tensors(directory / CHECKPOINT, tensors)


def load_state(state: TrainState, directory: Path, device: torch.device, rounds: int) -> None:
    """Takes up the checkpoint in a run directory, whose run has so many `rounds`. Without one,
    because the run was killed before the first, it starts over.

    Raises:
        UnmaskError: if the file is damaged or of another policy.
    """
    path = directory / CHECKPOINT
    if not path.exists():
        return
    tensors = read_tensors(path, device)
    weights, first = (
        {name[len(part) :]: value for name, value in tensors.items() if name.startswith(part)}
        for part in ("policy/", "first/")
    )
    with refuse_misfit(path):
        check_weights(weights, state.network.state_dict())
        number = read_whole(tensors, "round", rounds)
        # Older checkpoints were written after the evaluation of their round.
        last = "evaluated" if "evaluated" in tensors else "round"
        evaluated = read_whole(tensors, last, number)
        best = float(tensors["best"])
        if math.isnan(best):
            raise ValueError("its best reward is no number")
        load_optimizer(state.optimizer, tensors, "optimizer")
        state.network.load_state_dict(weights)
        if first:
            check_weights(first, state.network.state_dict())
            state.first = copy_network(state.network)
            state.first.load_state_dict(first)
    state.round, state.best, state.evaluated = number, best, evaluated


def deployed_policy(
    session: Session, network: PolicyNetwork, metrics: dict[str, Any] | None = None
) -> LearnedPolicy:
    """The policy as it is used: with fallback, at the evaluation temperature, and with what it was
    trained on."""
    config, trained = session.config, session.config.settings()
    trained["block_length"] = session.model.attention_block or session.options.block_length
    metadata = {
        "trained": trained,
        "length": session.length,
        "template": session.task.template,
        "metrics": metrics or {},
        **provenance(session.processes.device, session.model.dtype),
    }
    return LearnedPolicy(
        network,
        config.policy.action,
        config.evaluation.eval_temperature,
        alpha=config.rewards.alpha if config.rewards.alpha_range else None,
        metadata=metadata,
    )


def own_names(
    reward: Reward | None, label: Label | None, task: Task | None
) -> dict[str, str | None]:
    """The names of the user's own functions and task as run.json has them; None where the settings
    say which."""
    return {
        "reward_function": None if reward is None else name_function(reward),
        "label_function": None if label is None else name_function(label),
        "task_object": None if task is None else task.name,
    }


def write_run(
    session: Session,
    reward: Reward | None,
    label: Label | None = None,
    task: Task | None = None,
) -> None:
    """Writes run.json: settings, the names of the user's own reward, label and task, and
    provenance. A resumed run keeps the file that it was started with."""
    config = session.config
    write_json(
        config.run.out / "run.json",
        {
            "settings": config.settings(),
            **own_names(reward, label, task),
            "confidence": CONFIDENCE_RULE,
            "provenance": provenance(session.processes.device, session.model.dtype),
        },
    )


def resume_config(
    config: TrainConfig,
    reward: Reward | None = None,
    label: Label | None = None,
    task: Task | None = None,
) -> TrainConfig:
    """The settings of the run directory `config.run.resume`, with those of the given options that a
    resumed run may change.

    Raises:
        UnmaskError: if it is not a run directory, or an option, a reward, a label or a task was
            given that contradicts the run, or there are more or fewer processes now.
    """
    directory = config.run.resume
    assert directory is not None, "only a run that is resumed has saved settings"
    if directory.is_dir() and not (directory / "run.json").exists():
        raise UnmaskError(
            f"{directory} holds no run.json: it is no training run, or one that was killed before "
            "its start; give the command that starts it again, without --resume"
        )
    check_plain(directory)
    saved = read_json(directory / "run.json")
    where = f"{directory}/run.json, which is not of this version's training runs,"
    check_data(saved, StartedRun, where)
    try:
        # What an older run did not know has its plain default, so that no recipe fills it in.
        settings = flat_settings(TrainConfig()) | {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in saved["settings"].items()
        }
        if "dtype" not in saved["settings"]:  # it was always bfloat16 then
            settings["dtype"] = "bfloat16"
        if not isinstance(settings.get("imitate", ()), tuple):
            # Runs of the first versions imitated one heuristic or None.
            settings["imitate"] = (settings["imitate"],) if settings["imitate"] else ()
        loaded = TrainConfig(**settings)
    except (TypeError, KeyError, AttributeError, ValueError, UnmaskError):
        raise UnmaskError(
            f"{directory}/run.json is not of this version's training runs; start a new run"
        ) from None
    wanted, has = flat_settings(config), flat_settings(loaded)
    others = sorted(
        name
        for name in config.given
        if name not in FREE and wanted[name] != has[name] and (name, wanted[name]) != AUTO
    )
    if others:
        raise UnmaskError(
            f"{directory} is a run of another configuration ({', '.join(others)} differ); leave "
            "those options out"
        )
    if "out" in config.given and config.run.out.absolute() != directory.absolute():
        raise UnmaskError(
            f"out is {config.run.out}, but a resumed run goes on in its own directory "
            f"({directory}); leave out the option"
        )
    for key, now in own_names(reward, label, task).items():
        check_own(saved, key, now, directory)
    check_processes(saved, directory)
    if loaded.decode.temperature > 0 and saved.get("confidence") != CONFIDENCE_RULE:
        raise UnmaskError(
            f"{directory} was started by a version whose confidences above temperature 0 were the "
            f"largest probability, and now they are the {CONFIDENCE_RULE}; start a new run"
        )
    changed = {name: wanted[name] for name in config.given if name in FREE}
    return change_settings(loaded, changed | {"out": directory, "resume": directory})


def check_own(saved: dict[str, Any], key: str, now: str | None, directory: Path) -> None:
    """Refuses another reward, label or task of the user's than the one a run was started with. Runs
    of older versions did not record it, so they take any.

    Args:
        saved: run.json.
        key: one of `own_names`.
        now: the name of what was given.
        directory: of the run.

    Raises:
        UnmaskError: naming both.
    """
    if key not in saved or saved[key] == now:
        return
    before, what, kind = saved[key], key.partition("_")[0], key.replace("_", " ")
    was = f"the {kind} {before}" if before else f"no {kind} of its own"
    given = f"{now} was given" if now else "none was given"
    do = f"leave {what} out"
    if before:
        again = "the same task" if what == "task" else f"{what}={before.split('.')[-1]}"
        do = f"give train() {again}"
    raise UnmaskError(f"{directory} was started with {was}, and {given}; {do}")


def check_processes(saved: dict[str, Any], directory: Path) -> None:
    """Refuses another number of processes than a run was started with: each has prompts of its own,
    so their number decides what a round is. Runs of older versions did not record it.

    Raises:
        UnmaskError: naming both numbers.
    """
    now = count_processes()
    before = saved.get("provenance", {}).get("processes", now)
    if before != now:
        raise UnmaskError(
            f"{directory} was started with {count_of(before, 'process', 'processes')}, and now "
            f"there {'is 1' if now == 1 else f'are {now}'}; resume it with {before}, or start a "
            "new run"
        )
