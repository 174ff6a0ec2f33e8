"""`unmask score`"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from unmask.cli.records import check_output, prompt_cell, read_values, write_records
from unmask.decoding.options import check_whole
from unmask.errors import UnmaskError, count_of

if TYPE_CHECKING:
    from unmask.models import Model
    from unmask.scoring import Likelihood, Text

FORMS = 'write {"prompt": …, "continuation": …} or {"messages": […], "continuation": …}'


@dataclass(frozen=True)
class Config:
    """Measure how likely a model finds continuations of prompts: log-likelihoods in nats."""

    text: tyro.conf.Positional[tuple[str, ...]] = ()
    """A prompt and one or more continuations of it, each in quotes: "7 a +5 =" "# 2" "# 3"."""
    texts: Path | None = None
    """JSON-lines file, or - for standard input: each line {"prompt": …, "continuation": …} or
    {"messages": [{"role": …, "content": …}, …], "continuation": …}."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    revision: str | None = None
    """Branch, tag or commit of a Hub repository that the model is loaded from."""
    order: str | None = None
    """Exact likelihood of decoding one token a pass in this order: left-to-right, or a policy's
    (confidence:1, a policy directory). Left out: LLaDA's lower bound of the likelihood."""
    max_new_tokens: int | None = None
    """Length L of the canvas: each continuation is filled up with end-of-text tokens to L, which
    are scored too, as answers are when they are decoded. Left out: the continuation alone."""
    block_length: int | None = None
    """With a policy as --order, block length BL in tokens. Left out, it is that of a learned policy
    that was trained in blocks, else there is one block."""
    samples: int = 128
    """Masks that the bound is estimated with, for each text: an even number. Where there are no
    more than that, all are tried and nothing is estimated."""
    seed: int = 0
    """Seed of the masks, or of a policy that draws."""
    batch_size: int = 64
    """Rows side by side."""
    output: Path | None = None
    """File for the results, as JSON lines or, if its name ends in .csv or .parquet, as a table; an
    existing file is refused."""
    device: str = "cpu"
    """Device of the model; under `accelerate launch` the processes share the texts, and cuda gives
    each a GPU of its own."""
    dtype: Literal["bfloat16", "float16", "float32"] = "float32"
    """Weights and activations of the frozen model; likelihoods in less than float32 are coarser."""


def read_pairs(config: Config) -> list[tuple[Any, str]]:
    """Prompts and continuations of the command line and of the file.

    Raises:
        UnmaskError: if there are none, or a line of the file cannot be read.
    """
    prompt, *continuations = config.text or ("",)
    if config.text and not continuations:
        raise UnmaskError(
            f"the prompt {prompt!r} was given without a continuation; give at least one behind it"
        )
    pairs: list[tuple[Any, str]] = [(prompt, each) for each in continuations]
    if config.texts is not None:
        pairs += [pair_of(*each) for each in read_values(config.texts, FORMS, "texts file")]
    if not pairs:
        raise UnmaskError(
            'no texts were given; give a prompt and a continuation, for example "7 a +5 =" "# 2", '
            "or a file with --texts"
        )
    return pairs


def pair_of(where: str, value: Any) -> tuple[Any, str]:
    """The prompt and the continuation of a line's value.

    Raises:
        UnmaskError: if it holds none.
    """
    from unmask.cli.generate import prompt_of

    if not isinstance(value, Mapping) or not isinstance(value.get("continuation"), str):
        raise UnmaskError(f"{where} holds no continuation; {FORMS}")
    return prompt_of(dict(value), where), value["continuation"]


def check_order(config: Config, given: frozenset[str]) -> None:
    """Refuses options that the likelihood asked for does not use.

    Raises:
        UnmaskError: if so.
    """
    if config.block_length is not None and config.order in (None, "left-to-right"):
        raise UnmaskError(
            "--block-length was given, and it is for a policy as --order; give one, or leave it out"
        )
    if "samples" in given and config.order is not None:
        raise UnmaskError(
            "--samples and --order were both given, and masks are drawn for the bound alone; give "
            "one of them"
        )
    if "seed" in given and config.order == "left-to-right":
        raise UnmaskError(
            "--seed was given, and nothing is drawn in --order left-to-right; leave it out"
        )


def run(config: Config, given: frozenset[str]) -> None:
    pairs = read_pairs(config)
    check_output(config.output)
    check_whole("samples", config.samples, 2)
    if config.max_new_tokens is not None:
        check_whole("max_new_tokens", config.max_new_tokens, 1)
    check_order(config, given)

    from unmask.models import load_model
    from unmask.processes import Processes
    from unmask.scoring import encode_pair

    processes = Processes.join(config.device)
    device = config.device if processes.world == 1 else processes.device
    model = load_model(config.model, device=device, dtype=config.dtype, revision=config.revision)
    texts = [encode_pair(model, *pair, config.max_new_tokens) for pair in pairs]
    numbers = processes.share(range(len(pairs)))
    found = score_texts(config, model, [texts[i] for i in numbers]) if numbers else []
    own = [(i, score_record(*pairs[i], each)) for i, each in zip(numbers, found, strict=True)]
    gathered = [record for records in processes.gather(own) for record in records]
    if processes.main:
        records = [record for _, record in sorted(gathered, key=lambda pair: pair[0])]
        if config.output is not None:
            write_records(config.output, records)
            print(f"{count_of(len(records), 'text')} written to {config.output}")
        else:
            for record in records:
                print(score_line(record))


def score_texts(config: Config, model: Model, texts: Sequence[Text]) -> list[Likelihood]:
    """The likelihoods that were asked for."""
    from unmask.scoring import bound_likelihood, exact_likelihood

    common = {"seed": config.seed, "batch_size": config.batch_size}
    if config.order is None:
        return bound_likelihood(model, texts, samples=config.samples, **common)
    return exact_likelihood(model, texts, config.order, block_length=config.block_length, **common)


def score_record(prompt: Any, continuation: str, found: Likelihood) -> dict[str, Any]:
    """One line of the output file."""
    return {
        "prompt": prompt,
        "continuation": continuation,
        "log_likelihood": found.log_likelihood,
        "standard_error": found.standard_error,
        "tokens": found.tokens,
        "per_token": found.per_token,
        "passes": found.passes,
    }


def score_line(record: Mapping[str, Any]) -> str:
    """One result for reading."""
    prompt = record["prompt"]
    asked = prompt_cell(prompt if isinstance(prompt, str) else prompt[-1]["content"])
    error = record["standard_error"]
    value = f"{record['log_likelihood']:.3f}" + (f" ± {error:.3f}" if error else "")
    detail = (
        f"{count_of(record['tokens'], 'token')}, {record['per_token']:.3f} each, "
        f"{count_of(record['passes'], 'pass', 'passes')}"
    )
    return f"{value} nats   {asked}  →  {record['continuation']}   ({detail})"
