"""The program in a completion: in a code fence, perhaps one of several, or without any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LANGUAGES = ("", "python", "python3", "py", "py3", "python2", "pycon", "ipython", "code")
FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\s`~]*)[^\n`]*$", re.MULTILINE)
LONGEST_COMPLETION = 50_000  # characters; what comes behind is not looked at
QUOTE = re.compile(r"\"\"\"|'''|#|\"|'")
CLOSING_QUOTES = {
    sign: re.compile(rf"(?:\\.|[^\\])*?{sign}", re.DOTALL) for sign in ('"""', "'''")
} | {sign: re.compile(rf"(?:\\.|[^{sign}\\\n])*{sign}") for sign in ('"', "'")}
LINE_OF_CODE = re.compile(
    r"^(?:[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+\w+"
    r"|(?:import|from)[ \t]+[\w.]+(?:[ \t]+import\b.*|[ \t]*)$|@\w+"
    r"|[ \t]+(?:return|yield|raise|pass|if|for|while|try|with)\b"
    r"|[ \t]*[\w.]+(?:\[[^\]\n]*\])?[ \t]*[-+*/%]?=[ \t]*\S"
    r"|return\b.*[()\[\]+*/-])",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """What a fence holds.

    Attributes:
        language: what is written behind the fence that opens it, in lower case.
        code: its lines, without the fence's indentation.
    """

    language: str
    code: str


def find_program(completion: str, names: Sequence[str] = ()) -> str:
    """The program in a completion of an answer that begins inside of a code fence.

    It is what stands before that fence closes. Where a completion opens fences of its own, it is
    the first block of Python that defines one of the names, else the first block of Python. Fences
    in texts between triple quotes are part of the program.

    Args:
        completion: what a model wrote.
        names: what the program should define.
    """
    text = completion[:LONGEST_COMPLETION].replace("\r\n", "\n").replace("\r", "\n")
    inside = quoted_places(text)
    fences = [m for m in FENCE.finditer(text) if not is_quoted(m.start(2), inside)]
    if not fences:
        return cut_inline_fence(text, inside)
    first = fences[0]
    before = text[: first.start()]
    opens = bool(first.group(3)) or not before.strip() or not LINE_OF_CODE.search(before)
    if not opens or defines(before, names):
        return cut_inline_fence(before, inside)
    blocks = [block for block in read_blocks(text, fences) if block.code.strip()]
    python = [block for block in blocks if block.language in LANGUAGES]
    for block in python:
        if defines(block.code, names):
            return block.code
    return next((block.code for block in python or blocks), "")


def quoted_places(text: str) -> list[tuple[int, int]]:
    """Where texts between triple quotes begin and end. Such quotes in comments and in texts on one
    line do not count, and quotes that do not close are none."""
    places: list[tuple[int, int]] = []
    unclosed: dict[str, int] = {}  # how far it is known that nothing closes a sign
    position = 0
    while found := QUOTE.search(text, position):
        sign, position = found.group(), found.end()
        line_end = text.find("\n", position)
        line_end = len(text) if line_end < 0 else line_end
        if sign == "#":
            position = line_end
        elif unclosed.get(sign, 0) <= found.start():
            closed = CLOSING_QUOTES[sign].match(text, position)
            if closed is None:
                unclosed[sign] = len(text) if len(sign) == 3 else line_end
            else:
                position = closed.end()
                if len(sign) == 3:
                    places.append((found.start(), position))
    return places


def is_quoted(place: int, quoted: Sequence[tuple[int, int]]) -> bool:
    """Whether a place is in one of these texts."""
    return any(start < place < end for start, end in quoted)


def cut_inline_fence(code: str, quoted: Sequence[tuple[int, int]]) -> str:
    """The code before a fence that closes at the end of a line of code."""
    for mark in re.finditer("```", code):
        if not is_quoted(mark.start(), quoted):
            return code[: mark.start()]
    return code


def defines(code: str, names: Sequence[str]) -> bool:
    """Whether a text defines one of the names at its top, or in a fence that is indented."""
    return any(
        re.search(rf"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(n)}\b", code, re.M)
        for n in names
    )


def read_blocks(text: str, fences: Sequence[re.Match[str]]) -> list[Block]:
    """The blocks between fences that open and those that close them; the last may be open to the
    end."""
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    for fence in fences:
        if opened is None:
            opened = fence
            continue
        same_kind = fence.group(2)[0] == opened.group(2)[0]
        if fence.group(3):  # one that opens: the block before it was never closed
            blocks.append(make_block(text, opened, fence.start()))
            opened = fence
        elif same_kind and len(fence.group(2)) >= len(opened.group(2)):
            blocks.append(make_block(text, opened, fence.start()))
            opened = None
    if opened is not None:
        blocks.append(make_block(text, opened, len(text)))
    return blocks


def make_block(text: str, opened: re.Match[str], end: int) -> Block:
    """The block from an opening fence to `end`. Where its lines are indented as the fence is, that
    indentation is no part of them."""
    indent = len(opened.group(1))
    lines = text[opened.end() + 1 : end].split("\n")
    if all(line[:indent].isspace() for line in lines if line.strip()):
        lines = [line[indent:] for line in lines]
    return Block(opened.group(3).lower(), "\n".join(lines))
