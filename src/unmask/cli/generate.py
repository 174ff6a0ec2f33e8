"""`unmask generate`"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unmask.cli.show import generate_shown
from unmask.decoding import Generation, Prompt, Step, finish, generate, stream
from unmask.errors import UnmaskError
from unmask.files import write_text
from unmask.models import Model, load_model
from unmask.policies import HEURISTICS, Policy, load_policy, steps_spec


@dataclass(frozen=True)
class Config:
    """Answer prompts with a frozen model and an unmasking policy."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """Prompts, each in quotes; embedded/chain knows problems like "7 a +5 b *3 =" (operations carry
    the letters a to f)."""
    prompts: Path | None = None
    """JSON-lines file of prompts: each line a string, {"prompt": …} or {"messages": [{"role": …,
    "content": …}, …]}."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    policy: str | None = None
    """Heuristic (random:K confidence:K threshold:λ factor:f margin:K entropy:γ) or policy
    directory; threshold:0.9 if left out."""
    alpha: float | None = None
    """α for a policy that serves a range: larger is faster."""
    target_nfe: float | None = None
    """Forward passes a prompt, for a policy that serves a range of α: picks the α that needs about
    so many."""
    steps: int | None = None
    """LLaDA's and Dream's `steps`, instead of --policy: L / steps positions a pass."""
    remasking: Annotated[str | None, tyro.conf.arg(aliases=["--alg"])] = None
    """With --steps: LLaDA's low_confidence or random, Dream's maskgit_plus or topk_margin;
    low_confidence if left out."""
    max_new_tokens: Annotated[int | None, tyro.conf.arg(aliases=["--gen-length"])] = None
    """L, the generation buffer (LLaDA's gen_length); leave out for what an embedded model was
    trained with."""
    block_length: int | None = None
    """Block length; leave out for full diffusion."""
    temperature: float = 0.0
    """τ of the frozen model; 0 is greedy."""
    seed: int = 0
    """Seed of everything random."""
    batch_size: int = 64
    """Prompts decoded side by side."""
    chat: bool = False
    """Put each prompt into the model's chat template as the user's message."""
    system: str | None = None
    """System message of the chat; implies --chat."""
    infill: bool = False
    """The prompts hold mask tokens, and only those are filled."""
    cfg_scale: float = 0.0
    """Classifier-free guidance (LLaDA's cfg_scale); 0 is none, more doubles the cost of each
    pass."""
    logits_eos_inf: bool = False
    """Never propose an end of text (LLaDA's name)."""
    confidence_eos_eot_inf: bool = False
    """Reveal ends of text last (LLaDA's name)."""
    stop_at_eos: bool = False
    """Stop a row at its first end of text, once everything before it is revealed."""
    cache: Literal["prefix", "dual"] | None = None
    """Cache keys and values within each block (Fast-dLLM): faster, and an approximation."""
    output: Path | None = None
    """JSON-lines file for the answers: prompt, text, nfe, tokens; an existing file is refused."""
    show: bool = False
    """Watch the canvas fill."""
    delay: float = 0.2
    """Seconds between steps with --show."""
    device: str = "cpu"
    """Device of the model."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Weights and activations of the frozen model."""
    attn_implementation: str | None = None
    """Attention kernel as in transformers (sdpa, eager, flash_attention_2, …)."""
    device_map: str | None = None
    """"auto" spreads a large model over all GPUs."""


def read_prompts(config: Config) -> list[Prompt]:
    """The prompts of the command line and of the file, as strings or chats.

    Raises:
        UnmaskError: if there are none, or a line of the file cannot be read.
    """
    found: list[Any] = list(config.prompt)
    if config.prompts is not None:
        try:
            lines = config.prompts.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UnmaskError(
                f"prompts file {config.prompts} cannot be read ({error}); give a JSON-lines file"
            ) from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.append(read_line(line, f"line {number} of {config.prompts}"))
    if not found:
        raise UnmaskError(
            'no prompts were given; give at least one in quotes, for example "7 a +5 b *3 =", or a file with --prompts'
        )
    return [
        as_chat(prompt, config.system) if config.chat or config.system is not None else prompt
        for prompt in found
    ]


def read_line(line: str, where: str) -> Prompt:
    """One prompt from a line of JSON."""
    try:
        value = json.loads(line)
    except ValueError:
        raise UnmaskError(
            f'{where} is not JSON; write a string, {{"prompt": …}} or {{"messages": […]}}'
        ) from None
    if isinstance(value, Mapping):
        value = value.get("messages", value.get("prompt"))
    chat = (
        isinstance(value, list)
        and value
        and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)
    )
    if not isinstance(value, str) and not chat:
        raise UnmaskError(
            f'{where} holds no prompt; write a string, {{"prompt": …}} or {{"messages": [{{"role": …, "content": …}}]}}'
        )
    return value


