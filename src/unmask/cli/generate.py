"""`unmask generate`"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from unmask.cli.records import check_output, read_values, write_records
from unmask.decoding.options import DecodeOptions, check_number, check_whole, decode_options
from unmask.errors import UnmaskError, count_of
from unmask.files import read_json

if TYPE_CHECKING:
    from unmask.decoding import Prompt, Result
    from unmask.models import Model
    from unmask.policies import Policy
    from unmask.processes import Processes

ALIASES = {"--gen-length": "--max-new-tokens"}


@dataclass(frozen=True)
class Config:
    """Answer prompts with a frozen model and an unmasking policy. --gen-length is another name of
    --max-new-tokens."""

    prompt: tyro.conf.Positional[tuple[str, ...]] = ()
    """Prompts, each in quotes; embedded/chain knows problems like "7 a +5 b *3 =" (operations carry
    the letters a to f), embedded/word-problems like "A student has 13 books. His friend has 6 fewer
    books than he has. How many books do they have together?"."""
    samples: int = 1
    """Answers to each prompt; above --temperature 0, or with a policy that draws, they differ."""
    prompts: Path | None = None
    """JSON-lines file of prompts, or - for standard input: each line a string, {"prompt": …} or
    {"messages": [{"role": …, "content": …}, …]}."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository that the model is loaded from."""
    policy: str | None = None
    """Heuristic (random:K confidence:K threshold:λ factor:f margin:K low-entropy:K entropy:γ) or
    policy directory; threshold:0.9 if left out."""
    alpha: float | None = None
    """α for a policy that serves a range: larger is faster."""
    target_nfe: float | None = None
    """Forward passes a prompt, for a policy that serves a range of α: picks the α that needs about
    so many."""
    steps: int | None = None
    """LLaDA's and Dream's `steps`, instead of --policy: L / steps positions a pass; the first
    passes take the remainder."""
    remasking: Annotated[str | None, tyro.conf.arg(aliases=["--alg"])] = None
    """With --steps: LLaDA's low_confidence or random, Dream's maskgit_plus, topk_margin or entropy;
    low_confidence if left out."""
    decode: tyro.conf.OmitArgPrefixes[DecodeOptions] = field(default_factory=DecodeOptions)
    """How prompts are decoded."""
    logits_eos_inf: bool = False
    """LLaDA's name of --eos never."""
    confidence_eos_eot_inf: bool = False
    """LLaDA's name of --eos last."""
    batch_size: int = 64
    """Prompts decoded side by side."""
    chat: bool = False
    """Put each prompt into the model's chat template as the user's message."""
    system: str | None = None
    """System message for prompts that bring none; implies --chat."""
    infill: bool = False
    """The prompts hold mask tokens, and only those are filled."""
    append: int = 0
    """With --infill, put so many mask tokens behind each prompt, to be filled too."""
    infill_length: tuple[int, int] | None = None
    """With --infill, prompts hold one mask token, that stands for a gap of so many tokens, at least
    and at most: each length is tried, and the one whose tokens are likeliest on average is kept."""
    allowed: Path | None = None
    """JSON file of the tokens that may stand at each position of the answers: a list with one entry
    a position, which is a list of texts of one token or token ids, or null for any token."""
    output: Path | None = None
    """File for the answers, as JSON lines or, if its name ends in .csv or .parquet, as a table:
    prompt, text, nfe, tokens; an existing file is refused."""
    show: bool = False
    """Watch the canvas fill."""
    delay: float = 0.2
    """Seconds between steps with --show."""
    device: str = "cpu"
    """Device of the model; under `accelerate launch` the processes share the prompts, and cuda
    gives each a GPU of its own."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations of the frozen model; auto is bfloat16, but float32 on a CPU without
    instructions for bfloat16."""
    attn_implementation: str | None = None
    """Attention kernel as in transformers (sdpa, eager, flash_attention_2, …)."""
    device_map: str | None = None
    """Placement of the model as in transformers ("auto" with one GPU), instead of --device."""


