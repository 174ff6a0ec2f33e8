"""Programming tasks: HumanEval (Chen et al. 2021), MBPP (Austin et al. 2021), KodCode (Xu et al.
2025). Programs run in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from unmask.errors import UnmaskError
from unmask.sandbox import (
    Job,
    check,
    defined_classes,
    defined_names,
    require_sandbox,
    standard_imports,
)
from unmask.tasks.base import Task, TimedScore, Verdict
from unmask.tasks.data import DataAccess, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.sources import DatasetSource, data_set

FENCE = "```python\n"
HUMANEVAL_TEMPLATE, MBPP_TEMPLATE, KODCODE_TEMPLATE = "humaneval@1", "mbpp@1", "kodcode@1"
HUMANEVAL_USER = (
    "Complete this Python function. Answer with the whole function in one code block.\n\n"
    "```python\n{prompt}```"
)
MBPP_USER = (
    "{text}\n\nThe code must pass these tests:\n{tests}\n\n"
    "Answer with Python code in one code block."
)
KODCODE_USER = (
    "{question}\n\nThe code must define:\n{names}\n\nAnswer with Python code in one code block."
)


def code_of(completion: str, example: Example | None = None) -> str:
    """The program in a completion of an answer that begins with a code fence: what stands before
    the fence closes, or in the first fence it opens itself."""
    opened = re.search(r"```(?:python|py)?[ \t]*\n", completion)
    if opened and (opened.group().strip() != "```" or not completion[: opened.start()].strip()):
        completion = completion[opened.end() :]
    return completion.split("```", 1)[0]


def code_task(
    name: str,
    template: str,
    source: DatasetSource,
    make_job: Callable[[str, Example], Job],
    access: DataAccess,
) -> Task:
    """A task whose answers are programs.

    Raises:
        UnmaskError: unless code execution was allowed and this machine can confine it.
    """
    if not access.allow_code_execution:
        raise UnmaskError(
            f"task {name} runs code that the model wrote; read docs/security.md and say "
            "--allow-code-execution"
        )
    require_sandbox()

    def judge(completion: str, example: Example) -> Verdict:
        outcome = check(make_job(code_of(completion), example))
        return Verdict(float(outcome.passed), outcome.timed_out)

    return Task(
        name=name,
        source=source,
        score=TimedScore(judge),
        max_new_tokens=256,
        template=template,
        find_answer=code_of,
        waits=True,
    )


def humaneval(access: DataAccess) -> Task:
    """164 functions to complete, for tests alone."""
    columns = ("task_id", "prompt", "canonical_solution", "test", "entry_point")

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "humaneval", "openai/openai_humaneval", split, columns)
        user = HUMANEVAL_USER.format
        return [
            Example(
                user(prompt=r["prompt"]),
                r["prompt"] + r["canonical_solution"] + "```",
                system="",
                prefill=FENCE,
                data=r,
            )
            for r in rows
        ]

    def make_job(code: str, example: Example) -> Job:
        row = example.data
        whole = re.search(
            rf"^(?:async\s+)?def\s+{re.escape(row['entry_point'])}\b", code, re.MULTILINE
        )
        program = (
            f"{row['prompt']}\n    pass\n\n{code}" if whole else row["prompt"] + code
        )  # a whole function may need the prompt's imports
        return Job(
            program,
            row["test"],
            kind="humaneval",
            names=(row["entry_point"],),
            setup=row["prompt"],
            classes=(),
        )

    return code_task("humaneval", HUMANEVAL_TEMPLATE, data_set(read, train=None), make_job, access)


def mbpp(access: DataAccess) -> Task:
    """974 small programs with three assertions each, in the official splits (500 for tests). The
    prompt shows the assertions, as usual."""
    columns = ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list")

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "mbpp", "google-research-datasets/mbpp", split, columns, ("full",))
        return [
            Example(
                MBPP_USER.format(text=row["text"].strip(), tests="\n".join(row["test_list"])),
                row["code"].replace("\r\n", "\n") + "\n```",
                system="",
                prefill=FENCE,
                data=row,
            )
            for row in rows
        ]

    def make_job(code: str, example: Example) -> Job:
        row = example.data
        setup = standard_imports(row["code"]) + (row["test_setup_code"] or "")
        return Job(
            code,
            "\n".join(row["test_list"]),
            names=defined_names(row["code"]),
            setup=setup,
            classes=defined_classes(row["code"]),
        )

    return code_task(
        "mbpp", MBPP_TEMPLATE, data_set(read, validation="validation"), make_job, access
    )


def kodcode(access: DataAccess) -> Task:
    """Synthetic programming problems with pytest files, for training; 1/8 of them, by the CRC of
    their prompts, are kept for tests."""
    columns = ("question_id", "question", "solution", "test", "test_info")

    def names(row: dict[str, Any]) -> str:
        return "\n".join(info["function_declaration"] for info in row["test_info"] or [])

    def read(split: str) -> list[Example]:
        rows = read_rows(access, "kodcode", "KodCode/KodCode-V1", split, columns)
        user = KODCODE_USER.format
        prompts = [user(question=row["question"].strip(), names=names(row)) for row in rows]
        return [
            Example(p, row["solution"] + "\n```", system="", prefill=FENCE, data=row)
            for p, row in zip(prompts, rows, strict=True)
        ]

    def make_job(code: str, example: Example) -> Job:
        names = [info["function_name"] for info in example.data["test_info"] or []]
        return Job(
            code,
            example.data["test"],
            kind="pytest",
            names=tuple(dict.fromkeys([*names, *defined_names(example.data["solution"])])),
            classes=defined_classes(example.data["solution"]),
        )

    return code_task("kodcode", KODCODE_TEMPLATE, data_set(read, test=None), make_job, access)
