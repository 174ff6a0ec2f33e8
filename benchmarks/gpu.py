"""`python -m benchmarks.gpu`: speed and memory on a GPU, of the layouts of LLaDA-8B and LLaDA-MoE.

Weights are random and made on the device, so nothing is downloaded and no copy is on the host.
Prints a table and writes docs/results/gpu/bench.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from benchmarks.models import random_policy, random_prompts
from unmask.decoding import DecodeOptions, Engine, Recorder, Request, decode
from unmask.decoding.canvas import padded_width
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.models import Model
from unmask.models.tokenizer import word_tokenizer
from unmask.policies import LearnedPolicy, Policy, load_policy
from unmask.processes import Processes, usable_device
from unmask.provenance import provenance
from unmask.training import TrainConfig
from unmask.training.decisions import signal_batch
from unmask.training.phases import Grpo
from unmask.training.update import update

JSON = Path("docs/results/gpu/bench.json")


@dataclass(frozen=True)
class Layout:
    """Shape of a network.

    Attributes:
        width, layers, heads: of the transformer.
        mlp: width of a dense feed-forward layer.
        vocabulary: V.
        experts, chosen, expert_width: of a mixture of experts; 0 experts is a dense network.
        assumed: what of this is not taken from a file of the published checkpoint.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    vocabulary: int
    experts: int = 0
    chosen: int = 0
    expert_width: int = 0
    assumed: str = ""

    def shrink(self, layers: int | None, width: int | None, vocabulary: int | None) -> Layout:
        """The same in proportion, with other sizes; None leaves one as it is."""
        wide = self.width if width is None else width
        return replace(
            self,
            width=wide,
            layers=self.layers if layers is None else layers,
            heads=max(1, wide * self.heads // self.width),
            mlp=wide * self.mlp // self.width,
            vocabulary=self.vocabulary if vocabulary is None else vocabulary,
            expert_width=wide * self.expert_width // self.width,
        )


LayoutName = Literal["llada-8b", "llada-moe"]
PUBLISHED = "written from what is published about the checkpoint, without its config.json at hand"
LAYOUTS: dict[LayoutName, Layout] = {
    "llada-8b": Layout(4096, 32, 32, 12_288, 126_464, assumed=PUBLISHED),
    "llada-moe": Layout(
        2048,
        16,
        16,
        8192,
        157_184,
        experts=64,
        chosen=8,
        expert_width=1024,
        assumed=f"{PUBLISHED}; 16 key-value heads and a vocabulary of 157,184 are assumed",
    ),
}


@dataclass(frozen=True)
class Config:
    """Measure speed and memory on a GPU, with random weights."""

    device: str = "cuda"
    """Where to measure; cpu is for trying the program out, with a small layout."""
    layouts: tuple[LayoutName, ...] = ("llada-8b", "llada-moe")
    """Which layouts."""
    layers: int | None = None
    """Layers, instead of the layout's own."""
    width: int | None = None
    """Width, instead of the layout's own; heads and feed-forward layers shrink in proportion."""
    vocabulary: int | None = None
    """Vocabulary, instead of the layout's own."""
    batch_size: int = 16
    """Rows decoded side by side."""
    prompt_length: int = 64
    """Tokens of each prompt."""
    max_new_tokens: int = 128
    """L."""
    block_length: int = 32
    """BL."""
    passes_per_block: int = 8
    """Passes that the fixed policy takes for a block."""
    repeats: int = 10
    """Forward passes that are timed alone."""
    grpo_prompts: int = 4
    """Prompts of the GRPO round; 8 rollouts each."""
    out: Path = JSON
    """The file that is written."""


def config_of(layout: Layout) -> Any:
    """Class and configuration of the stock network, as the family's checkpoint is loaded with."""
    common: dict[str, Any] = {
        "vocab_size": layout.vocabulary,
        "hidden_size": layout.width,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": layout.heads,
        "num_key_value_heads": layout.heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    if layout.experts:
        stock: Any = Qwen3MoeConfig(
            **common,
            intermediate_size=layout.mlp,
            num_experts=layout.experts,
            num_experts_per_tok=layout.chosen,
            moe_intermediate_size=layout.expert_width,
            norm_topk_prob=False,
            decoder_sparse_step=1,
        )
        stock.head_dim = layout.width // layout.heads
    else:
        stock = LlamaConfig(**common, intermediate_size=layout.mlp)
    stock.is_causal = False
    return stock


def random_model(layout: Layout, device: torch.device, seed: int = 0) -> Model:
    """A model of this layout in bf16, its weights drawn on the device.

    The gains are those of `benchmarks.models.random_llada`: confidences spread, ties are rare.
    """
    stock = config_of(layout)
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device), torch.no_grad():
            network_class = Qwen3MoeForCausalLM if layout.experts else LlamaForCausalLM
            network: Any = network_class(stock).requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(default)
    gain = (512 / layout.width) ** 0.5
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(
                std=1.0 if "embed" in name else (0.3 if "lm_head" in name else 0.1) * gain
            )
    # Its four special tokens; the others have no text.
    tokenizer: Any = word_tokenizer(["a"])
    never = {tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    return Model(
        network,
        tokenizer,
        mask_id=tokenizer.mask_token_id,
        eos_ids=(tokenizer.eos_token_id,),
        never_ids=tuple(sorted(never)),
        name="random weights",
    )


class Clock:
    """Seconds between marks: by CUDA events on a GPU, else by the wall clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []

    def mark(self) -> None:
        """Notes the time at which the device gets here."""
        if not self.cuda:
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def seconds(self) -> list[float]:
        """Between one mark and the next; waits for the device."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if not self.cuda:
            return [later - earlier for earlier, later in pairs]
        torch.cuda.synchronize()
        return [earlier.elapsed_time(later) / 1000 for earlier, later in pairs]


def time_calls(device: torch.device, call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after two that are not timed."""
    clock = Clock(device)
    for _ in range(2):
        call()
    clock.mark()
    for _ in range(repeats):
        call()
        clock.mark()
    return statistics.median(clock.seconds())


def peak_memory(device: torch.device, job: Callable[[], Any]) -> tuple[Any, int | None]:
    """What a job returns, and the most bytes that were allocated meanwhile (None on a CPU)."""
    if device.type != "cuda":
        return job(), None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    return job(), torch.cuda.max_memory_allocated(device)


@torch.inference_mode()
def time_forward(model: Model, config: Config) -> dict[str, float]:
    """Seconds of one bare forward pass: the backbone on full canvases, and the product of the head
    with the positions of one block of each row."""
    rows, device = config.batch_size, model.device
    size = config.prompt_length + config.max_new_tokens
    width = padded_width(model, size)
    prompts = random_prompts(rows, width, width, model.vocabulary)
    tokens = torch.tensor(prompts, device=device)
    inside = (torch.arange(width, device=device) < size).expand(rows, -1)
    mask = model.prepared(inside)

    def backbone() -> Tensor:
        network = model.network.base_model
        return network(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state

    hidden = backbone()[:, : config.block_length]
    return {
        "backbone": time_calls(device, backbone, config.repeats),
        "head": time_calls(device, lambda: model.to_logits(hidden), config.repeats),
    }


def time_decode(model: Model, policy: Policy, config: Config) -> dict[str, Any]:
    """A decode of one batch: seconds, tokens a second, seconds of a step, peak memory."""
    options = DecodeOptions(max_new_tokens=config.max_new_tokens, block_length=config.block_length)
    length = config.prompt_length
    prompts = random_prompts(config.batch_size, length, length, model.vocabulary)

    def start() -> Engine:
        engine = Engine(model, config.batch_size)
        for i, prompt in enumerate(prompts):
            engine.submit(Request(tuple(prompt), policy, options, i))
        return engine

    def run() -> tuple[float, list[float]]:
        engine, clock = start(), Clock(model.device)
        began = time.perf_counter()
        clock.mark()
        while not engine.idle:
            engine.step()
            clock.mark()
        steps = clock.seconds()
        return time.perf_counter() - began, steps

    warm = start()  # libraries choose their kernels at the first use
    first = warm.step()
    while not warm.idle and warm.cost.model_calls < 3:
        warm.step()
    assert first is not None
    shares = torch.tensor([0.1, 0.5, 0.9], device=model.device)
    spread = first.confidence[first.confidence > 0].quantile(shares).tolist()
    (seconds, steps), peak = peak_memory(model.device, run)
    return {
        "seconds": seconds,
        "tokens a second": config.batch_size * config.max_new_tokens / seconds,
        "passes": len(steps),
        "step": statistics.median(steps),
        "peak bytes": peak,
        "confidence at the first step (10, 50, 90 %)": spread,
    }


def time_round(model: Model, policy: LearnedPolicy, config: Config) -> dict[str, Any]:
    """A GRPO round: 8 rollouts of each prompt, then the update from all their decisions. The reward
    is the parity of the tokens' sum: it differs within groups and costs nothing."""
    group, length, device = 8, config.prompt_length, model.device
    prompts = random_prompts(config.grpo_prompts, length, length, model.vocabulary)
    rows = [prompt for prompt in prompts for _ in range(group)]
    options = DecodeOptions(max_new_tokens=config.max_new_tokens, block_length=config.block_length)
    settings = TrainConfig(rollouts=group, minibatches=1, epochs=2)
    policy.network.requires_grad_(True)
    optimizer = torch.optim.AdamW(policy.network.parameters(), lr=1e-3)
    phase = Grpo(settings, range(1))
    one = Processes(0, 1, device)

    def round_() -> dict[str, Any]:
        began = time.perf_counter()
        done = decode(
            model, rows, policy, options, batch_size=config.batch_size, recorder=Recorder()
        )
        rewards = (done.tokens.sum(1) % 2).float()
        wait_for_device(device)
        rolled = time.perf_counter()
        decisions = signal_batch(policy, done, rewards, [], group, 0.0)
        update(policy, decisions, optimizer, phase, settings.optim, one, 0)
        wait_for_device(device)
        return {
            "rollouts": rolled - began,
            "update": time.perf_counter() - rolled,
            "decisions": 0 if decisions is None else len(decisions),
            "passes a prompt": float(done.nfe.float().mean()),
        }

    found, peak = peak_memory(device, round_)
    return {**found, "peak bytes": peak}


def wait_for_device(device: torch.device) -> None:
    """Until the device has done all work that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_layout(name: LayoutName, config: Config, device: torch.device) -> dict[str, Any]:
    """Everything about one layout."""
    layout = LAYOUTS[name].shrink(config.layers, config.width, config.vocabulary)
    began = time.perf_counter()
    model = random_model(layout, device)
    wait_for_device(device)
    build_seconds = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in model.network.parameters())
    learned = random_policy(fallback=True)
    learned = replace(learned, network=learned.network.to(device).requires_grad_(False))
    fixed = load_policy(f"confidence:{max(1, config.block_length // config.passes_per_block)}")
    said = f"{name}: {sum(p.numel() for p in model.network.parameters()) / 1e9:.1f} B parameters"
    print(f"{said}; measuring", file=sys.stderr, flush=True)
    results = {
        "layout": asdict(layout),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "weight bytes": weights,
        "seconds to make the weights": build_seconds,
        "forward": time_forward(model, config),
        "decode": {
            "fixed": time_decode(model, fixed, config),
            "learned": time_decode(model, learned, config),
        },
        "grpo": time_round(model, replace(learned, fallback=False), config),
    }
    bare = results["forward"]["backbone"] + results["forward"]["head"]
    for run in results["decode"].values():
        run["step / bare forward"] = run["step"] / bare
    return results


def describe_device(device: torch.device) -> dict[str, Any]:
    """The card."""
    if device.type != "cuda":
        return {"name": "CPU"}
    card = torch.cuda.get_device_properties(device)
    return {
        "name": card.name,
        "bytes": card.total_memory,
        "capability": f"{card.major}.{card.minor}",
        "cuda": torch.version.cuda,
    }


def format_table(results: dict[str, Any]) -> str:
    """The main figures, as Markdown."""
    head = (
        "| layout | policy | tokens/s | passes | step, ms | bare forward, ms (head) | step / bare |"
    )
    lines = [f"{head} peak, GB (weights) |", "|---|---|---|---|---|---|---|---|"]

    def gigabytes(size: int | None) -> str:
        return "–" if size is None else f"{size / 1e9:.1f}"

    for name, found in results.items():
        forward = found["forward"]
        bare = forward["backbone"] + forward["head"]
        for policy, run in found["decode"].items():
            peak = f"{gigabytes(run['peak bytes'])} ({gigabytes(found['weight bytes'])})"
            times = f"{1e3 * run['step']:.1f} | {1e3 * bare:.1f} ({1e3 * forward['head']:.1f})"
            lines.append(
                f"| {name} | {policy} | {run['tokens a second']:.0f} | {run['passes']} | {times} "
                f"| {run['step / bare forward']:.2f} | {peak} |"
            )
    lines += ["", "| layout | rollouts, s | update, s | decisions | peak, GB |"]
    lines.append("|---|---|---|---|---|")
    for name, found in results.items():
        grpo = found["grpo"]
        times = f"{grpo['rollouts']:.1f} | {grpo['update']:.1f} | {grpo['decisions']}"
        lines.append(f"| {name}, GRPO round | {times} | {gigabytes(grpo['peak bytes'])} |")
    return "\n".join(lines)


def main(config: Config) -> int:
    """Exit status: 0, or 2 where the device is missing."""
    try:
        device = usable_device(config.device)
    except UnmaskError as error:
        print(f"The benchmark needs a GPU: {error}", file=sys.stderr)
        return 2
    origin = provenance(device, torch.bfloat16) | {
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
    }
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    card = describe_device(device)
    results = {}
    for name in config.layouts:
        results[name] = measure_layout(name, config, device)
        # After each layout, so that a run that is cut off leaves what it has measured.
        write_json(
            config.out,
            {"card": card, "provenance": origin, "settings": settings, "results": results},
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(
        f"{card['name']}, bf16, {config.batch_size} rows, L {config.max_new_tokens}, "
        f"BL {config.block_length}\n\n{format_table(results)}\n\nwritten to {config.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
