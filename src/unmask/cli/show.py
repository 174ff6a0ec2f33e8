"""Decodes prompts while it shows the progress: the canvas as it fills, or a bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from unmask.decoding import DecodeOptions, Generation, Prompt, Result, Step, finish, stream
from unmask.decoding.calls import Steps
from unmask.decoding.text import token_texts
from unmask.models import Model
from unmask.policies.base import PolicyLike

MARKS = HOLE, END = "·⌁"


def answer(
    model: Model,
    prompts: Sequence[Prompt],
    policy: PolicyLike,
    options: DecodeOptions,
    *,
    done: list[Result],
    delay: float | None,
    **settings: Any,
) -> Generation:
    """Decodes the prompts; shows the canvas if there is a `delay`, else a bar on a terminal.

    Args:
        model: the frozen model.
        prompts: N prompts.
        policy: which proposals to accept.
        options: how to decode.
        done: gets each row as soon as it is finished, so that an interrupt loses none.
        delay: seconds between two steps of the canvas; None shows none.
        settings: the keywords of `stream`.
    """
    steps = stream(model, prompts, policy, options, **settings)
    steps = keep_results(steps, done)
    if delay is not None:
        return finish_shown(steps, model, len(prompts), Console(), delay)
    return finish_with_bar(steps, model, len(prompts))


def keep_results(steps: Steps, done: list[Result]) -> Steps:
    """The same steps; the rows that one finishes are added to `done`."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        done += step.results
        yield step


def canvas_line(model: Model, tokens: Sequence[int], fresh: Sequence[bool]) -> Text:
    """One buffer as text on one line: `·` for masks and for characters that are not whole yet, `⌁`
    for the end of the text, `↵` for a line's end, new tokens highlighted.

    Tokens that follow each other stand as in the text, so that parts of a word are one word; a
    space is between marks and text.
    """
    line = Text(no_wrap=False)
    marked = False
    for token, new, text in zip(tokens, fresh, token_texts(model, tokens), strict=True):
        if text == "" and token not in model.end_set:
            continue
        mark = HOLE if text is None else END if token in model.end_set else ""
        shown = mark or (text or "").replace("\n", " ↵ ")
        plain = line.plain
        if not plain or plain[-1].isspace():
            shown = shown.lstrip()
        elif marked != bool(mark) and not shown[0].isspace():
            line.append(" ")
        line.append(shown, "bold green" if new else "dim" if mark else "")
        marked = bool(mark)
    line.rstrip()
    return line


def generate_shown(
    model: Model,
    prompts: Sequence[Prompt],
    policy: PolicyLike | str,
    console: Console,
    delay: float = 0.0,
    options: DecodeOptions | None = None,
    *,
    batch_size: int = 64,
    infill: bool = False,
    **settings: Any,
) -> Generation:
    """`generate` with the canvas shown after each step.

    Args:
        model: the frozen model.
        prompts: as for `generate`.
        policy: as for `generate`.
        console: where to; on a terminal the canvas is redrawn in place when `delay` > 0, else each
            step is a line.
        delay: seconds to wait after each step.
        options: how to decode.
        batch_size: rows decoded side by side.
        infill: fill the mask tokens of the prompts instead of writing behind them.
        settings: fields of `DecodeOptions`, which win over `options`.
    """
    steps = stream(
        model, prompts, policy, options, batch_size=batch_size, infill=infill, **settings
    )
    return finish_shown(steps, model, len(prompts), console, delay)


def finish_shown(
    steps: Steps,
    model: Model,
    rows: int,
    console: Console,
    delay: float,
) -> Generation:
    """Takes all steps and shows the canvas after each."""
    if delay and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            return finish(steps, canvas_redrawn(model, live, delay))
    return finish(steps, canvas_printed(model, rows, console))


def canvas_printed(model: Model, rows: int, console: Console) -> Callable[[Step], None]:
    """A function that prints a step: a line for each row in it, with its number if rows > 1."""
    steps = 0

    def print_step(step: Step) -> None:
        nonlocal steps
        steps += 1
        for row, line in canvas_lines(model, step).items():
            label = Text(f"[{row}] ") if rows > 1 else Text()
            print_indented(console, Text(f"{steps:>4}  ", "cyan") + label, line)

    return print_step


def print_indented(console: Console, head: Text, line: Text) -> None:
    """Prints a line behind its head; what does not fit goes on below, as far to the right."""
    for part in fold_line(line, max(10, console.width - head.cell_len)):
        console.print(head + part)
        head = Text(" " * head.cell_len)


def fold_line(line: Text, width: int) -> list[Text]:
    """The line in parts of at most so many cells, cut behind a space or a mark where one is."""
    cuts, start, behind, cells = [], 0, 0, 0
    for i, character in enumerate(line.plain):
        cells += cell_len(character)
        if cells > width and not character.isspace():
            start = behind if behind > start else i
            cuts.append(start)
            cells = cell_len(line.plain[start : i + 1])
        if character.isspace() or character in MARKS:
            behind = i + 1
    parts = list(line.divide(cuts))
    for part in parts:
        part.rstrip()
    return parts


def canvas_redrawn(model: Model, live: Live, delay: float) -> Callable[[Step], None]:
    """A function that draws all rows anew at each step, then waits `delay` seconds."""
    lines: dict[int, Text] = {}
    steps = 0

    def draw_step(step: Step) -> None:
        nonlocal steps
        steps += 1
        lines.update(canvas_lines(model, step))
        title = Text(f"step {steps}", "cyan")
        live.update(Group(title, *(lines[row] for row in sorted(lines))), refresh=True)
        time.sleep(delay)

    return draw_step


def canvas_lines(model: Model, step: Step) -> dict[int, Text]:
    """The canvas of each row in a step, by the number of the row."""
    rows = zip(step.rows.tolist(), step.tokens.tolist(), step.fresh.tolist(), strict=True)
    return {row: canvas_line(model, tokens, fresh) for row, tokens, fresh in rows}


def finish_with_bar(steps: Steps, model: Model, rows: int) -> Generation:
    """Takes all steps, with a bar on a terminal's standard error that says how many answer tokens a
    forward pass yields."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return finish(steps)
    columns = (
        TextColumn("prompts"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    ends = torch.tensor(model.eos_ids, device=model.device)
    revealed = passes = finished = 0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=rows)

        def count_step(step: Step) -> None:
            nonlocal revealed, passes, finished
            revealed += int((step.fresh & ~torch.isin(step.tokens, ends)).sum())
            passes += len(step.rows)
            finished += int(step.finished.sum())
            bar.update(
                task, completed=finished, description=f"{revealed / passes:.1f} tokens per forward"
            )

        return finish(steps, count_step)