def read_prompts(config: Config) -> list[Prompt]:
    """The prompts of the command line and of the file, as strings or chats.

    Raises:
        UnmaskError: if there are none, or a line of the file cannot be read.
    """
    found: list[Any] = list(config.prompt)
    if config.prompts is not None:
        found += read_prompt_lines(config.prompts)
    if not found:
        raise UnmaskError(
            'no prompts were given; give at least one in quotes, for example "7 a +5 b *3 =", or '
            "a file with --prompts"
        )
    if not config.chat and config.system is None:
        return found
    return [as_chat(prompt, config.system) for prompt in found]


def read_prompt_lines(path: Path) -> list[Prompt]:
    """The prompts of a JSON-lines file; `-` is standard input.

    Raises:
        UnmaskError: if it cannot be read, or a line holds no prompt.
    """
    forms = 'write a string, {"prompt": …} or {"messages": […]}'
    return [prompt_of(value, where) for where, value in read_values(path, forms, "prompts file")]


def prompt_of(value: Any, where: str) -> Prompt:
    """The prompt of a line's value.

    Raises:
        UnmaskError: if it holds none.
    """
    if isinstance(value, Mapping):
        value = value.get("messages", value.get("prompt"))
    chat = (
        isinstance(value, list)
        and value
        and all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in value)
    )
    if not isinstance(value, str) and not chat:
        raise UnmaskError(
            f'{where} holds no prompt; write a string, {{"prompt": …}} or {{"messages": [{{"role": '
            '…, "content": …}]}'
        )
    return value


