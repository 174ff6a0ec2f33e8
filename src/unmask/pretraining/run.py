"""Pre-trains a small masked diffusion language model on generated data (the objective of LLaDA, Nie
et al. 2025)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from unmask.errors import UnmaskError
from unmask.files import (
    load_optimizer,
    new_directory,
    optimizer_tensors,
    provenance,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from unmask.pretraining.config import PretrainConfig
from unmask.pretraining.data import Vocabulary, find_vocabulary, fixed_batch, varied_batches
from unmask.pretraining.network import new_model, save_model
from unmask.pretraining.objective import diffusion_loss, hidden_loss
from unmask.processes import usable_device
from unmask.tasks import Task, load_task

# Settings that change nothing about the weights.
NO_RECIPE = ("out", "resume", "compile", "device", "save_every", "data_dir")
SCHEDULE = ("steps", "cooldown")  # may change when a run is resumed
LOG_EVERY = 100  # steps
PROGRESS_EVERY = 30  # seconds


def pretrain(config: PretrainConfig) -> Path:
    """Runs the recipe and writes a model directory that `load_model` takes.

    Everything random is drawn from (seed, step), so a run that was killed and resumed gives the
    same weights.

    Returns:
        The directory: `config.json`, `model.safetensors` (bf16), tokenizer files, `recipe.json`,
            `loss.jsonl`.

    Raises:
        UnmaskError: for an output directory in use, or a checkpoint of another configuration.
    """
    task = load_task(config.task, data_dir=config.data_dir)
    usable_device(config.device)
    vocabulary = find_vocabulary(task, config)
    learner = Learner(config, vocabulary)
    start, log = open_run(config, learner)
    network = compile_network(config, learner.model) if config.compile else learner.model
    progress = Progress(config.steps, log)
    for step, loss_of in enumerate(losses(task, vocabulary, config, start), start):
        with torch.autocast(torch.device(config.device).type, torch.bfloat16):
            loss = loss_of(network)
        learner.update(loss, learning_rate_scale(config, step))
        progress.record(step + 1, loss)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_run(config, learner, vocabulary, step + 1, log)
    return config.out


def losses(
    task: Task, vocabulary: Vocabulary, config: PretrainConfig, start: int
) -> Iterator[Callable[[Any], Tensor]]:
    """For each step from `start` on a function from the network to the loss on the step's batch."""
    mask_id, shift = cast(int, vocabulary.tokenizer.mask_token_id), int(config.family == "dream")
    if config.buffer_lengths is None:
        for step in range(start, config.steps):
            batch = fixed_batch(task, vocabulary, config, step)
            tensors = (batch.tokens, batch.prompt_lengths, batch.masks)
            yield partial(call_loss, diffusion_loss, tensors, mask_id, shift, config.device)
        return
    for varied in varied_batches(task, vocabulary, config, start):
        tensors = (varied.tokens, varied.masks, varied.ends)
        yield partial(call_loss, hidden_loss, tensors, mask_id, shift, config.device)


def compile_network(config: PretrainConfig, model: Any) -> Any:
    """The compiled model; where lengths vary, its layers alone, once for all lengths."""
    if config.buffer_lengths is None:
        return torch.compile(model, dynamic=False)
    model.model.compile(dynamic=True)
    return model


def call_loss(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    mask_id: int,
    shift: int,
    device: str,
    network: Any,
) -> Tensor:
    """A loss of `unmask.pretraining.objective` on a batch that is first put on the device."""
    return function(network, *(tensor.to(device) for tensor in tensors), mask_id, shift)


def learning_rate_scale(config: PretrainConfig, step: int) -> float:
    """The share of the peak learning rates: up over `warmup` steps, to zero over the last
    `cooldown` share."""
    return min(
        (step + 1) / max(config.warmup, 1),
        (config.steps - step) / max(config.cooldown * config.steps, 1),
        1.0,
    )


