"""Pre-trains a small masked diffusion language model on generated data (the objective of LLaDA, Nie
et al. 2025)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, cast

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from unmask.errors import UnmaskError, refuse_errors
from unmask.files import (
    check_plain,
    hold_directory,
    new_directory,
    read_json,
    read_json_lines,
    remove_parts,
    write_json,
    write_text,
)
from unmask.memory import check_memory
from unmask.pretraining.config import MOST_STEPS, PretrainConfig
from unmask.pretraining.data import (
    Vocabulary,
    block_batch,
    find_vocabulary,
    fixed_batch,
    varied_batches,
)
from unmask.pretraining.learner import (
    Learner,
    learner_tensors,
    load_learner,
    new_learner,
    update_learner,
)
from unmask.pretraining.network import save_model
from unmask.pretraining.objective import block_loss, diffusion_loss, hidden_loss
from unmask.pretraining.results import line_batches
from unmask.processes import bf16_autocast, fast_dtype, usable_device
from unmask.provenance import provenance
from unmask.tasks import Task, load_task
from unmask.tasks.base import check_task
from unmask.tensors import read_tensors, read_whole, write_tensors

# Settings that change nothing about the weights.
NO_RECIPE = ("out", "resume", "until", "compile", "device", "save_every", "data_dir")
# Settings that may change when a run is resumed: it can go on for longer or end sooner, and learn
# from single lines in a part of its time alone.
SCHEDULE = ("steps", "cooldown", "result_lines")
LOG_EVERY = 100  # steps
PROGRESS_EVERY = 30  # seconds
# Maps the network to the loss on one batch.
LossOf = Callable[[Any], Tensor]


def pretrain(config: PretrainConfig, task: Task | None = None) -> Path:
    """Runs the recipe and writes a model directory that `load_model` takes.

    Everything random is drawn from (seed, step), so a run that was killed and resumed gives the
    same weights.

    Args:
        config: the settings.
        task: your own `unmask.tasks.Task` instead of the one that the setting `task` names. The
            recipe records its name, and resuming asks for it again.

    Returns:
        The directory: `config.json`, `model.safetensors` (bf16), tokenizer files, `recipe.json`,
            `loss.jsonl`.

    Raises:
        UnmaskError: for an output directory in use, a checkpoint of another configuration, a task
            with too few examples or none with answers, what is no task, or a run whose loss or
            weights are no longer finite.
    """
    # Weights, gradients and what the optimisers keep, in fp32.
    weights = config.layers * 13 * config.width**2 + config.vocabulary * config.width
    check_memory(16 * weights, "this network", "give a smaller width or fewer layers")
    if task is None:
        task = load_task(config.task, data_dir=config.data_dir)
    else:
        check_task(task)
        config = replace(config, task=task.name)
    if not task.has_answers:
        raise UnmaskError(
            f"task {task.name} has a verifier but no answers to learn from; pre-train on a task "
            "that has answers"
        )
    usable_device(config.device)
    vocabulary = find_vocabulary(task, config)
    learner = new_learner(config, vocabulary)
    last = min(config.until or config.steps, config.steps)
    progress = Progress(config.steps, last)
    with hold_directory(config.out, make=not config.resume):
        run_steps(config, task, vocabulary, learner, progress)
    return config.out


def run_steps(
    config: PretrainConfig,
    task: Task,
    vocabulary: Vocabulary,
    learner: Learner,
    progress: Progress,
) -> None:
    """Begins a run or goes on with one, up to its last step, in a directory that nobody else
    writes to."""
    device, last = usable_device(config.device), progress.last
    start = open_run(config, learner, progress)
    network = compile_network(config, learner.model) if config.compile else learner.model
    for step, loss_of in enumerate(draw_losses(task, vocabulary, config, start, last), start):
        with bf16_autocast(device):
            loss = loss_of(network)
        update_learner(learner, loss, config, step)
        record_loss(progress, step + 1, loss)
        if (step + 1) % config.save_every == 0 or step + 1 == last:
            save_run(config, learner, vocabulary, step + 1, progress)


def draw_losses(
    task: Task, vocabulary: Vocabulary, config: PretrainConfig, start: int, stop: int
) -> Iterator[LossOf]:
    """For each step from `start` up to `stop`, the loss on the step's batch as a function of the
    network."""
    mask_id, shift = cast(int, vocabulary.tokenizer.mask_token_id), int(config.family == "dream")
    if config.buffer_lengths is not None:
        steps = range(start, stop)
        lines = line_batches(task, vocabulary, config, steps)
        for varied in varied_batches(task, vocabulary, config, steps, config.buffer_lengths):
            tensors = [x.to(config.device) for x in (varied.tokens, varied.masks, varied.ends)]
            loss_of = bind_loss(hidden_loss, tensors, mask_id, shift)
            if config.result_lines:
                batch = next(lines)
                tensors = [x.to(config.device) for x in (batch.tokens, batch.masks, batch.ends)]
                loss_of = add_losses(loss_of, bind_loss(hidden_loss, tensors, mask_id, shift))
            yield loss_of
        return
    for step in range(start, stop):
        if (size := config.attention_block) is not None:
            blocks = block_batch(task, vocabulary, config, step, size)
            tensors = [x.to(config.device) for x in (blocks.tokens, blocks.masks)]
            yield bind_loss(partial(block_loss, size=size), tensors, mask_id, shift)
            continue
        fixed = fixed_batch(task, vocabulary, config, step)
        tensors = [x.to(config.device) for x in (fixed.tokens, fixed.prompt_lengths, fixed.masks)]
        yield bind_loss(diffusion_loss, tensors, mask_id, shift)


def bind_loss(
    function: Callable[..., Tensor], tensors: list[Tensor], mask_id: int, shift: int
) -> LossOf:
    """One of the losses of `unmask.pretraining.objective`, on a batch."""
    return lambda network: function(network, *tensors, mask_id, shift)


def add_losses(one: LossOf, other: LossOf) -> LossOf:
    """The sum of two losses."""
    return lambda network: one(network) + other(network)


def compile_network(config: PretrainConfig, model: Any) -> Any:
    """The compiled model; where lengths vary, its layers alone, once for all lengths; of a
    block-causal model, whose loss runs the layers and the head apart, the layers too."""
    if config.attention_block is not None:
        model.model.compile(dynamic=False)
        return model
    if config.buffer_lengths is None:
        return torch.compile(model, dynamic=False)
    model.model.compile(dynamic=True)
    return model


def open_run(config: PretrainConfig, learner: Learner, progress: Progress) -> int:
    """The step to start from: of a new output directory, or of the checkpoint in an old one, which
    the learner takes over, and `progress` its loss curve.

    Raises:
        UnmaskError: for an output directory in use, or a checkpoint of another configuration.
    """
    recipe = asdict(config) | dict.fromkeys(NO_RECIPE)
    recipe = json.loads(json.dumps(recipe))  # tuples become lists, as they are when read
    facts: dict[str, Any] = {"recipe": recipe}
    start = 0
    if config.resume:
        check_begun(config.out)
        check_plain(config.out)
        remove_parts(config.out)
        path = config.out / "checkpoint.safetensors"
        tensors: dict[str, Tensor] = {"step": torch.tensor(0)}
        if path.exists():
            tensors = read_tensors(path, config.device)
        what = f"{path} does not fit the settings in recipe.json"
        with refuse_errors(what, "start a new run"):
            step = read_whole(tensors, "step", MOST_STEPS)
        earlier = earlier_schedules(config.out, recipe, step)
        if len(tensors) > 1:  # else the run was killed before its first checkpoint: it starts over
            with refuse_errors(what, "start a new run"):
                start = load_learner(learner, tensors)
            if start > config.steps:
                raise UnmaskError(
                    f"{config.out} is at step {start}, and steps is {config.steps}; give at least "
                    f"{start}, or start a new run"
                )
            entries = read_json_lines(config.out / "loss.jsonl", LossEntry)
            progress.curve = [entry for entry in entries if entry["step"] <= start]
            # Checkpoints of earlier versions do not hold the losses since the last entry.
            progress.total = tensors.get("loss_total", 0.0)
            progress.count = int(tensors.get("loss_count", 0))
        if earlier:
            facts["earlier"] = earlier
    else:
        new_directory(config.out, begun="recipe.json", go_on="--resume and the same settings")
    device = usable_device(config.device)
    facts["provenance"] = provenance(device, fast_dtype(device))
    write_json(config.out / "recipe.json", facts)
    return start


def check_begun(out: Path) -> None:
    """Refuses a directory that no run has begun in.

    Raises:
        UnmaskError: if it has no recipe.
    """
    if out.is_dir() and not (out / "recipe.json").exists():
        raise UnmaskError(
            f"{out} holds no recipe.json: it is no pre-training run, or one that was killed before "
            "its start; give the command that starts it again, without --resume"
        )


def earlier_schedules(out: Path, recipe: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """Under which `SCHEDULE` a run that is resumed at `step` was trained so far, where it differs
    from today's: each with the step `until` which it held.

    Raises:
        UnmaskError: if anything else differs.
    """
    before = read_json(out / "recipe.json", RecipeFile)
    saved = asdict(PretrainConfig()) | dict.fromkeys(NO_RECIPE) | before["recipe"]
    changed = [name for name in recipe if saved[name] != recipe[name]]
    if not set(changed) <= set(SCHEDULE):
        raise UnmaskError(
            f"{out} was made with other settings ({', '.join(changed)}); resume with the same ones "
            "or name a new directory"
        )
    earlier = before.get("earlier", [])
    if changed:
        earlier = [*earlier, {"until": step} | {name: saved[name] for name in SCHEDULE}]
    return earlier


def save_run(
    config: PretrainConfig,
    learner: Learner,
    vocabulary: Vocabulary,
    step: int,
    progress: Progress,
) -> None:
    """Writes loss curve, model and, last, the checkpoint: a run that is killed before that does
    the steps again, and with them the other files.

    Raises:
        UnmaskError: if losses or weights are not finite; nothing is written then.
    """
    values = [torch.as_tensor(progress.total), *learner.model.parameters()]
    if not all(bool(value.isfinite().all()) for value in values):
        raise diverged(step)
    lines = "".join(json.dumps(entry) + "\n" for entry in progress.curve)
    write_text(config.out / "loss.jsonl", lines)
    save_model(learner.model, vocabulary.tokenizer, config.out)
    losses = {
        "loss_total": torch.as_tensor(progress.total),
        "loss_count": torch.tensor(progress.count),
    }
    tensors = learner_tensors(learner, step) | losses
    write_tensors(config.out / "checkpoint.safetensors", tensors)


def diverged(step: int) -> UnmaskError:
    """The error for a run whose loss or weights are not finite."""
    return UnmaskError(
        f"the loss or the weights are not finite at step {step}, so this run cannot go on; start a "
        "new run with a smaller matrix_lr and other_lr, or with a longer warmup"
    )


class RecipeFile(TypedDict):
    """recipe.json: the settings of a run, and what they were before it was resumed."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    recipe: dict[str, Any]
    earlier: NotRequired[list[dict[str, Any]]]


