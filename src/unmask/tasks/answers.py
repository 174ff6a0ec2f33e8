"""Reading answers out of completions and comparing them by value."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[\\{}]|[{}]")
LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([\d,.]+)\s*\}\s*\{\s*([\d,.]+)\s*\}")
# 1,234,567.89 with its separators in the right places, or plain digits, or .5; an exponent only
# where it is one; over a second one: 3/4.
PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?![\w.]))?"
NUMBER = re.compile(rf"([-−–+]\s?)?[$€£¥]?\s?([-−–+])?({PLAIN})(?:\s?/\s?({PLAIN})(?!\s?/))?")
SIGNS = "-−–"


def boxed(text: str) -> str | None:
    r"""The contents of the last `\boxed{…}` (or `\fbox{…}`) with balanced braces; None if there is
    none."""
    last: tuple[int, int] | None = None
    open_boxes: list[
        int | None
    ] = []  # where the contents of each open brace begin, if it is a box's
    for mark in BRACE.finditer(text):
        if mark.group().startswith("\\") and len(mark.group()) == 2:
            continue  # \{ and \} are written braces, \\ is a line break
        if mark.group() == "}":
            start = open_boxes.pop() if open_boxes else None
            if start is not None and (last is None or start > last[0]):
                last = (start, mark.start())
        else:
            open_boxes.append(None if mark.group() == "{" else mark.end())
    return None if last is None else text[last[0] : last[1]]


def tagged(text: str) -> str | None:
    """The contents of the last `<answer>` tag, closed or cut off by the end; None if there is
    none."""
    found = ANSWER_TAG.findall(text)
    return found[-1].strip() if found else None


def final_text(completion: str) -> str | None:
    r"""What a completion marks as its answer: the last `<answer>` tag (the `\boxed{}` in it, if it
    has one), else the last `\boxed{}`, else the line behind the last `####`; None if it marks
    nothing."""
    inside = tagged(completion)
    box = boxed(completion if inside is None else inside)
    if box is not None:
        return box.strip()
    if inside is not None:
        return inside
    return (
        completion.rsplit("####", 1)[1].strip().split("\n", 1)[0] if "####" in completion else None
    )


def same_text(completion: str, truth: str) -> bool:
    """Whether a completion's marked answer, or all of it where nothing is marked, is `truth`, up to
    white space."""
    answer = final_text(completion)
    return (completion if answer is None else answer).split() == truth.split()


def number(text: str) -> Fraction | None:
    r"""The value of the last number in a text, exactly; None if there is none.

    Separators of thousands, currency signs, signs, exponents and fractions (`3/4`, `\frac{3}{4}`)
    are read. A hyphen is a sign only where
    no word or number stands before it: `3-4` ends in 4, `is -4` in −4.
    """
    text = re.sub(
        r"\\[,!;: ]", "", text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%")
    )
    found = list(NUMBER.finditer(LATEX_FRACTION.sub(r"\1/\2", text)))
    if not found:
        return None
    text, last = LATEX_FRACTION.sub(r"\1/\2", text), found[-1]
    outer, inner, above, below = last.groups()
    if len(above) + len(below or "") > 1000:
        return None  # no result of anything
    negative = inner is not None and inner in SIGNS
    if outer is not None and outer[0] in SIGNS:
        before = text[: last.start()]
        minus = bool(re.search(r"[\w)\]}%]\s*$", before[-20:]))  # 9 - 4, 3-4: a difference
        spaced = before[-1:].isspace() and not outer[1:]  # is -4: a sign
        negative ^= spaced or not minus
    try:
        value = Fraction(Decimal(above.replace(",", "")))
        if below is not None:
            value /= Fraction(Decimal(below.replace(",", "")))
    except (InvalidOperation, ZeroDivisionError, ValueError, OverflowError):
        return None
    return -value if negative else value


def final_number(completion: str) -> Fraction | None:
    """The number that a solution gives as its result (GSM8K): the last one in what it marks as its
    answer, else in the whole text."""
    answer = final_text(completion)
    return number(completion if answer is None else answer)


def same_number(completion: str, truth: str) -> bool:
    """Whether a completion's result equals `truth`, itself a number as text, in value: 1,000 is
    1000.00, and 5 is not 5.5."""
    ours, right = final_number(completion), number(truth)
    return ours is not None and right is not None and ours == right
