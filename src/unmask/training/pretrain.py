"""Pre-trains a small masked diffusion language model on generated data (the objective of LLaDA, Nie
et al. 2025)."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

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
from unmask.models.tokenizer import learned_tokenizer, word_tokenizer
from unmask.processes import usable_device
from unmask.tasks import Example, Task, load_task


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train a small masked diffusion language model on a task's generated data."""

    out: Path = Path("runs/pretrain")
    """Directory for the model, its loss curve and the checkpoint to resume from."""
    task: str = "chain"
    """What to learn: chain, sudoku, reasoning_gym:NAME, jsonl:FILE, or any other task whose answers
    a small model can learn to write."""
    data_dir: str | None = None
    """Directory with the files of data sets, for tasks that need them."""
    family: Literal["plain", "dream"] = "plain"
    """Checkpoint format: plain (Llama, no shift), or dream (Qwen2, the output at position i
    predicts token i + 1)."""
    steps: int = 12_000
    """Optimisation steps."""
    batch_size: int = 32
    """Sequences a step: many small steps teach these models more than few large ones."""
    width: int = 128
    """Hidden size."""
    layers: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    matrix_lr: float = 5e-3
    """Peak learning rate of Muon, for the weight matrices."""
    other_lr: float = 3e-3
    """Peak learning rate of AdamW, for embeddings and norms."""
    weight_decay: float = 0.1
    """Weight decay of Muon."""
    warmup: int = 100
    """Steps of linear warm-up; after them the rate falls linearly to zero over the last `cooldown`
    share."""
    cooldown: float = 0.6
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    suffix_share: float = 0.3
    """Share of the sequences whose mask is a suffix, as semi-autoregressive decoding meets them,
    instead of a random set."""
    seed: int = 0
    """Seed of weights, data and masks."""
    compile: bool = False
    """Compile the model (a minute more at the start, a fifth faster steps)."""
    save_every: int = 500
    """Steps between checkpoints."""
    resume: bool = False
    """Go on from the checkpoint in `out`."""
    device: str = "cpu"
    """Device to train on."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "layers", "heads", "save_every"):
            if getattr(self, name) < 1:
                raise UnmaskError(f"{name} is {getattr(self, name)}; give at least 1")
        for name in (
            "matrix_lr",
            "other_lr",
            "weight_decay",
            "warmup",
            "cooldown",
            "suffix_share",
            "seed",
        ):
            value, high = getattr(self, name), 1 if name in ("cooldown", "suffix_share") else 2**32
            if not 0 <= value <= high:
                raise UnmaskError(f"{name} is {value}; give 0 to {high}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UnmaskError(
                f"width {self.width} cannot be cut into {self.heads} heads of even size; change "
                "one of them"
            )


def new_model(
    config: PretrainConfig, tokenizer: Any, prompt_length: int, answer_length: int
) -> Any:
    """A stock Llama (or Qwen2, for Dream's format) with bidirectional attention and tied
    embeddings, with random weights."""
    classes: tuple[Any, Any] = (
        (Qwen2ForCausalLM, Qwen2Config)
        if config.family == "dream"
        else (LlamaForCausalLM, LlamaConfig)
    )
    network, stock = classes
    settings = stock(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=max(256, prompt_length + answer_length),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    settings.is_causal = False
    settings.max_new_tokens = answer_length
    torch.manual_seed(config.seed)
    return network(settings)


def draw_masks(n: int, length: int, suffix_share: float, generator: torch.Generator) -> Tensor:
    """Which answer positions are hidden: bool [n, length], at least one in each row.

    Random rows draw a mask ratio t ~ U(0, 1) (stratified over the batch) and hide each position
    with probability t; the first `suffix_share` of the rows hide everything from a uniformly drawn
    position on.
    """
    t = (
        torch.arange(n)[torch.randperm(n, generator=generator)] + torch.rand(n, generator=generator)
    ) / n
    masks = torch.rand(n, length, generator=generator) < t[:, None]
    suffixes = torch.arange(length) >= (t * length).long()[:, None]
    masks = torch.where((torch.arange(n) < round(suffix_share * n))[:, None], suffixes, masks)
    forced = torch.randint(length, (n, 1), generator=generator)
    return masks | ((torch.arange(length) == forced) & ~masks.any(1, keepdim=True))


SAMPLE = 2000


def vocabulary(task: Task) -> tuple[PreTrainedTokenizerFast, int, int]:
    """The tokenizer for a task, and its longest prompt and answer in tokens: as the task says, or
    all three from a sample of its training examples."""
    if task.words and task.max_prompt_tokens and task.max_new_tokens:
        return word_tokenizer(task.words), task.max_prompt_tokens, task.max_new_tokens
    sample = task.examples("train", SAMPLE)
    tokenizer = learned_tokenizer(text for e in sample for text in (e.prompt, e.prefill, e.answer))
    prompts, answers = zip(*(tokens_of(tokenizer, e) for e in sample), strict=True)
    return tokenizer, max(map(len, prompts)), max(map(len, answers))


def tokens_of(tokenizer: PreTrainedTokenizerFast, example: Example) -> tuple[list[int], list[int]]:
    """Tokens of the prompt, as `unmask.tasks.prompt_tokens` gives them without a chat, and of the
    answer."""
    prompt, prefill, answer = tokenizer(
        [example.prompt, example.prefill, example.answer], add_special_tokens=False
    )["input_ids"]
    return prompt + prefill, answer


def fits(
    tokenizer: PreTrainedTokenizerFast, example: Example, prompt_length: int, answer_length: int
) -> bool:
    """Whether an example is no longer than those of the sample."""
    prompt, answer = tokens_of(tokenizer, example)
    return len(prompt) <= prompt_length and len(answer) <= answer_length


def encode(
    tokenizer: PreTrainedTokenizerFast,
    examples: list[Example],
    prompt_length: int,
    answer_length: int,
) -> tuple[Tensor, Tensor]:
    """Tokens [n, S] of prompt + answer padded with EOS to `answer_length` + padding, and prompt
    lengths [n].

    Raises:
        UnmaskError: if an example does not fit.
    """
    prompts, answers = zip(*(tokens_of(tokenizer, e) for e in examples), strict=True)
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if len(prompt) > prompt_length or len(answer) > answer_length:
            raise UnmaskError(
                f"an example has {len(prompt)} + {len(answer)} tokens; the task allows "
                f"{prompt_length} + {answer_length}"
            )
        answer = answer + [tokenizer.eos_token_id] * (answer_length - len(answer))
        rows.append(prompt + answer + [tokenizer.pad_token_id] * (prompt_length - len(prompt)))
    return torch.tensor(rows), torch.tensor([len(p) for p in prompts])


def diffusion_loss(
    model: Any, tokens: Tensor, prompt_lengths: Tensor, masks: Tensor, mask_id: int, shift: int = 0
) -> Tensor:
    """Cross-entropy on the hidden answer tokens, each sequence weighted by 1/t with t the share
    that is really hidden.

    Args:
        model: maps tokens and attention mask to logits.
        tokens: [B, S] from `encode`.
        prompt_lengths: [B].
        masks: bool [B, L], hidden answer positions.
        mask_id: the mask token.
        shift: the logits at position i predict token i + shift.

    Returns:
        A scalar; with the 1/t weight, a bound on the negative log-likelihood per answer token in
        nats.
    """
    length = masks.shape[1]
    where = prompt_lengths[:, None] + torch.arange(length, device=tokens.device)
    answers = tokens.gather(1, where)
    corrupted = tokens.scatter(1, where, torch.where(masks, mask_id, answers))
    attention_mask = (
        torch.arange(tokens.shape[1], device=tokens.device) < (prompt_lengths + length)[:, None]
    )
    logits = model(
        input_ids=corrupted, attention_mask=attention_mask.long(), use_cache=False
    ).logits
    logits = logits.gather(1, (where - shift)[:, :, None].expand(-1, -1, logits.shape[-1]))
    nll = cross_entropy(logits.float().transpose(1, 2), answers, reduction="none")
    return ((nll * masks).sum(1) / masks.sum(1)).mean()


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
    tokenizer, prompt_length, answer_length = vocabulary(task)
    model: Any = new_model(config, tokenizer, prompt_length, answer_length)
    model.to(config.device)
    model.set_attn_implementation(
        "eager"
    )  # on CPU the backward of fused attention is 3x slower at these lengths (lab book)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices,
        lr=config.matrix_lr,
        adjust_lr_fn="match_rms_adamw",
        weight_decay=config.weight_decay,
    )
    adamw = torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.98), weight_decay=0.0)
    recipe = asdict(config) | {
        "out": None,
        "resume": None,
        "compile": None,
        "device": None,
        "save_every": None,
        "data_dir": None,
    }

    checkpoint, start, log = config.out / "checkpoint.safetensors", 0, []
    if config.resume:
        tensors = read_tensors(checkpoint, config.device)
        saved = read_json(config.out / "recipe.json")["recipe"]
        if saved != recipe:
            changed = ", ".join(name for name in recipe if saved.get(name) != recipe[name])
            raise UnmaskError(
                f"{config.out} was made with other settings ({changed}); resume with the same ones "
                "or name a new directory"
            )
        model.load_state_dict(
            {k[6:]: v for k, v in tensors.items() if k.startswith("model/")}, strict=False
        )  # the head is tied
        load_optimizer(muon, tensors, "muon")
        load_optimizer(adamw, tensors, "adamw")
        start = int(tensors["step"])
        log = [json.loads(line) for line in (config.out / "loss.jsonl").read_text().splitlines()]
        log = [entry for entry in log if entry["step"] <= start]
    else:
        new_directory(config.out)
    write_json(
        config.out / "recipe.json", {"recipe": recipe, "provenance": provenance(config.device)}
    )

    network = torch.compile(model, dynamic=False) if config.compile else model
    began, recent = time.perf_counter(), torch.zeros((), device=config.device)
    for step in range(start, config.steps):
        scale = min(
            (step + 1) / max(config.warmup, 1),
            (config.steps - step) / max(config.cooldown * config.steps, 1),
            1.0,
        )
        for optimizer, lr in ((muon, config.matrix_lr), (adamw, config.other_lr)):
            for group in optimizer.param_groups:
                group["lr"] = scale * lr
        stream = task.stream("train", seed=config.seed * 1_000_003 + step)
        fitting = (
            stream
            if task.words
            else (e for e in stream if fits(tokenizer, e, prompt_length, answer_length))
        )
        tokens, lengths = encode(
            tokenizer, list(islice(fitting, config.batch_size)), prompt_length, answer_length
        )
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        masks = draw_masks(config.batch_size, answer_length, config.suffix_share, generator)
        with torch.autocast(torch.device(config.device).type, torch.bfloat16):
            tokens, lengths, masks = (x.to(config.device) for x in (tokens, lengths, masks))
            loss = diffusion_loss(
                network,
                tokens,
                lengths,
                masks,
                cast(int, tokenizer.mask_token_id),
                int(config.family == "dream"),
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in (muon, adamw):
            optimizer.step()
        model.zero_grad(set_to_none=True)
        recent += loss.detach()
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            since = (step % 100) + 1
            log.append(
                {
                    "step": step + 1,
                    "loss": round(recent.item() / since, 5),
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )
            recent.zero_()
            print(
                f"step {step + 1}/{config.steps}  loss {log[-1]['loss']:.4f}  "
                f"{log[-1]['seconds']:.0f} s",
                flush=True,
            )
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            write_text(
                config.out / "loss.jsonl", "".join(json.dumps(entry) + "\n" for entry in log)
            )
            state = {
                f"model/{k}": v for k, v in model.state_dict().items() if k != "lm_head.weight"
            }
            state |= (
                optimizer_tensors(muon, "muon")
                | optimizer_tensors(adamw, "adamw")
                | {"step": torch.tensor(step + 1)}
            )
            write_tensors(checkpoint, state)
            save_model(model, tokenizer, config.out)
    return config.out


def save_model(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the model in bf16 as stock `transformers` files, or in Dream's format; the weights of
    `model` stay as they are."""
    bf16 = type(model)(model.config)
    bf16.load_state_dict(model.state_dict())
    bf16.to(torch.bfloat16).save_pretrained(out)
    if isinstance(model, Qwen2ForCausalLM):
        dream = {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            "mask_token_id": tokenizer.mask_token_id,
        }
        write_json(out / "config.json", read_json(out / "config.json") | dream)
    tokenizer.save_pretrained(out)
