"""The metric of the harness' programming tasks, with the programs in the sandbox."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unmask.errors import UnmaskError
from unmask.evaluation.samples import pass_at_k
from unmask.sandbox import Job, check_all, defined_names, require_sandbox

REFUSAL = (
    "a task runs code that the model wrote; read docs/security.md and say --allow-code-execution"
)


class CodeEval:
    """What the harness' programming tasks take for the `code_eval` metric of the `evaluate`
    library: here programs run in the sandbox."""

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Iterable[int] = (1,),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """pass@k, and which programs passed.

        Args:
            references: of each problem, the tests' text.
            predictions: of each problem, its programs.
            k: of pass@k.
        """
        jobs = [
            job_of(program, test)
            for test, programs in zip(references, predictions, strict=True)
            for program in programs
        ]
        outcomes = iter(check_all(jobs))
        passed = {
            i: [next(outcomes).passed for _ in programs] for i, programs in enumerate(predictions)
        }
        n = min(map(len, passed.values()))
        rates = {
            f"pass@{j}": [pass_at_k(len(each), sum(each), j) for each in passed.values()]
            for j in k
            if j <= n
        }
        return {name: sum(values) / len(values) for name, values in rates.items()}, passed


def job_of(program: str, test: str) -> Job:
    """A check of a program by tests that call its names. Names that the tests define, and Python's
    own, stay the tests'."""
    try:
        used = {node.id for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError):
        used = set()
    own = {*defined_names(test), *dir(builtins)}
    return Job(
        program,
        test,
        names=tuple(name for name in dict.fromkeys(defined_names(program)) if name in used - own),
    )


@contextmanager
def sandboxed_code_eval(allowed: bool) -> Iterator[None]:
    """While this is open, tasks that load `code_eval` from the `evaluate` library get `CodeEval`;
    afterwards the library is as it was. Open it before the tasks are loaded.

    Args:
        allowed: whether code may run; otherwise a task that loads `code_eval` is refused.

    Raises:
        UnmaskError: if code may run and this machine cannot confine it.
    """
    import evaluate

    if allowed:
        require_sandbox()
    original = evaluate.load

    def load(path: str, *args: Any, **options: Any) -> Any:
        if path != "code_eval":
            return original(path, *args, **options)
        if not allowed:
            raise UnmaskError(REFUSAL)
        return CodeEval()

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
