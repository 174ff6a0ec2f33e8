"""The model that learns and its two optimisers: one step, and what a checkpoint holds of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.pretraining.config import MOST_STEPS, PretrainConfig
from unmask.pretraining.data import Vocabulary
from unmask.pretraining.network import new_model
from unmask.tensors import check_weights, load_optimizer, optimizer_tensors, read_whole

TIED = "lm_head.weight"  # the same tensor as the embedding


@dataclass(frozen=True)
class Learner:
    """What training changes.

    Attributes:
        model: in fp32.
        muon: over all matrices but the embedding.
        adamw: over the embedding and the norms.
    """

    model: Any
    muon: torch.optim.Muon
    adamw: torch.optim.AdamW


def new_learner(config: PretrainConfig, vocabulary: Vocabulary) -> Learner:
    """A model with random weights on the device of the configuration, and its optimisers."""
    model = new_model(
        config, vocabulary.tokenizer, vocabulary.prompt_length, vocabulary.max_new_tokens
    )
    model.to(config.device)
    # On CPU the backward pass of fused attention is up to 3 times slower at these lengths.
    model.set_attn_implementation("eager")
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices,
        lr=config.matrix_lr,
        adjust_lr_fn="match_rms_adamw",
        weight_decay=config.weight_decay,
    )
    adamw = torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.98), weight_decay=0.0)
    return Learner(model, muon, adamw)


def learning_rate_scale(config: PretrainConfig, step: int) -> float:
    """The share of the peak learning rates at a step, counted from 0: it rises over `warmup`
    steps, and falls to zero over the last `cooldown` share of all steps."""
    return min(
        (step + 1) / max(config.warmup, 1),
        (config.steps - step) / max(config.cooldown * config.steps, 1),
        1.0,
    )


def update_learner(learner: Learner, loss: Tensor, config: PretrainConfig, step: int) -> None:
    """One step of both optimisers down the gradient of a loss."""
    scale = learning_rate_scale(config, step)
    rates = ((learner.muon, config.matrix_lr), (learner.adamw, config.other_lr))
    for optimizer, rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = scale * rate
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learner.model.parameters(), 1.0)
    for optimizer, _ in rates:
        optimizer.step()
    learner.model.zero_grad(set_to_none=True)


def learner_tensors(learner: Learner, step: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint after `step` steps."""
    weights = learner.model.state_dict().items()
    return (
        {f"model/{name}": tensor for name, tensor in weights if name != TIED}
        | optimizer_tensors(learner.muon, "muon")
        | optimizer_tensors(learner.adamw, "adamw")
        | {"step": torch.tensor(step)}
    )


def load_learner(learner: Learner, tensors: dict[str, Tensor]) -> int:
    """Puts back what `learner_tensors` took out; gives its step.

    Raises:
        UnmaskError: if the tensors are not those of this learner.
    """
    weights = {
        name.removeprefix("model/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("model/")
    }
    wanted = {name: value for name, value in learner.model.state_dict().items() if name != TIED}
    check_weights(weights, wanted)
    step = read_whole(tensors, "step", MOST_STEPS)
    load_optimizer(learner.muon, tensors, "muon")
    load_optimizer(learner.adamw, tensors, "adamw")
    learner.model.load_state_dict(weights, strict=False)  # the head is the embedding
    return step
