"""`unmask lm-eval`"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unmask.errors import UnmaskError
from unmask.files import new_directory, provenance, write_json, write_text


@dataclass(frozen=True)
class Config:
    """Run tasks of lm-evaluation-harness (pip install "unmask[lm-eval]"), with NFE beside its
    metrics."""

    tasks: tuple[str, ...] = ()
    """Tasks of type generate_until, apart or with commas: gsm8k,minerva_math500,humaneval,mbpp."""
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
    limit: int | None = None
    """Prompts of each task; leave out for all."""
    apply_chat_template: bool = False
    """Write prompts in the model's chat template."""
    fewshot_as_multiturn: bool = False
    """In a chat, give few-shot examples as earlier turns."""
    system_instruction: str | None = None
    """System prompt."""
    max_new_tokens: int | None = None
    """L, the generation buffer; leave out for what each task asks for."""
    block_length: int | None = None
    """Block length; leave out for full diffusion."""
    cache: Literal["prefix", "dual"] | None = None
    """Cache keys and values within each block: faster, and an approximation."""
    allow_code_execution: bool = False
    """Let programs that the model wrote run, in the sandbox (docs/security.md): humaneval, mbpp."""
    batch_size: int = 8
    """Rows decoded side by side."""
    device: str = "cpu"
    """Device; under `accelerate launch` on GPUs, each process takes its own."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Weights and activations of the frozen model."""
    seed: int = 0
    """Of everything random."""


def run(config: Config) -> None:
    tasks = [name for text in config.tasks for name in text.split(",") if name]
    if not tasks:
        raise UnmaskError("no tasks were given; give at least one, for example --tasks gsm8k")
    try:
        from lm_eval import evaluator
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import handle_non_serializable, make_table

        from unmask.evaluation.lm_eval import REFUSAL, UnmaskLM, use_sandbox
    except ImportError as error:
        raise UnmaskError(
            f'lm-evaluation-harness is not installed ({error}); pip install "unmask[lm-eval]"'
        ) from None
    if config.include_path is not None and not config.include_path.is_dir():
        raise UnmaskError(
            f"include_path {config.include_path} is no directory; name one that holds task files"
        )
    manager = TaskManager(include_path=str(config.include_path) if config.include_path else None)
    if unknown := [name for name in tasks if not manager.match_tasks([name])]:
        raise UnmaskError(
            f"lm-evaluation-harness {manager_version()} has no task {unknown[0]!r}; `lm_eval ls "
            "tasks` lists them"
        )
    use_sandbox(config.allow_code_execution)
    settings = {
        name: getattr(config, name)
        for name in (
            "block_length",
            "max_new_tokens",
            "batch_size",
            "device",
            "dtype",
            "cache",
            "seed",
        )
    }
    lm = UnmaskLM(config.model, config.policy, **settings)
    if lm.rank == 0:
        new_directory(config.out)
    evaluate: Any = (
        evaluator.simple_evaluate
    )  # its decorator hides its arguments from type checkers
    try:
        results = evaluate(
            lm,
            tasks=manager.match_tasks(tasks),
            task_manager=manager,
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=config.fewshot_as_multiturn and config.apply_chat_template,
            system_instruction=config.system_instruction,
            confirm_run_unsafe_code=config.allow_code_execution,
        )
    except Exception as error:
        if lm.rank == 0:
            config.out.rmdir()  # nothing is in it yet
        if isinstance(error, ValueError) and "unsafe" in str(error):
            raise UnmaskError(REFUSAL) from None
        if isinstance(error, ConnectionError):
            raise UnmaskError(
                f"a task's data cannot be had ({error}); check the network, or name local files in "
                "a task file"
            ) from None
        raise
    if results is None:
        return  # not the first of several processes
    for task, rows in results.pop("samples", {}).items():
        lines = [json.dumps(row, default=handle_non_serializable) + "\n" for row in rows]
        write_text(config.out / f"samples-{task}.jsonl", "".join(lines))
    made = provenance(lm.model.device, lm.model.dtype)
    template = lm.chat_template(config.apply_chat_template)
    report = {**results, "chat_template": template, "costs": lm.report(), "provenance": made}
    write_json(
        config.out / "results.json", json.loads(json.dumps(report, default=handle_non_serializable))
    )
    print(make_table(results))
    for task, cost in lm.report().items():
        rate = f"{cost['tokens_per_forward']:.2f} tokens per forward"
        print(
            f"{task}: {cost['nfe']:.1f} NFE, {rate}, {cost['seconds']:.1f} s for {cost['prompts']} "
            "prompts"
        )
    print(f"written to {config.out}/results.json")


def manager_version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
