"""`unmask generate`"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from rich.console import Console

from unmask.cli.show import generate_shown
from unmask.decoding import generate
from unmask.errors import UnmaskError
from unmask.models import load_model


@dataclass(frozen=True)
class Config:
    """Answer prompts with a frozen model and an unmasking policy."""

    prompts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Prompts, each in quotes; embedded/chain knows problems like "7 a +5 b *3 =" (operations carry the letters a to f)."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one or a directory."""
    policy: str = "threshold:0.9"
    """Heuristic (random:K confidence:K threshold:λ factor:f margin:K entropy:γ) or policy directory."""
    max_new_tokens: int | None = None
    """L, the generation buffer; leave out for what an embedded model was trained with."""
    block_length: int | None = None
    """Block length; leave out for full diffusion."""
    temperature: float = 0.0
    """τ of the frozen model; 0 is greedy."""
    seed: int = 0
    """Seed of everything random."""
    show: bool = False
    """Watch the canvas fill."""
    delay: float = 0.2
    """Seconds between steps with --show."""
    device: str = "cpu"
    """Device of the model."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Weights and activations of the frozen model."""


def run(config: Config) -> None:
    if not config.prompts:
        raise UnmaskError('no prompts were given; give at least one in quotes, for example "7 a +5 b *3 ="')
    model = load_model(config.model, device=config.device, dtype=getattr(torch, config.dtype))
    length = model.max_new_tokens if config.max_new_tokens is None else config.max_new_tokens
    if length is None:
        raise UnmaskError(f"model {config.model} does not say how long its answers are; give --max-new-tokens")
    options = {
        "max_new_tokens": length,
        "block_length": config.block_length,
        "temperature": config.temperature,
        "seed": config.seed,
    }
    if config.show:
        generation = generate_shown(model, config.prompts, config.policy, Console(), config.delay, **options)
    else:
        generation = generate(model, config.prompts, config.policy, **options)
    for prompt, text, nfe in zip(config.prompts, generation.text, generation.nfe.tolist(), strict=True):
        print(f"{prompt}  →  {text}   ({nfe} forward passes for {length} positions)")