def as_chat(prompt: Any, system: str | None) -> Prompt:
    """A prompt as chat messages, behind the system message if it brings none of its own."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system is None or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def policy_spec(config: Config, length: int | None, blocks: int | None = None) -> str:
    """What `load_policy` is to load for --policy, --alpha, --target-nfe, --steps and --remasking.

    Args:
        config: of the command.
        length: L.
        blocks: b of a block-causal model.

    Raises:
        UnmaskError: if they contradict each other.
    """
    from unmask.policies import HEURISTICS, steps_spec

    chosen = {"alpha": config.alpha, "nfe": config.target_nfe}
    steers = any(value is not None for value in chosen.values())
    if config.steps is not None:
        if config.policy is not None:
            raise UnmaskError(
                "--policy and --steps were both given; steps is another name of the policy "
                "confidence:K with K = L / steps"
            )
        if steers or config.infill:
            raise UnmaskError(
                "--steps is for answers of L tokens by a heuristic: it goes neither with --alpha "
                "and --target-nfe nor with --infill; leave it out, or give --policy confidence:K"
            )
        if length is None:
            raise UnmaskError("--steps needs the length of the answers; give --max-new-tokens")
        remasking = config.remasking or "low_confidence"
        return steps_spec(config.steps, length, remasking, config.decode.block_length or blocks)
    if config.remasking is not None:
        raise UnmaskError("--remasking was given without --steps; give both, or --policy")
    if config.alpha is not None and config.target_nfe is not None:
        raise UnmaskError("--alpha and --target-nfe were both given; give one of them")
    spec = config.policy or "threshold:0.9"
    if steers and re.split("[:@]", spec)[0] in HEURISTICS:
        raise UnmaskError(
            f"--alpha and --target-nfe are for learned policies, and the policy is {spec}; give "
            "--policy a directory"
        )
    settings = ",".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
    return spec + ("" if not settings else "," if "@" in spec else "@") + settings


def end_of_text_options(config: Config) -> DecodeOptions:
    """The decode options, with LLaDA's two flags as the `eos` that they mean.

    Raises:
        UnmaskError: if they contradict each other.
    """
    names = ("logits_eos_inf", "confidence_eos_eot_inf")
    flags = [name for name in names if getattr(config, name)]
    if flags and config.decode.eos != "free":
        flag = "--" + flags[0].replace("_", "-")
        raise UnmaskError(f"{flag} and --eos {config.decode.eos} were both given; give one of them")
    return decode_options(config.decode, dict.fromkeys(flags, True))


def run(config: Config, given: frozenset[str]) -> None:
    check_whole("samples", config.samples, 1)
    check_number("delay", config.delay, "seconds, from 0 to 3600", low=0, high=3600)
    if "delay" in given and not config.show:
        raise UnmaskError("--delay was given without --show; give both")
    prompts = [prompt for prompt in read_prompts(config) for _ in range(config.samples)]
    check_output(config.output)
    check_gap(config)
    allowed = None if config.allowed is None else read_json(config.allowed)
    options = end_of_text_options(config)

    from unmask.models import load_model
    from unmask.policies import load_policy
    from unmask.processes import Processes

    processes = Processes.join(config.device)
    model = load_model(
        config.model,
        device=config.device if processes.world == 1 else processes.device,
        dtype=config.dtype if processes.world == 1 else processes.common_dtype(config.dtype),
        attn_implementation=config.attn_implementation,
        device_map=config.device_map,
        revision=config.revision,
    )
    options, length = with_answer_length(config, options, model)
    policy = load_policy(policy_spec(config, length, model.attention_block), device=model.device)
    began = time.perf_counter()
    if config.infill_length is not None:
        own = fill_share(config, model, prompts, policy, options, processes)
    else:
        own = answer_share(config, model, prompts, policy, options, processes, allowed)
    gathered = [record for records in processes.gather(own) for record in records]
    if processes.main:
        records = [record for _, record in sorted(gathered, key=lambda pair: pair[0])]
        positions = None if config.infill else len(records) * (options.max_new_tokens or 0)
        report(config, records, positions, time.perf_counter() - began)


def answer_share(
    config: Config,
    model: Model,
    prompts: Sequence[Prompt],
    policy: Policy,
    options: DecodeOptions,
    processes: Processes,
    allowed: Any,
) -> list[tuple[int, dict[str, Any]]]:
    """The answers to this process' share of the prompts, each with the number of its prompt.

    An interrupt writes those that are finished; of several processes the first writes its own.
    """
    from unmask.cli.show import answer
    from unmask.decoding import encode_prompt
    from unmask.rng import row_keys

    # All prompts are looked at in each process, so that a wrong one ends all of them, and a row's
    # random numbers do not depend on how many processes there are.
    behind = [model.mask_id] * config.append
    ids = [encode_prompt(model, prompt, infill=config.infill) + behind for prompt in prompts]
    keys = row_keys(ids, options.seed)
    numbers = processes.share(range(len(prompts)))
    if not numbers:
        return []
    done: list[Result] = []
    try:
        generation = answer(
            model,
            [prompts[number] for number in numbers],
            policy,
            options,
            batch_size=config.batch_size,
            infill=config.infill,
            append=config.append,
            allowed=allowed,
            keys=[keys[number] for number in numbers],
            delay=config.delay if config.show else None,
            done=done,
        )
    except KeyboardInterrupt:
        if config.output is not None and done and processes.main:
            finished = finished_records(model, prompts, numbers, done, config.samples)
            write_records(config.output, [record for _, record in finished])
            print(f"{len(done)} of {count_of(len(prompts), 'answer')} written to {config.output}")
        raise
    nfe, counts = generation.nfe.tolist(), generation.answer_tokens.tolist()
    columns = zip(numbers, generation.text, nfe, counts, strict=True)
    return [
        (number, answer_record(prompts[number], text, passes, tokens, number, config.samples))
        for number, text, passes, tokens in columns
    ]


def check_gap(config: Config) -> None:
    """Refuses what does not go with infilling, or with a gap of unknown length.

    Raises:
        UnmaskError: if so.
    """
    if config.infill and config.decode.max_new_tokens is not None:
        raise UnmaskError(
            "--max-new-tokens does not go with --infill, which fills the masks of the prompts; "
            "leave it out, or give --append N for N masks behind them"
        )
    if config.infill_length is None:
        return
    if not config.infill:
        raise UnmaskError("--infill-length was given without --infill; give both")
    for flag, given in (("--append", config.append), ("--show", config.show)):
        if given:
            raise UnmaskError(f"{flag} does not go with --infill-length; leave out one of them")
    if config.allowed is not None:
        raise UnmaskError("--allowed does not go with --infill-length; leave out one of them")


def fill_share(
    config: Config,
    model: Model,
    prompts: Sequence[Prompt],
    policy: Policy,
    options: DecodeOptions,
    processes: Processes,
) -> list[tuple[int, dict[str, Any]]]:
    """What fills the gaps of this process' share of the prompts, each with its prompt's number."""
    from unmask.decoding import encode_prompt
    from unmask.rng import row_keys
    from unmask.scoring import infill_lengths

    keys = row_keys([encode_prompt(model, p, infill=True) for p in prompts], options.seed)
    numbers = processes.share(range(len(prompts)))
    if not numbers or config.infill_length is None:
        return []
    fillings = infill_lengths(
        model,
        [prompts[number] for number in numbers],
        policy,
        config.infill_length,
        options,
        batch_size=config.batch_size,
        keys=[keys[number] for number in numbers],
    )
    found = []
    for number, each in zip(numbers, fillings, strict=True):
        cost = (each.nfe, each.answer_tokens, number, config.samples)
        record = answer_record(prompts[number], each.text, *cost)
        likelihood = each.per_token[each.length]
        found.append((number, {**record, "length": each.length, "per_token": likelihood}))
    return found


def with_answer_length(
    config: Config, options: DecodeOptions, model: Model
) -> tuple[DecodeOptions, int | None]:
    """The options with L filled in from the model if it was not given, and L. Infilling needs none.

    Raises:
        UnmaskError: if neither says it, or the block length is above it.
    """
    length = options.max_new_tokens
    if length is None and options.choices and not config.infill:
        from unmask.decoding.constraints import longest_choice

        length = longest_choice(model, options.choices)
    if length is None:
        length = model.max_new_tokens
    if config.infill:
        return options, length
    if length is None:
        raise UnmaskError(
            f"model {config.model} does not say how long its answers are; give --max-new-tokens"
        )
    return decode_options(options, {"max_new_tokens": length}), length


def report(
    config: Config, records: Sequence[Mapping[str, Any]], positions: int | None, seconds: float
) -> None:
    """Writes or prints the answers, and a line that says what they cost.

    Args:
        config: where to write.
        records: of all prompts, in their order.
        positions: of all buffers; None where masks of the prompts are filled.
        seconds: that decoding took.
    """
    if config.output is not None:
        write_records(config.output, records)
    else:
        for record in records:
            print(answer_line(record))
        if len(records) == 1:
            return
    tokens, passes = (sum(record[name] for record in records) for name in ("tokens", "nfe"))
    line = (
        f"{count_of(len(records), 'answer')} in {seconds:.1f} s: "
        f"{tokens / passes:.2f} tokens per forward pass, {tokens / seconds:.0f} a second"
    )
    if positions is not None:
        line += f"; not counted: {count_of(positions - tokens, 'position')} from the end of text on"
    print(line)


def finished_records(
    model: Model,
    prompts: Sequence[Prompt],
    numbers: Sequence[int],
    done: Sequence[Result],
    samples: int,
) -> list[tuple[int, dict[str, Any]]]:
    """The records of the rows that are finished, each with the number of its prompt, in order."""
    from unmask.decoding.generation import count_answer, row_text

    records = []
    for result in sorted(done, key=lambda result: result.ticket):
        number, tokens = numbers[result.ticket], result.tokens.tolist()
        text = row_text(model, result.request, tokens)
        count = count_answer(model, result.request, tokens, result.reveal_step.tolist())
        record = answer_record(prompts[number], text, result.nfe, count, number, samples)
        records.append((number, record))
    return records


def answer_record(
    prompt: Prompt, text: str, nfe: int, tokens: int, number: int, samples: int
) -> dict[str, Any]:
    """One line of the output file; with several samples it says which one it is, from 0."""
    which = {"sample": number % samples} if samples > 1 else {}
    return {"prompt": prompt, "text": text, "nfe": nfe, "tokens": tokens, **which}


def answer_line(record: Mapping[str, Any]) -> str:
    """One answer for reading: the prompt or its last message, the text and the cost."""
    prompt = record["prompt"]
    asked = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    passes = count_of(record["nfe"], "forward pass", "forward passes")
    return f"{asked}  →  {record['text']}   ({passes}, {count_of(record['tokens'], 'token')})"
