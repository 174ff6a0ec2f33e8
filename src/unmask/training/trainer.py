"""Trains an unmasking policy with GRPO on a frozen model (arXiv 2512.09106, section 3.3).

Where our defaults differ from the paper (experiments/llada-8b.yaml sets the paper's):

* The policy reads confidences as log-odds, the paper's as probabilities (`transform`).
* The output bias starts at −1, the paper's at −2 (`initial_bias`).
* The network's width is 64, the paper's 128 (`width`).
* The policy also reads the smallest eligible confidence before and behind each position; the
  paper's reads its own alone (`context`).
* The learning rate is 1e-3, the paper's 3e-5 (`lr`). Its warm-up is counted in rounds, the paper's
  in optimiser steps (`warmup`); a cosine to zero follows in both.
* An epoch is cut into four optimiser steps, the paper's is one (`minibatches`); ε is 0.2, the
  paper's is 0.5, or 0.2 with expert steering (`epsilon`).
* One optimiser step sees the prompts of all processes; the paper counts 16 prompts an update, we
  count `prompts` on each process.
* Prompts are whole; the paper cuts them to their last 200 tokens in training.
* 1/16 of the training problems of GSM8K and MATH is held out for validation, and `gsm8k+math`
  draws from both with equal probability. So 936 rounds of 16 prompts are about 1.07 epochs; the
  paper's are one.
* A group all of whose rewards are equal is left out of the batch, unless there is a dense reward,
  an entropy bonus or a KL penalty. In the paper it has advantage 0, which gives the same gradient
  without these.
* A round in which no group has signal then takes no optimiser step, so weight decay does not act
  either.

Where we follow the paper and the option could do otherwise: a draw that reveals nothing costs a
pass in rollouts and reveals the best position when the policy is used (`fallback`); advantages are
not divided by their standard deviation (`scaled`); no entropy bonus (`entropy_bonus`); actions are
independent (`action`). Additions of ours: the warm start by imitation (`imitate`), a start that
follows confidence (`initial_slope`), one policy for a range of α (`alpha_range`), α that moves
(`alpha_start`), the dense reward (`dense`).

The objective is `Grpo.loss` in phases.py, and `grpo_loss` in grpo.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unmask.errors import UnmaskError
from unmask.extras import require_extras
from unmask.files import new_directory, remove_parts
from unmask.policies import LearnedPolicy
from unmask.processes import Processes
from unmask.settings import change_settings, flat_settings
from unmask.tasks import Task
from unmask.tasks.base import check_task
from unmask.training.alpha import alpha_grid
from unmask.training.checkpoint import (
    TrainState,
    copy_network,
    deployed_policy,
    load_state,
    new_state,
    resume_config,
    rounds_done,
    save_state,
    write_run,
)
from unmask.training.config import TrainConfig
from unmask.training.front import calibrate
from unmask.training.labels import Label
from unmask.training.phases import (
    Grpo,
    Phase,
    check_phases,
    describe_imitation,
    load_phases,
    phase_of_round,
)
from unmask.training.report import MetricsLog
from unmask.training.rewards import Reward
from unmask.training.session import Session, check_room, prepare_session
from unmask.training.supervised import train_from_traces
from unmask.training.update import Anchor, check_update, update


def train(
    config: TrainConfig,
    reward: Reward | None = None,
    label: Label | None = None,
    task: Task | None = None,
) -> Path:
    """Trains a policy; also what `unmask train` runs.

    All that is random is drawn from (seed, round, process), and the checkpoint is one file that is
    replaced whole, so a run that is killed anywhere and resumed gives the same weights, bit for bit
    on the same machine.

    Args:
        config: the settings.
        reward: your own function of (correctness [N], NFE [N], L, α) instead of the setting
            `reward`. The run records its name, and resuming asks for it again.
        label: with `from_traces`, your own function of `TraceSteps` that says which reveals are
            good (unmask.training.labels), instead of the setting `label`.
        task: your own `unmask.tasks.Task` instead of the one that the setting `task` names. The run
            records its name, and resuming asks for it again.

    Returns:
        The run directory: `best` and `last` (policy directories), `metrics.jsonl`, `run.json`,
            `checkpoint.safetensors`.

    Raises:
        UnmaskError: for unusable settings or directories, or if a reward, a likelihood or a weight
            is not finite.

    Examples:
        >>> from pathlib import Path
        >>> config = unmask.TrainConfig(
        ...     out=Path("runs/tiny"), rounds=1, prompts=1, rollouts=2, eval_prompts=2
        ... )
        >>> out = unmask.train(config)
        round    1/1  reward ...
        >>> unmask.load_policy(out / "last").beta
        1.0
    """
    require_extras("training", ("train",))
    resumes = config.run.resume is not None
    if task is not None:
        check_task(task)
    if resumes:
        config = resume_config(config, reward, label, task)
    elif task is not None:  # its name counts as given, so that traces of another task are refused
        config = change_settings(config, {"task": task.name}).with_given({*config.given, "task"})
    if config.traces.from_traces is not None:
        if reward is not None:
            raise UnmaskError("a reward was given with from_traces, which has none; leave it out")
        return train_from_traces(config, label, task)
    check_trace_options(config, label)
    processes = Processes.join(config.run.device)
    with processes.hold(config.run.out):
        return run_rounds(config, reward, processes, task)


def run_rounds(
    config: TrainConfig, reward: Reward | None, processes: Processes, task: Task | None = None
) -> Path:
    """`train` of complete settings, in a directory that nobody else writes to."""
    resumes = config.run.resume is not None
    if processes.main and not resumes:
        go_on = f"`unmask train --resume {config.run.out}`"
        new_directory(config.run.out, begun="run.json", go_on=go_on)
    done = rounds_done(config) or 0
    phases = load_phases(config, processes.device, done)  # before the model, which may take long
    session = prepare_session(config, processes, reward, task)
    if session.config != config:
        config = session.config
        phases = load_phases(config, processes.device, done)
    check_phases(session, phases)
    state = new_state(session)
    check_room(session, state.network)
    if resumes and processes.main:
        remove_parts(config.run.out)
    if resumes:
        load_state(state, config.run.out, processes.device, config.rollout.rounds)
        check_policies(state, session)
    elif processes.main:
        write_run(session, reward, task=task)
    processes.barrier()
    rounds = config.rollout.rounds
    if processes.main and (words := describe_imitation(phases[0], state.round, rounds)):
        print(words, flush=True)
    with MetricsLog(config.run.out, state.round, rounds, processes.main) as log:
        if is_due(state.round, config.evaluation.eval_every, rounds) > state.evaluated:
            finish_round(session, state, log)
        while state.round < rounds:
            entry = train_round(session, state, phase_of_round(phases, state.round))
            state.round += 1
            log.write({"round": state.round, **entry})
            finish_round(session, state, log)
    # The other processes need not wait for this: with a large model that takes long.
    if processes.main:
        calibrate(session, config.run.out)
    return config.run.out


def check_trace_options(config: TrainConfig, label: Label | None) -> None:
    """Refuses what is for learning from traces only.

    Raises:
        UnmaskError: naming the options.
    """
    given = config.given & flat_settings(config.traces).keys() - {"from_traces"}
    if config.run.resume is None and (given or label is not None):
        raise UnmaskError(
            f"{', '.join(sorted(given)) or 'label'} was given without from_traces; name a "
            "directory that `unmask record` wrote, or leave it out"
        )


def check_policies(state: TrainState, session: Session) -> None:
    """Reads the policies of a run that is resumed, before anything is written: it ends with them.

    Raises:
        UnmaskError: if one of them is damaged, or missing where no round is left to write it.
    """
    rounds, directory = session.config.rollout.rounds, session.config.run.out
    every = session.config.evaluation.eval_every
    over = state.round == rounds and is_due(rounds, every, rounds) <= state.evaluated
    for name in ("best", "last"):
        if over or (directory / name / "config.json").exists():
            LearnedPolicy.from_pretrained(directory / name)


def train_round(session: Session, state: TrainState, phase: Phase) -> dict[str, float]:
    """Rollouts, rewards and update of one round; its metrics, equal in every process."""
    config, number = session.config, state.round
    policy = LearnedPolicy(state.network, config.policy.action, fallback=config.rollout.fallback)
    with state_kept(session, state):
        round_ = phase.collect(session, policy, number)
    began = time.perf_counter()
    for group in state.optimizer.param_groups:
        group["lr"] = phase.learning_rate(number)
    updated = update(
        policy,
        round_.decisions,
        state.optimizer,
        phase,
        config.optim,
        session.processes,
        session.round_seed(number),
        anchor_of(state, phase),
    )
    check_update(updated, round_, state.network, f"round {number + 1}")
    of_process = {**updated.metrics, "update_seconds": time.perf_counter() - began}
    return round_.metrics(session.processes, of_process) | {"lr": phase.learning_rate(number)}


def anchor_of(state: TrainState, phase: Phase) -> Anchor | None:
    """What a round of GRPO stays near to: the policy that GRPO began with, whose weight falls to
    zero. The state keeps its network from the first such round to the last."""
    weight = phase.kl_weight(state.round) if isinstance(phase, Grpo) else 0.0
    if weight == 0:
        state.first = None
        return None
    if state.first is None:
        state.first = copy_network(state.network)
    return Anchor(LearnedPolicy(state.first), weight)


@contextmanager
def state_kept(session: Session, state: TrainState) -> Iterator[None]:
    """Writes the checkpoint if the body fails: rollouts and rewards come from the model, the task
    and the user's own functions, and the rounds before are not to be lost with them.

    Whichever process fails writes it, since all have the same state: the others wait for it in a
    collective until the launcher ends them.
    """
    try:
        yield
    except BaseException:
        if state.round:
            save_state(state, session.config.run.out)
        raise


def finish_round(session: Session, state: TrainState, log: MetricsLog) -> None:
    """Evaluates and saves, where the round that is just over asks for it.

    The checkpoint is written before the evaluation too, which may fail: then only the evaluation
    has to be repeated.
    """
    config, main = session.config, session.processes.main
    out, rounds = config.run.out, config.rollout.rounds
    entry = log.latest(state.round)
    if is_due(state.round, config.evaluation.eval_every, rounds):
        if main:
            save_state(state, out)
        entry |= evaluate_policy(session, state)
        state.evaluated = state.round
        log.write(entry)
        if entry["eval_reward"] > state.best:
            state.best = entry["eval_reward"]
            if main:
                deployed_policy(session, state.network, entry).save_pretrained(out / "best")
    log.show(entry)
    if main and is_due(state.round, config.run.save_every, rounds):
        deployed_policy(session, state.network, entry).save_pretrained(out / "last")
        save_state(state, out)


def is_due(done: int, every: int, rounds: int) -> int:
    """`done`, the number of rounds that are over, if something done `every` so many rounds and at
    the end is due now; else 0."""
    return done if done and (done % every == 0 or done == rounds) else 0


def evaluate_policy(session: Session, state: TrainState) -> dict[str, Any]:
    """Accuracy, NFE and reward on validation prompts, each process taking its share.

    A policy for a range of α is measured at its ends and its middle, on the same prompts.
    """
    config, processes = session.config, session.processes
    grid = alpha_grid(config.rewards, 3)
    examples = session.task.examples("validation", config.evaluation.eval_prompts)
    share = processes.share(examples)
    sums = {"eval_reward": 0.0, "eval_accuracy": 0.0, "eval_nfe": 0.0}
    if share:
        rows = share * len(grid)
        alpha = torch.tensor(grid, device=processes.device).repeat_interleave(len(share))
        moment = f"the evaluation after round {state.round}"
        generation = session.decode(rows, deployed_policy(session, state.network), 0, alpha)
        correctness = session.score(generation, rows, moment)
        reward = session.reward_rows(correctness, generation.nfe, alpha, rows, moment)
        columns = (reward, correctness, generation.nfe)
        sums = {
            name: float(column.sum()) / len(grid)
            for name, column in zip(sums, columns, strict=True)
        }
    return processes.means(sums, len(share))