class LossEntry(TypedDict):
    """A line of loss.jsonl."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    step: Annotated[int, Field(ge=1)]
    loss: Annotated[float, Field(allow_inf_nan=False)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        steps: of the whole run.
        last: the step that this process ends with.
        curve: gets the mean loss of every `LOG_EVERY` steps.
        began, printed: times in seconds, of the start and of the last line on the screen.
        total, count: sum and number of the losses since the last entry of `curve`.
    """

    steps: int
    last: int
    curve: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    printed: float = -float("inf")
    total: Tensor | float = 0.0
    count: int = 0


def record_loss(progress: Progress, step: int, loss: Tensor) -> None:
    """Takes the loss of step number `step`, counted from 1; prints a line for the first step and
    then every `PROGRESS_EVERY` seconds, and writes the curve.

    Raises:
        UnmaskError: if the losses that are printed or written are not finite.
    """
    progress.total, progress.count = progress.total + loss.detach(), progress.count + 1
    now, last = time.perf_counter(), step == progress.last
    seconds = now - progress.began
    shown = now - progress.printed >= PROGRESS_EVERY or last
    kept = step % LOG_EVERY == 0 or last
    if not (shown or kept):
        return
    mean = float(progress.total) / progress.count
    if not math.isfinite(mean):
        raise diverged(step)
    if shown:
        print(f"step {step}/{progress.steps}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
        progress.printed = now
    if kept:
        entry = {"step": step, "loss": round(mean, 5), "seconds": round(seconds, 1)}
        progress.curve.append(entry)
        progress.total, progress.count = 0.0, 0
