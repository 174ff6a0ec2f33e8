"""Programming tasks: HumanEval (Chen et al. 2021), MBPP (Austin et al. 2021), KodCode (Xu et al.
2025). Programs run in the sandbox."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from unmask.errors import UnmaskError, short_error
from unmask.extras import require_package
from unmask.sandbox import (
    Job,
    check,
    defined_classes,
    defined_names,
    require_pytest,
    require_sandbox,
    standard_imports,
)
from unmask.tasks.base import Task, TimedScore, Verdict
from unmask.tasks.data import DataAccess, read_rows
from unmask.tasks.examples import Example
from unmask.tasks.fences import find_program
from unmask.tasks.options import TaskOptions, write_prompt
from unmask.tasks.rows import Row, Text, UnusableRow, make_examples
from unmask.tasks.sources import DatasetSource, data_set

FENCE = "```python\n"
HUMANEVAL_TEMPLATE, MBPP_TEMPLATE, KODCODE_TEMPLATE = "humaneval@1", "mbpp@1", "kodcode@1"
FUTURE = re.compile(r"^from[ \t]+__future__[ \t]+import[ \t]+(?:\([^)]*\)|[\w ,]+)", re.MULTILINE)
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


class HumanEvalRow(Row):
    """The official columns that are used."""

    prompt: Text
    canonical_solution: Text
    test: Text
    entry_point: Text


class MbppRow(Row):
    """The official columns that are used."""

    text: Text
    code: Text
    test_list: list[Text]
    test_setup_code: str | None = None


class Signature(Row):
    """A function that a KodCode problem asks for."""

    function_name: Text
    function_declaration: Text


class KodCodeRow(Row):
    """The official columns that are used."""

    question: Text
    solution: Text
    test: Text
    test_info: list[Signature] | None = None


def read_code(completion: str, example: Example | None = None) -> str:
    """The program in a completion."""
    row = None if example is None else example.data
    names: tuple[str, ...] = ()
    if isinstance(row, HumanEvalRow):
        names = (row.entry_point,)
    elif isinstance(row, MbppRow):
        names = defined_names(row.code)
    elif isinstance(row, KodCodeRow):
        names = tuple(info.function_name for info in row.test_info or ())
    return find_program(completion, names)


def check_python(column: str, text: str) -> None:
    """Refuses what is no Python.

    Raises:
        UnusableRow: if it does not parse.
    """
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableRow(f"column {column} is no Python ({short_error(error)})") from None


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
        outcome = check(make_job(read_code(completion, example), example))
        return Verdict(float(outcome.passed), outcome.timed_out)

    return Task(
        name=name,
        source=source,
        score=TimedScore(judge),
        max_new_tokens=256,
        template=access.options.template_name(template),
        find_answer=read_code,
        waits=True,
    )


def humaneval(access: DataAccess) -> Task:
    """164 functions to complete, for tests alone."""

    def make(row: HumanEvalRow) -> Example:
        if not re.search(rf"\bdef\s+{re.escape(row.entry_point)}\b", row.prompt):
            raise UnusableRow(
                f"its prompt does not define the entry point {row.entry_point[:60]!r}"
            )
        if not re.search(r"\bdef\s+check\b", row.test):
            raise UnusableRow("its column test does not define check")
        check_python("prompt", row.prompt + "\n    pass\n")
        check_python("test", row.test)
        prompt = write_prompt(access.options, HUMANEVAL_USER, {"prompt": row.prompt})
        answer = row.prompt + row.canonical_solution + "```"
        return Example(prompt, answer, access.options.system(), prefill=FENCE, data=row)

    def read(split: str) -> list[Example]:
        columns = ("prompt", "canonical_solution", "test", "entry_point")
        rows = read_rows(access, "humaneval", "openai/openai_humaneval", split, columns)
        return make_examples("humaneval", split, rows, HumanEvalRow, make)

    def make_job(code: str, example: Example) -> Job:
        row = example.data
        return Job(
            join_program(row.prompt, row.entry_point, code),
            row.test,
            kind="humaneval",
            names=(row.entry_point,),
            setup=row.prompt,
            classes=(),
        )

    return code_task("humaneval", HUMANEVAL_TEMPLATE, data_set(read, train=None), make_job, access)


def join_program(prompt: str, name: str, code: str) -> str:
    """The program of an answer to HumanEval: the prompt and what goes on with it, or the prompt and
    a whole function, which may need the prompt's imports. What the answer imports from the future
    comes first, as Python wants it."""
    if not re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\b", code, re.MULTILINE):
        return prompt + code
    future = "".join(f"{line}\n" for line in FUTURE.findall(code))
    return f"{future}{prompt}\n    pass\n\n{FUTURE.sub('pass', code)}"


def mbpp(access: DataAccess) -> Task:
    """974 small programs with three assertions each, in the official splits (500 for tests). The
    prompt shows the assertions, as usual."""

    def make(row: MbppRow) -> Example:
        if not row.test_list:
            raise UnusableRow("its column test_list is empty")
        check_python("test_list", "\n".join(row.test_list))
        check_python("test_setup_code", row.test_setup_code or "")
        fields = {"text": row.text.strip(), "tests": "\n".join(row.test_list)}
        prompt = write_prompt(access.options, MBPP_USER, fields)
        answer = row.code.replace("\r\n", "\n") + "\n```"
        return Example(prompt, answer, access.options.system(), prefill=FENCE, data=row)

    def read(split: str) -> list[Example]:
        columns = ("text", "code", "test_list", "test_setup_code")
        rows = read_rows(access, "mbpp", "google-research-datasets/mbpp", split, columns, ("full",))
        return make_examples("mbpp", split, rows, MbppRow, make)

    def make_job(code: str, example: Example) -> Job:
        row = example.data
        setup = standard_imports(row.code) + (row.test_setup_code or "")
        return Job(
            code,
            "\n".join(row.test_list),
            names=defined_names(row.code),
            setup=setup,
            classes=defined_classes(row.code),
        )

    return code_task(
        "mbpp", MBPP_TEMPLATE, data_set(read, validation="validation"), make_job, access
    )


def kodcode(access: DataAccess) -> Task:
    """Synthetic programming problems with pytest files, for training; 1/8 of them, by the CRC of
    their prompts, are kept for tests."""

    def make(row: KodCodeRow) -> Example:
        declarations = "\n".join(info.function_declaration for info in row.test_info or ())
        fields = {"question": row.question.strip(), "names": declarations}
        key = write_prompt(TaskOptions(), KODCODE_USER, fields)
        return Example(
            write_prompt(access.options, KODCODE_USER, fields),
            row.solution + "\n```",
            access.options.system(),
            prefill=FENCE,
            data=row,
            key=key,
        )

    def read(split: str) -> list[Example]:
        columns = ("question", "solution", "test", "test_info")
        rows = read_rows(access, "kodcode", "KodCode/KodCode-V1", split, columns)
        return make_examples("kodcode", split, rows, KodCodeRow, make)

    def make_job(code: str, example: Example) -> Job:
        row = example.data
        names = [info.function_name for info in row.test_info or ()]
        return Job(
            code,
            row.test,
            kind="pytest",
            names=tuple(dict.fromkeys([*names, *defined_names(row.solution)])),
            classes=defined_classes(row.solution),
        )

    task = code_task("kodcode", KODCODE_TEMPLATE, data_set(read, test=None), make_job, access)
    require_package("pytest", "task kodcode")
    require_pytest()
    return task
