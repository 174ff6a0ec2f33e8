"""Shows a canvas while it fills: one line a step, or in place on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from unmask.decoding import Generation, Prompt, Step, finish, stream
from unmask.models import Model
from unmask.policies import Policy


def canvas_line(model: Model, tokens: Sequence[int], fresh: Sequence[bool]) -> Text:
    """One buffer as text: `·` for masks, new tokens highlighted, text after the end dimmed to
    `⌁`."""
    line = Text(no_wrap=False)
    for token, new in zip(tokens, fresh, strict=True):
        if token == model.mask_id:
            line.append("· ", "dim")
        elif token in model.eos_ids:
            line.append("⌁ ", "bold green" if new else "dim")
        else:
            line.append(model.tokenizer.decode([token]).strip() + " ", "bold green" if new else "")
    return line


def generate_shown(
    model: Model,
    prompts: Sequence[Prompt],
    policy: Policy | str,
    console: Console,
    delay: float = 0.0,
    **options,
) -> Generation:
    """`generate` with the canvas shown after each step.

    Args:
        model: the frozen model.
        prompts: as for `generate`.
        policy: as for `generate`.
        console: where to; on a terminal the canvas is redrawn in place when `delay` > 0, else each
            step is a line.
        delay: seconds to wait after each step.
        options: the other arguments of `generate`.
    """
    lines: dict[int, Text] = {}
    steps = 0
    live = Live(console=console, auto_refresh=False) if delay and console.is_terminal else None

    def draw(step: Step) -> None:
        nonlocal steps
        steps += 1
        for row, tokens, fresh in zip(
            step.rows.tolist(), step.tokens.tolist(), step.fresh.tolist(), strict=True
        ):
            lines[row] = canvas_line(model, tokens, fresh)
            if live is None:
                console.print(
                    Text(f"{steps:>4}  ", "cyan")
                    + (Text(f"[{row}] ") if len(prompts) > 1 else Text())
                    + lines[row]
                )
        if live is not None:
            live.update(
                Group(Text(f"step {steps}", "cyan"), *(lines[row] for row in sorted(lines))),
                refresh=True,
            )
            time.sleep(delay)

    stepping = stream(model, prompts, policy, **options)
    if live is None:
        return finish(stepping, draw)
    with live:
        return finish(stepping, draw)
