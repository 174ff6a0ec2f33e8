"""Trains a policy from stored traces: one supervised phase without rollouts.

A label says which reveals in a stored step are good. The network learns the chance that a reveal is
good, by a weighted binary cross-entropy, and, where the label gives an order, to rank by it. A
*round* is one pass over the traces. After each the loss on held-out problems is measured; the run
ends when it has not fallen for some rounds, and `best` is the policy of the smallest.

A wrong reveal weighs w times a good one (`wrong_weight`), so the network's logit is
log(p / (1 − p)) − log w where p is the chance: at a low policy temperature it reveals where
p > w / (1 + w).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from unmask.decoding.options import DecodeOptions
from unmask.errors import UnmaskError
from unmask.evaluation.contents import model_contents
from unmask.files import new_directory, remove_parts
from unmask.policies import LearnedPolicy
from unmask.processes import Processes, bf16_autocast
from unmask.settings import change_settings, flat_settings
from unmask.tasks import Task
from unmask.training.alpha import draw_alpha
from unmask.training.checkpoint import (
    TrainState,
    deployed_policy,
    load_state,
    new_state,
    save_state,
    write_run,
)
from unmask.training.config import AUTO, TrainConfig
from unmask.training.finite import check_weights
from unmask.training.front import calibrate
from unmask.training.labels import LABELS, Label, Labels, check_labels
from unmask.training.report import MetricsLog
from unmask.training.rewards import name_function
from unmask.training.session import Session, prepare_session
from unmask.training.traces import Manifest, Traces, TraceSteps, read_manifest

ROUNDS = 20  # passes over the traces at most, where `rounds` is not given
# Options of rollouts and of the GRPO update; nothing reads them here.
UNUSED = (
    *("prompts", "rollouts", "experts", "fallback", "reward", "alpha_start", "dense", "warmup"),
    *("epochs", "minibatches", "epsilon", "scaled", "entropy_bonus", "kl_penalty"),
    *("kl_rounds", "eval_every"),
    *("imitate", "imitation_rounds", "imitation_lr", "preset"),
)
HELD_OUT_STEPS = 8192  # that the held-out loss is measured on at most


def traces_directory(config: TrainConfig) -> Path:
    """Where the traces of a run are."""
    assert config.traces.from_traces is not None, "only runs from traces come here"
    return Path(config.traces.from_traces)


def complete_config(config: TrainConfig) -> TrainConfig:
    """The settings of a new run from traces: model, dtype, task and decode options are those of the
    traces.

    Raises:
        UnmaskError: if the traces cannot be read, or an option was given that they contradict or
            that has no use here.
    """
    directory = traces_directory(config)
    # Without a range of α nothing is told an α.
    unused = {*UNUSED, "alpha"} if config.rewards.alpha_range is None else set(UNUSED)
    if useless := sorted(config.given & unused):
        raise UnmaskError(
            f"{', '.join(useless)} {'has' if len(useless) == 1 else 'have'} no use with "
            "from_traces, where nothing is rolled out; leave out"
        )
    if config.policy.action != "bernoulli":
        raise UnmaskError(
            f"action is {config.policy.action}; a label trains independent reveals, so leave it out"
        )
    manifest = read_manifest(directory)
    wanted = recorded_settings(manifest, directory)
    has = flat_settings(config)
    if has["block_length"] == manifest["shape"]["length"] and wanted["block_length"] is None:
        wanted["block_length"] = has["block_length"]  # both are full diffusion
    differ = sorted(
        n for n in config.given if n in wanted and has[n] != wanted[n] and (n, has[n]) != AUTO
    )
    if differ:
        shown = ", ".join(f"{name} {wanted[name]}" for name in differ)
        raise UnmaskError(
            f"the traces in {directory} were recorded with {shown}; leave {', '.join(differ)} out"
        )
    if "rounds" not in config.given:
        wanted["rounds"] = ROUNDS
    completed = change_settings(config, wanted)
    return completed.with_given(config.given)


def recorded_settings(manifest: Manifest, directory: Path) -> dict[str, Any]:
    """Model, its dtype, task and decode options of traces, by the names of a training's options.

    Raises:
        UnmaskError: if the manifest lacks one.
    """
    held = manifest["settings"]
    names = {
        name for name in flat_settings(DecodeOptions()) if name not in ("block_length", "seed")
    }
    try:
        found = {name: held[name] for name in ("model", "task", "dtype", *sorted(names))}
        length, (block_length,) = manifest["shape"]["length"], held["block_lengths"]
    except (KeyError, TypeError, ValueError):
        raise UnmaskError(
            f"the manifest in {directory} does not say how its traces were decoded; record them "
            "again"
        ) from None
    found = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return found | {"block_length": None if block_length == length else block_length}


@dataclass(frozen=True)
class Lesson:
    """What a run from traces learns from, in one of its processes.

    Attributes:
        session: the run.
        traces: all of them.
        label: says which reveals are good.
        name: of the label.
        learn: int64 [n], the steps that are learnt from.
        held: int64 [m], the steps of held-out problems.
    """

    session: Session
    traces: Traces
    label: Label
    name: str
    learn: Int[Tensor, " n"]
    held: Int[Tensor, " m"]


def prepare_lesson(session: Session, custom: Label | None) -> Lesson:
    """Opens the traces of a run and splits their problems.

    Raises:
        UnmaskError: if they are not finished, damaged, of another model, or lack what the policy or
            the label reads.
    """
    config = session.config
    traces = Traces.open(traces_directory(config))
    shape, recorded = traces.manifest["shape"], traces.manifest["settings"]
    if recorded.get("model_contents") != model_contents(session.model):
        raise UnmaskError(
            f"the traces in {traces.directory} are of another model than {config.data.model} is "
            "now; record them again"
        )
    if config.policy.inputs > shape["inputs"] or (config.policy.hidden and not shape["hidden"]):
        raise UnmaskError(
            f"the policy reads more than the traces in {traces.directory} hold; record them with "
            f"--inputs {config.policy.inputs}{' --hidden' if config.policy.hidden else ''}"
        )
    generator = torch.Generator().manual_seed(config.decode.seed)
    prompts = traces.prompt.unique()
    shuffled = prompts[torch.randperm(len(prompts), generator=generator)]
    count = max(1, round(config.traces.held_out * len(prompts)))
    is_held = torch.isin(traces.prompt, shuffled[:count])
    held, learn = is_held.nonzero()[:, 0], (~is_held).nonzero()[:, 0]
    if not len(learn):
        raise UnmaskError(
            f"the traces in {traces.directory} are of {len(prompts)} problem; record more"
        )
    held = held[torch.randperm(len(held), generator=generator)[:HELD_OUT_STEPS]]
    name = config.traces.label if custom is None else name_function(custom)
    label = LABELS[config.traces.label] if custom is None else custom
    return Lesson(session, traces, label, name, learn, held)


def train_from_traces(
    config: TrainConfig, label: Label | None = None, task: Task | None = None
) -> Path:
    """Trains a policy from stored traces; what `train` does where `from_traces` is set.

    Args:
        config: the settings of a new run, or those of `resume_config`.
        label: your own label instead of the setting `label`.
        task: the traces' own task, where their settings' `task` is not the name of one.

    Returns:
        The run directory, as `train`'s.

    Raises:
        UnmaskError: as `train`, and if the traces cannot be used.
    """
    config = config if config.run.resume is not None else complete_config(config)
    processes = Processes.join(config.run.device)
    with processes.hold(config.run.out):
        return run_lessons(config, label, processes, task)


def run_lessons(
    config: TrainConfig, label: Label | None, processes: Processes, task: Task | None = None
) -> Path:
    """`train_from_traces` of complete settings, in a directory that nobody else writes to."""
    resumes, out = config.run.resume is not None, config.run.out
    if processes.main and not resumes:
        go_on = f"`unmask train --resume {out}`"
        new_directory(out, begun="run.json", go_on=go_on)
    session = prepare_session(config, processes, None, task)
    lesson = prepare_lesson(session, label)
    state = new_state(session)
    if resumes and processes.main:
        remove_parts(out)
    if resumes:
        load_state(state, out, processes.device, config.rollout.rounds)
    else:
        measure_loss(lesson, state)  # so that a label that cannot be used leaves nothing
        if processes.main:
            write_run(session, None, label, task)
    processes.barrier()
    rounds = config.rollout.rounds
    with MetricsLog(out, state.round, rounds, processes.main) as log:
        while state.round < rounds and not is_exhausted(state, config.traces.patience):
            began = time.perf_counter()
            loss = learn_round(lesson, state)
            check_weights(state.network, f"round {state.round + 1}")
            state.round += 1
            held_out = measure_loss(lesson, state)
            seconds = time.perf_counter() - began
            entry = {"round": state.round, "loss": loss, "held_out_loss": held_out}
            log.write({**entry, "update_seconds": round(seconds, 3)})
            finish_round(lesson, state, entry)
            log.show({**entry, "update_seconds": seconds})
    if processes.main:
        calibrate(session, out)
    return out


def is_exhausted(state: TrainState, patience: int) -> bool:
    """Whether the held-out loss has not fallen for so many rounds."""
    return state.round - state.evaluated >= patience


def finish_round(lesson: Lesson, state: TrainState, entry: dict[str, Any]) -> None:
    """Saves the policy, as `best` too where its held-out loss is the smallest so far, and the
    checkpoint. Its `evaluated` is the round of the smallest."""
    better = -entry["held_out_loss"] > state.best
    if better:
        state.best, state.evaluated = -entry["held_out_loss"], state.round
    session = lesson.session
    if session.processes.main:
        out = session.config.run.out
        policy = deployed_policy(session, state.network, entry)
        trained = {**policy.metadata["trained"], "label": lesson.name}  # perhaps the caller's own
        policy = replace(policy, metadata={**policy.metadata, "trained": trained})
        for name in ("best", "last") if better else ("last",):
            policy.save_pretrained(out / name)
        save_state(state, out)


def learn_round(lesson: Lesson, state: TrainState) -> float:
    """One pass over the traces in a random order; the mean loss."""
    session, number = lesson.session, state.round
    config, processes = session.config, session.processes
    generator = torch.Generator().manual_seed(session.round_seed(number))
    order = lesson.learn[torch.randperm(len(lesson.learn), generator=generator)]
    batches = order.split(config.traces.trace_batch)
    parameters = list(state.network.parameters())
    total = torch.zeros((), device=processes.device)
    for i, batch in enumerate(batches):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(config, number + i / len(batches))
        state.optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), device=processes.device)
        for part, counts in label_parts(lesson, batch, session.round_seed(number) * 1009 + i):
            share = part_loss(lesson, state, part, counts)
            # The mean over processes of `world` times each one's share is the sum.
            (share * processes.world).backward()
            loss += share.detach()
        processes.mean_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, config.optim.max_grad_norm)
        state.optimizer.step()
        total += processes.total(loss)
    return round(float(total) / len(batches), 6)


def learning_rate(config: TrainConfig, done: float) -> float:
    """After so many rounds: a cosine to zero at the end of the run."""
    return config.optim.lr * 0.5 * (1 + math.cos(math.pi * done / config.rollout.rounds))


@torch.no_grad()
def measure_loss(lesson: Lesson, state: TrainState) -> float:
    """The mean loss on held-out problems."""
    processes = lesson.session.processes
    batches = lesson.held.split(lesson.session.config.traces.trace_batch)
    total = torch.zeros((), device=processes.device)
    for i, batch in enumerate(batches):
        for part, counts in label_parts(lesson, batch, i):
            total += part_loss(lesson, state, part, counts) * len(batch) / len(lesson.held)
    return round(float(processes.total(total)), 6)


@dataclass(frozen=True)
class Part:
    """Steps whose loss is computed at once, with their labels.

    Attributes:
        steps: t steps.
        labels: of them; weights are 0 where nothing is eligible.
        most: none of them has more eligible positions than this.
    """

    steps: TraceSteps
    labels: Labels
    most: int


@dataclass(frozen=True)
class Counts:
    """What the losses of a whole batch, of all processes, are divided by: the sum of its weights,
    and how many of its steps have something to order."""

    weight: Float[Tensor, ""]
    ordered: Float[Tensor, ""]


def label_parts(
    lesson: Lesson, batch: Int[Tensor, " t"], seed: int
) -> Iterator[tuple[Part, Counts]]:
    """This process' share of a batch's steps, labelled, in parts of like numbers of eligible
    positions.

    Every process of the group calls this for each whole batch. α is drawn for all of it, so that
    each step has the same one however many processes there are.
    """
    session, traces = lesson.session, lesson.traces
    processes, device = session.processes, session.processes.device
    ranked = batch[traces.eligible_counts[batch].argsort(stable=True)]
    parts: list[Part] = []
    sums = torch.zeros(2, device=device)
    alpha = draw_alpha(session.config.rewards, len(ranked), 0.0, seed).to(device)
    size = session.config.optim.micro_batch
    shares = (x[processes.rank :: processes.world].contiguous() for x in (ranked, alpha))
    for own, told in zip(*(x.split(size) for x in shares), strict=True):
        if not len(own):
            continue
        steps = traces.gather(own, device)
        if not bool(steps.observation.confidence.isfinite().all()):
            raise UnmaskError(
                f"the traces in {traces.directory} hold probabilities that are no numbers; record "
                "them again"
            )
        if session.config.rewards.alpha_range is not None:
            steps = replace(steps, observation=replace(steps.observation, alpha=told))
        labels = check_labels(lesson.label(steps), steps, lesson.name)
        parts.append(Part(steps, labels, int(traces.eligible_counts[own[-1]])))
        sums += torch.stack([labels.weight.sum(), is_ordered(labels).sum().float()])
    sums = session.processes.total(sums)
    weight, ordered = sums.masked_fill(sums == 0, 1)  # then every loss is 0
    for part in parts:
        yield part, Counts(weight, ordered)


def part_loss(lesson: Lesson, state: TrainState, part: Part, counts: Counts) -> Float[Tensor, ""]:
    """A part's share of its batch's loss: Σ w · BCE / Σ w, and the mean over steps of what
    `order_loss` gives."""
    config, steps, labels = lesson.session.config, part.steps, part.labels
    inputs = replace(
        steps.observation,
        confidence=steps.observation.confidence[..., : config.policy.inputs],
        features=steps.observation.features if config.policy.hidden else {},
    )
    policy = LearnedPolicy(state.network)
    with bf16_autocast(steps.proposal.device, config.optim.mixed_precision):
        logits = policy.logits(inputs, part.most).float()
    wrong: float | Tensor = config.traces.wrong_weight
    if inputs.alpha is not None:
        wrong = config.traces.wrong_weight / inputs.alpha[:, None]
    weight = labels.weight * (labels.good + (1 - labels.good) * wrong)
    loss = binary_cross_entropy_with_logits(logits, labels.good, weight, reduction="sum")
    loss = loss / counts.weight
    if labels.rank is not None:
        loss = loss + order_loss(logits, labels).sum() / counts.ordered
    return loss


def is_ordered(labels: Labels) -> Tensor:
    """bool [t], which steps have two positions or more to order; none without a rank."""
    if labels.rank is None:
        return torch.zeros(len(labels.good), dtype=torch.bool, device=labels.good.device)
    return (labels.weight > 0).sum(1) > 1


def order_loss(logits: Float[Tensor, "t L"], labels: Labels) -> Float[Tensor, " t"]:
    """Of each step the mean of log(1 + exp(b_j − b_i)) over all pairs of positions that count and
    of which i ranks before j: the pairwise logistic loss of learning to rank."""
    assert labels.rank is not None
    counts = labels.weight > 0
    before = labels.rank[:, :, None] > labels.rank[:, None, :]
    pairs = (before & counts[:, :, None] & counts[:, None, :]).float()
    each = softplus(logits[:, None, :] - logits[:, :, None])
    return (each * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