def as_chat(prompt: Any, system: str | None) -> Prompt:
    """A prompt as chat messages, behind the system message if there is one."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [{"role": "system", "content": system}, *messages] if system is not None else messages


def generate_with_bar(
    model: Model, prompts: Sequence[Prompt], policy: Policy, **options: Any
) -> Generation:
    """`generate`, with a bar on a terminal's standard error that says how many answer tokens a
    forward pass yields."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return generate(model, prompts, policy, **options)
    columns = (
        TextColumn("prompts"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    ends = torch.tensor(model.eos_ids, device=model.device)
    revealed = passes = finished = 0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(prompts))

        def count(step: Step) -> None:
            nonlocal revealed, passes, finished
            revealed += int((step.fresh & ~torch.isin(step.tokens, ends)).sum())
            passes += len(step.rows)
            finished += int(step.finished.sum())
            bar.update(
                task, completed=finished, description=f"{revealed / passes:.1f} tokens per forward"
            )

        return finish(stream(model, prompts, policy, **options), count)


def policy_spec(config: Config, length: int | None) -> str:
    """What `load_policy` is to load for --policy, --alpha, --target-nfe, --steps and --remasking.

    Raises:
        UnmaskError: if they contradict each other.
    """
    if config.steps is not None:
        if config.policy is not None:
            raise UnmaskError(
                "--policy and --steps were both given; steps is another name of the policy "
                "confidence:K with K = L / steps"
            )
        if length is None:
            raise UnmaskError("--steps needs the length of the answers; give --max-new-tokens")
        return steps_spec(config.steps, length, config.remasking or "low_confidence")
    if config.remasking is not None:
        raise UnmaskError("--remasking was given without --steps; give both, or --policy")
    if config.alpha is not None and config.target_nfe is not None:
        raise UnmaskError("--alpha and --target-nfe were both given; give one of them")
    spec = config.policy or "threshold:0.9"
    chosen = {"alpha": config.alpha, "nfe": config.target_nfe}
    if (
        any(value is not None for value in chosen.values())
        and re.split("[:@]", spec)[0] in HEURISTICS
    ):
        raise UnmaskError(
            f"--alpha and --target-nfe are for learned policies, and the policy is {spec}; give "
            "--policy a directory"
        )
    settings = ",".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
    return spec + ("" if not settings else "," if "@" in spec else "@") + settings


def run(config: Config) -> None:
    prompts = read_prompts(config)
    if config.output is not None and config.output.exists():
        raise UnmaskError(
            f"output file {config.output} already exists; name a new one or remove it"
        )
    if config.output is not None and not config.output.parent.is_dir():
        raise UnmaskError(
            f"output file {config.output} is in no existing directory; make {config.output.parent} "
            "first"
        )
    model = load_model(
        config.model,
        device=config.device,
        dtype=getattr(torch, config.dtype),
        attn_implementation=config.attn_implementation,
        device_map=config.device_map,
    )
    length = model.max_new_tokens if config.max_new_tokens is None else config.max_new_tokens
    if length is None and not config.infill:
        raise UnmaskError(
            f"model {config.model} does not say how long its answers are; give --max-new-tokens"
        )
    policy = load_policy(policy_spec(config, length), device=model.device)
    names = ("batch_size", "block_length", "temperature", "seed", "cfg_scale", "cache", "infill")
    names = (*names, "logits_eos_inf", "confidence_eos_eot_inf", "stop_at_eos")
    options = {"max_new_tokens": length} | {name: getattr(config, name) for name in names}
    began = time.perf_counter()
    if config.show:
        generation = generate_shown(model, prompts, policy, Console(), config.delay, **options)
    else:
        generation = generate_with_bar(model, prompts, policy, **options)
    seconds = time.perf_counter() - began

    rows = zip(
        prompts,
        generation.text,
        generation.nfe.tolist(),
        generation.answer_tokens.tolist(),
        strict=True,
    )
    records = [
        {"prompt": prompt, "text": text, "nfe": nfe, "tokens": tokens}
        for prompt, text, nfe, tokens in rows
    ]
    if config.output is not None:
        write_text(
            config.output,
            "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records),
        )
    for record in records if config.output is None else ():
        shown = (
            record["prompt"]
            if isinstance(record["prompt"], str)
            else record["prompt"][-1]["content"]
        )
        print(
            f"{shown}  →  {record['text']}   ({record['nfe']} forward passes, {record['tokens']} "
            "tokens)"
        )
    if len(records) == 1 and config.output is None:
        return
    tokens, passes = int(generation.answer_tokens.sum()), int(generation.nfe.sum())
    line = f"{len(records)} prompts in {seconds:.1f} s: {tokens / passes:.2f} tokens per forward pass, {tokens / seconds:.0f} a second"
    if not config.infill:
        line += f"; {generation.tokens.numel() - tokens} positions from the end of text on are not counted"
    print(line)
