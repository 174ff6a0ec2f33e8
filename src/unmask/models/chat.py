"""Chat templates: programs of a checkpoint's authors, which are given little time and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes

from unmask.errors import UnmaskError, refuse_errors

LONGEST = 2**20  # characters of a template
MOST_SECONDS = 5.0  # of the processor, so that a busy machine refuses no template
LONGEST_WAIT = 120.0  # seconds of the clock, after which a template that waits is ended too
MOST_MEMORY = 2**30  # bytes that may be taken while a chat is written
PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that getrusage counts a peak in
LARGEST_NUMBER = 10**7


class TemplateLimit(Exception):
    """A template took too long, or too much memory."""


def check_template(template: Any, directory: Path) -> None:
    """Refuses what is no chat template: other values than text (or texts by name), bad syntax, and
    powers and huge numbers, with which one expression can run for ever.

    Raises:
        UnmaskError: if so.
    """
    texts = list(template.values()) if isinstance(template, dict) else [template]
    if not all(isinstance(text, str) for text in texts):
        raise UnmaskError(
            f"the chat template in {directory} is no text but {ascii(template)[:100]}; copy "
            "tokenizer_config.json again"
        )
    for text in texts:
        with refuse_errors(
            f"the chat template in {directory} cannot be read", "copy tokenizer_config.json again"
        ):
            if len(text) > LONGEST:
                raise ValueError(f"it has {len(text)} characters, and at most {LONGEST} are read")
            parsed = template_syntax().parse(text)
            if next(parsed.find_all(nodes.Pow), None) is not None:
                raise ValueError("it computes powers")
            for constant in parsed.find_all(nodes.Const):
                if isinstance(constant.value, int | float) and constant.value > LARGEST_NUMBER:
                    raise ValueError(f"it holds a number above {LARGEST_NUMBER}")


def template_syntax() -> jinja2.Environment:
    """What parses templates as transformers does; it runs none."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    environment.add_extension(GenerationTag)
    return environment


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}`, which transformers adds to the language: its body counts as it stands."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **how: bool) -> str:
    """A chat as the tokenizer's template writes it.

    Args:
        tokenizer: of a model.
        messages: with `role` and `content`.
        how: further arguments of `apply_chat_template`.

    Raises:
        UnmaskError: if the template raises an error, reaches for what its sandbox refuses, or takes
            more than a few seconds or a gigabyte.
    """
    roles = ", ".join(str(message.get("role")) for message in messages)
    what = (
        f"the chat template of {tokenizer.name_or_path} cannot write a chat of these messages: "
        f"{roles}"
    )
    with refuse_errors(what, "give other messages, or a prompt without a chat"), limited_template():
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, **how)
        if not isinstance(text, str):
            raise TypeError("it gave no text")
        return text


@contextmanager
def limited_template() -> Iterator[None]:
    """Ends what runs in the body once it has taken too much time or memory.

    Templates are compiled to Python functions, whose lines this watches: no loop can go on without
    running one. (A child process would cost more than most chats do.)

    Raises:
        TemplateLimit: in the body.
    """
    before, deadline = sys.gettrace(), time.thread_time() + MOST_SECONDS
    latest = time.monotonic() + LONGEST_WAIT
    memory = peak_memory()

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.thread_time() > deadline:
            raise TemplateLimit(f"it ran for more than {MOST_SECONDS:g} seconds")
        if time.monotonic() > latest:
            raise TemplateLimit(f"it did not end within {LONGEST_WAIT:g} seconds")
        if peak_memory() - memory > MOST_MEMORY:
            raise TemplateLimit(f"it took more than {MOST_MEMORY >> 20} MiB of memory")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


def peak_memory() -> int:
    """The most bytes that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT
