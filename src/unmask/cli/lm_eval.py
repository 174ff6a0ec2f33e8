"""`unmask lm-eval`"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from unmask.decoding.options import DecodeOptions
from unmask.errors import UnmaskError


@dataclass(frozen=True)
class Config:
    """Run tasks of lm-evaluation-harness (pip install "unmask[lm-eval]"), with NFE beside its
    metrics."""

    tasks: tuple[str, ...] = ()
    """Tasks, apart or with commas: gsm8k,minerva_math500,humaneval,mbpp,arc_easy,wikitext."""
    out: Path = Path("runs/lm-eval")
    """New directory for results.json and samples-TASK.jsonl."""
    model: str = "embedded/chain"
    """Frozen model: an embedded one, a directory or a Hub repository."""
    policy: str = "threshold:0.9"
    """Sampler: a heuristic (threshold:0.9) or a policy directory."""
    include_path: Path | None = None
    """Directory of task files (YAML) of your own."""
    num_fewshot: int | None = None
    """Examples before each question; leave out for the task's own."""
    limit: float | None = None
    """Prompts of each task, or below 1 the share of them; leave out for all."""
    gen_kwargs: str | None = None
    """Generation options that go before each task's own: temperature=0.7,do_sample=True."""
    use_cache: Path | None = None
    """File name of a cache of answers: a run that was interrupted goes on with those it has. Each
    model, policy and decode options have a cache of their own. Costs are of new answers only."""
    cache_requests: bool = False
    """Keep the tasks' prompts for the next run, which then starts faster."""
    apply_chat_template: bool = False
    """Write prompts in the model's chat template."""
    fewshot_as_multiturn: bool = False
    """With --apply-chat-template, give few-shot examples as earlier turns."""
    system_instruction: str | None = None
    """System prompt."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): humaneval, mbpp."""
    batch_size: int = 8
    """Rows decoded side by side."""
    likelihood: Literal["bound", "left-to-right", "policy"] = "bound"
    """For tasks that ask for log-likelihoods (multiple choice, perplexity): LLaDA's bound, or the
    exact one of decoding one token a pass in an order, from left to right or the policy's."""
    mc_samples: int = 128
    """Masks that the bound of each text is estimated with, an even number."""
    likelihood_canvas: int | None = None
    """Length L of the canvas on which continuations are scored: each is filled up with end-of-text
    tokens to L, which are scored too, as `unmask score --max-new-tokens L` does. Left out: the
    continuation alone. Perplexity tasks, which have no continuations, do not use it."""
    device: str = "cpu"
    """Device; under `accelerate launch` on GPUs, each process takes its own."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Weights and activations of the frozen model; auto is bfloat16, but float32 on a CPU without
    instructions for bfloat16."""
    decode: tyro.conf.OmitArgPrefixes[DecodeOptions] = field(default_factory=DecodeOptions)
    """How prompts are answered. Length, temperature, top_p and top_k are each task's own where they
    are left out."""


def run(config: Config, given: frozenset[str]) -> None:
    names = [name for text in config.tasks for name in text.split(",") if name]
    if not names:
        raise UnmaskError("no tasks were given; give at least one, for example --tasks gsm8k")
    check_limit(config.limit)
    if config.fewshot_as_multiturn and not config.apply_chat_template:
        raise UnmaskError(
            "--fewshot-as-multiturn was given without --apply-chat-template; give both, as turns "
            "are those of a chat"
        )
    try:
        from unmask.integrations.lm_eval import UnmaskLM, sandboxed_code_eval
    except ImportError as error:
        raise UnmaskError(
            f'lm-evaluation-harness is not installed ({error}); pip install "unmask[lm-eval]"'
        ) from None
    from unmask.processes import Processes

    manager = load_tasks(config.include_path, names)
    processes = Processes.join(config.device)
    with (
        new_results(config.out, processes.main),
        sandboxed_code_eval(config.allow_code_execution),
    ):
        lm = UnmaskLM(
            config.model,
            config.policy,
            config.decode,
            batch_size=config.batch_size,
            device=config.device,
            dtype=config.dtype,
            processes=processes,
            likelihood=config.likelihood,
            mc_samples=config.mc_samples,
            likelihood_canvas=config.likelihood_canvas,
            given=given,
        )
        results = run_harness(config, lm, manager, names)
    if results is not None:  # the first of several processes has them
        write_results(config, lm, results)


def check_limit(limit: float | int | None) -> None:
    """Refuses a limit that is neither a share nor a number of prompts.

    Raises:
        UnmaskError: if so.
    """
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit % 1 == 0)):
        raise UnmaskError(
            f"limit is {limit:g}; give a whole number of prompts, a share between 0 and 1, or "
            "leave it out"
        )


def load_tasks(include_path: Path | None, names: list[str]) -> Any:
    """The harness' index of tasks.

    Raises:
        UnmaskError: if there is no such directory, or a task that it does not know.
    """
    from lm_eval.tasks import TaskManager

    if include_path is not None and not include_path.is_dir():
        raise UnmaskError(
            f"include_path {include_path} is not a directory; name one that holds task files"
        )
    manager = TaskManager(include_path=str(include_path) if include_path else None)
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise UnmaskError(
            f"lm-evaluation-harness {version('lm_eval')} has no task {unknown[0]!r}; `lm_eval ls "
            "tasks` lists them"
        )
    return manager


@contextmanager
def new_results(out: Path, main: bool) -> Iterator[None]:
    """A new directory, made by the first process before anything is loaded; what was made is
    removed again if nothing came of it.

    Raises:
        UnmaskError: if it cannot be made or holds files.
    """
    from unmask.files import new_directory

    made = [path for path in (out, *out.parents) if main and not path.exists()]
    try:
        if main:
            new_directory(out)
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # it is not empty: the first error is the one to report
                path.rmdir()
        raise


def run_harness(config: Config, lm: Any, manager: Any, names: list[str]) -> dict[str, Any] | None:
    """What the harness finds; None on processes but the first.

    Raises:
        UnmaskError: if a task runs code and that is not allowed, or its data cannot be loaded.
    """
    from lm_eval import evaluator

    from unmask.integrations.lm_eval import REFUSAL

    # The harness' decorator hides the arguments from type checkers.
    evaluate: Any = evaluator.simple_evaluate
    try:
        return evaluate(
            lm,
            tasks=manager.match_tasks(names),
            task_manager=manager,
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            gen_kwargs=config.gen_kwargs,
            use_cache=None if config.use_cache is None else cache_path(config.use_cache, lm),
            cache_requests=config.cache_requests,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=config.fewshot_as_multiturn,
            system_instruction=config.system_instruction,
            confirm_run_unsafe_code=config.allow_code_execution,
        )
    except ValueError as error:
        if isinstance(error, UnmaskError) or "unsafe" not in str(error):
            raise
        raise UnmaskError(REFUSAL) from None
    except ConnectionError as error:
        raise UnmaskError(
            f"a task's data cannot be loaded ({error}); check the network, or name local files in "
            "a task file"
        ) from None


def cache_path(path: Path, lm: Any) -> str:
    """The name of the cache for a model, a policy and decode options: the harness looks answers up
    by their prompts alone, so another sampler's must not be found there.

    Raises:
        UnmaskError: if its directory does not exist.
    """
    import hashlib

    from unmask.evaluation.contents import model_contents, policy_contents, weights_digest

    if not path.absolute().parent.is_dir():
        raise UnmaskError(f"use_cache {path} is in no existing directory; make it first")
    parts = (
        model_contents(lm.model),
        weights_digest(lm.policy),
        policy_contents(lm.policy),
        vars(lm.options),
        *sorted(lm.given),
        str(lm.model.dtype),
        *(
            ()
            if (lm.likelihood, lm.mc_samples) == ("bound", 128)
            else (lm.likelihood, lm.mc_samples)
        ),
        *(() if lm.likelihood_canvas is None else ("canvas", lm.likelihood_canvas)),
    )
    return f"{path}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def write_results(config: Config, lm: Any, results: dict[str, Any]) -> None:
    """Writes the harness' results and what they cost, and prints both."""
    from lm_eval.utils import make_table

    from unmask.files import write_json, write_text
    from unmask.provenance import provenance

    for task, rows in results.pop("samples", {}).items():
        lines = [json.dumps(valid_json(row)) + "\n" for row in rows]
        write_text(config.out / f"samples-{task}.jsonl", "".join(lines))
    costs: Mapping[str, Mapping[str, float]] = lm.report()
    report = {
        **results,
        "chat_template": lm.chat_template(config.apply_chat_template),
        "costs": costs,
        "provenance": provenance(lm.model.device, lm.model.dtype),
    }
    write_json(config.out / "results.json", valid_json(report))
    print(make_table(results))
    for task, cost in costs.items():
        rate = f"{cost['tokens_per_forward']:.2f} tokens per forward"
        print(
            f"{task}: {cost['nfe']:.1f} NFE, {rate}, {cost['seconds']:.1f} s for {cost['prompts']} "
            "prompts"
        )
    print(f"written to {config.out}/results.json")


def valid_json(value: Any) -> Any:
    """What the harness gives as JSON; numbers that are not finite, which JSON has not, are null."""
    from lm_eval.utils import handle_non_serializable

    text = json.dumps(value, default=handle_non_serializable)
    return json.loads(text, parse_constant=lambda name: None)
