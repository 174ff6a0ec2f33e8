"""Programs in completions, with fences of every kind or none."""

import json
import time
from pathlib import Path

import pytest

from unmask import load_task
from unmask.tasks.fences import find_program

DATA = Path(__file__).parents[1] / "data"
PROGRAM = "def f():\n    return 1\n"
OTHER = "print(f())\n"
DOCUMENTED = 'def f():\n    """Gives 1.\n\n    ```python\n    f()\n    ```\n    """\n    return 1\n'
COMPLETIONS = {
    "no fence": PROGRAM,
    "closed": PROGRAM + "```",
    "closed, with words behind": PROGRAM + "```\nThis returns 1.",
    "closed, with a use behind": PROGRAM + "```\nUse it:\n```python\n" + OTHER + "```",
    "closed by a line with spaces": PROGRAM + "```  \nDone.",
    "closed behind its last line": PROGRAM.rstrip() + "```",
    "opened again": "```python\n" + PROGRAM + "```",
    "opened and cut off": "```python\n" + PROGRAM,
    "opened without a language": "```\n" + PROGRAM + "```",
    "behind an empty line": "\n```python\n" + PROGRAM + "```",
    "words before": "Here:\n```python\n" + PROGRAM + "```",
    "words before, no language": "Here is the function:\n\n```\n" + PROGRAM + "```\nDone.",
    "words before and behind": "Sure, it's easy.\n\n```py\n" + PROGRAM + "```\n\nIt's done.",
    "large letter": "Here:\n```Python\n" + PROGRAM + "```",
    "version": "Here:\n```python3\n" + PROGRAM + "```",
    "space before the language": "Here:\n``` python\n" + PROGRAM + "```",
    "attributes": 'Here:\n```python title="f.py"\n' + PROGRAM + "```",
    "four signs": "Here:\n````python\n" + PROGRAM + "````",
    "waves": "Here:\n~~~python\n" + PROGRAM + "~~~\nDone.",
    "waves without a language": "~~~\n" + PROGRAM + "~~~",
    "other line ends": ("Here:\n```python\n" + PROGRAM + "```\nDone.\n").replace("\n", "\r\n"),
    "other line ends, closed": (PROGRAM + "```\nDone.\n").replace("\n", "\r\n"),
    "indented": "1. Here:\n\n   ```python\n   def f():\n       return 1\n   ```\n\n2. Done.",
    "empty fence first": "```\n```python\n" + PROGRAM + "```",
    "a shell command first": "```bash\npip install f\n```\n\n```python\n" + PROGRAM + "```",
    "its output behind": "```python\n" + PROGRAM + "```\nIt prints:\n```text\n1\n```",
    "two blocks": "```python\n" + PROGRAM + "```\nand\n```python\n" + OTHER + "```",
    "a use first": "Use:\n```python\n" + OTHER + "```\nof\n```python\n" + PROGRAM + "```",
    "never closed before the next": "```python\n" + PROGRAM + "```python\n" + OTHER + "```",
}


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_a_program_is_found(kind):
    assert find_program(COMPLETIONS[kind], ["f"]).strip() == PROGRAM.strip()


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_a_docstring_may_hold_a_fence(kind):
    completion = COMPLETIONS[kind].replace(PROGRAM.rstrip(), DOCUMENTED.rstrip())
    if completion == COMPLETIONS[kind]:
        pytest.skip("its program is written otherwise")
    assert find_program(completion, ["f"]).strip() == DOCUMENTED.strip()


@pytest.mark.parametrize(
    "completion", ["", "```", "```\n```", "I cannot.", "```python\n```\n", "~~~\n" * 3]
)
def test_nothing_is_no_program(completion):
    assert "def" not in find_program(completion, ["f"])


@pytest.mark.parametrize(
    "text",
    [
        "```\n" * 100_000,
        '"""' * 100_001,
        "`" * 10**6,
        "\n" * 49_000 + "x\n```\nx",
        " " * 49_000 + "x\n```\nx",
        "'\\" * 10**5,
        '"""\\' * 10**5,
    ],
)
def test_hostile_texts_are_read(text):
    began = time.process_time()
    find_program(text, ["f"])
    assert time.process_time() - began < 5


def only_body(example):
    return example.answer.removeprefix(example.data.prompt)


SHAPES = {
    "humaneval": [
        lambda e: only_body(e),
        lambda e: "```Python\r\n" + e.answer.replace("\n", "\r\n"),
        lambda e: "Here:\n```python3\n" + e.answer + "\nDone.",
    ],
    "mbpp": [
        lambda e: "~~~\n" + e.answer.removesuffix("```") + "~~~\nDone.",
        lambda e: "Sure.\n\n   ```py\n" + e.answer.replace("\n```", "\n   ```"),
    ],
    "kodcode": [lambda e: "```bash\nls\n```\n```python\n" + e.answer],
}


@pytest.mark.parametrize("name", SHAPES)
def test_right_programs_in_other_shapes_pass(name):
    task = load_task(name, data_dir=DATA, allow_code_execution=True)
    examples = task.examples("test", 2)[:2]
    pairs = [(shape(e), e) for shape in SHAPES[name] for e in examples]
    completions, asked = [text for text, _ in pairs], [e for _, e in pairs]
    assert task.score_all(completions, asked) == [1.0] * len(pairs), json.dumps(completions)