class Learner:
    """The model and its two optimisers: Muon for the matrices, AdamW for embeddings and norms.

    Attributes:
        model: in fp32.
        muon: over all matrices but the embedding.
        adamw: over the rest.
    """

    def __init__(self, config: PretrainConfig, vocabulary: Vocabulary) -> None:
        self.rates = (config.matrix_lr, config.other_lr)
        self.model: Any = new_model(
            config, vocabulary.tokenizer, vocabulary.prompt_length, vocabulary.answer_length
        )
        self.model.to(config.device)
        # On CPU the backward pass of fused attention with a mask is 3 times slower at these lengths.
        self.model.set_attn_implementation("eager")
        parameters = list(self.model.named_parameters())
        matrices = [p for name, p in parameters if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in parameters if p.ndim != 2 or "embed" in name]
        self.muon = torch.optim.Muon(
            matrices,
            lr=config.matrix_lr,
            adjust_lr_fn="match_rms_adamw",
            weight_decay=config.weight_decay,
        )
        self.adamw = torch.optim.AdamW(
            others, lr=config.other_lr, betas=(0.9, 0.98), weight_decay=0.0
        )

    def update(self, loss: Tensor, scale: float) -> None:
        """One step of both optimisers at `scale` of their peak rates."""
        optimizers = (self.muon, self.adamw)
        for optimizer, rate in zip(optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = scale * rate
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def state(self, step: int) -> dict[str, Tensor]:
        """What a checkpoint holds after `step` steps."""
        weights = self.model.state_dict().items()
        return (
            {f"model/{name}": tensor for name, tensor in weights if name != "lm_head.weight"}
            | optimizer_tensors(self.muon, "muon")
            | optimizer_tensors(self.adamw, "adamw")
            | {"step": torch.tensor(step)}
        )

    def load_state(self, tensors: dict[str, Tensor]) -> int:
        """Puts a checkpoint back; gives its step."""
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model/")}
        self.model.load_state_dict(weights, strict=False)  # the head is the embedding
        load_optimizer(self.muon, tensors, "muon")
        load_optimizer(self.adamw, tensors, "adamw")
        return int(tensors["step"])


def open_run(config: PretrainConfig, learner: Learner) -> tuple[int, list[dict[str, Any]]]:
    """The step to start from and the loss curve up to it: of a new output directory, or of the
    checkpoint in an old one, which the learner takes over.

    Raises:
        UnmaskError: for an output directory in use, or a checkpoint of another configuration.
    """
    recipe = asdict(config) | dict.fromkeys(NO_RECIPE)
    recipe = json.loads(json.dumps(recipe))  # tuples become lists, as they are when read
    start, log, earlier = 0, [], []
    if config.resume:
        tensors = read_tensors(config.out / "checkpoint.safetensors", config.device)
        defaults = asdict(PretrainConfig()) | dict.fromkeys(NO_RECIPE)
        before = read_json(config.out / "recipe.json")
        saved = defaults | before["recipe"]
        changed = [name for name in recipe if saved.get(name) != recipe[name]]
        if not set(changed) <= set(SCHEDULE):
            raise UnmaskError(
                f"{config.out} was made with other settings ({', '.join(changed)}); resume "
                "with the same ones or name a new directory"
            )
        start = learner.load_state(tensors)
        earlier = before.get("earlier", [])
        if changed:
            earlier += [{"until": start} | {name: saved[name] for name in SCHEDULE}]
        lines = (config.out / "loss.jsonl").read_text(encoding="utf-8").splitlines()
        log = [entry for entry in map(json.loads, lines) if entry["step"] <= start]
    else:
        new_directory(config.out)
    facts = {"recipe": recipe, "provenance": provenance(config.device)}
    if earlier:
        facts["earlier"] = earlier
    write_json(config.out / "recipe.json", facts)
    return start, log


def save_run(
    config: PretrainConfig,
    learner: Learner,
    vocabulary: Vocabulary,
    step: int,
    log: list[dict[str, Any]],
) -> None:
    """Writes loss curve, checkpoint and model."""
    text = "".join(json.dumps(entry) + "\n" for entry in log)
    write_text(config.out / "loss.jsonl", text)
    write_tensors(config.out / "checkpoint.safetensors", learner.state(step))
    save_model(learner.model, vocabulary.tokenizer, config.out)


@dataclass
class Progress:
    """Prints a line for the first step and then every `PROGRESS_EVERY` seconds, and adds the mean
    loss of each `LOG_EVERY` steps to `log`."""

    steps: int
    log: list[dict[str, Any]]
    began: float = field(default_factory=time.perf_counter)
    printed: float = -PROGRESS_EVERY
    total: float | Tensor = 0.0
    count: int = 0

    def record(self, step: int, loss: Tensor) -> None:
        """Takes the loss of step number `step`, counted from 1."""
        self.total, self.count = self.total + loss.detach(), self.count + 1
        seconds = time.perf_counter() - self.began
        mean = float(self.total) / self.count if self.is_due(step, seconds) else 0.0
        if seconds - self.printed >= PROGRESS_EVERY or step == self.steps:
            print(f"step {step}/{self.steps}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
            self.printed = seconds
        if step % LOG_EVERY == 0 or step == self.steps:
            self.log.append({"step": step, "loss": round(mean, 5), "seconds": round(seconds, 1)})
            self.total, self.count = 0.0, 0

    def is_due(self, step: int, seconds: float) -> bool:
        """Whether a line is printed or written for this step."""
        timed = seconds - self.printed >= PROGRESS_EVERY
        return timed or step % LOG_EVERY == 0 or step == self.steps
