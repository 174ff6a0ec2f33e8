r"""Where a completion gives its answer: in a tag, in a box, behind `####`, or in its sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from unmask.tasks.notation import Group, Part, Quantity, read_answer

LONGEST_COMPLETION = 50_000  # characters; what comes before is not looked at
LONGEST_PROSE = 5000
LONGEST_BARE = 200  # an answer with nothing around it
ANSWER_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL | re.IGNORECASE)
BOX = r"\\(?:boxed|fbox)(?![A-Za-z])\s*"
FIRST_BOX = re.compile(BOX)
BRACE = re.compile(rf"{BOX}\{{|{BOX}(?=[^\s{{])|\\.|[{{}}]", re.DOTALL)
# What may stand between boxes that give one answer together.
BETWEEN_BOXES = re.compile(
    r"[\s$]*(?:,|;|&|\\text\s*\{\s*(?:,?\s*(?:and|or)\s*)\}|\b(?:and|or)\b|\\quad|[\s$])+[\s$]*"
)
JOINS = re.compile(r"[,;&]|and|or")
SENTENCE_END = re.compile(r"[.!?](?=[\s*]|$)|\n")
# Where the clause with the answer may end before its sentence does.
CLAUSE_END = re.compile(
    r",?\s+(?:because|since|therefore)\b|;|\s*\(|\s+[-–—]\s+(?=[A-Za-z])|,\s+(?=[A-Za-z])"
    r"|\s+(?:which|so|when|where|as|for|in|after|if|by|and so|on|with)\s+(?!\d)"
)
CUE = re.compile(
    r"\b(?:answer|result|solution)s?\b[^.\n=:]{0,60}?(?:\bis\b|\bare\b|\bequals\b|\bbe\b|[=:→])[\s:]*",
    re.IGNORECASE,
)
RETRACTION = re.compile(
    r"\b(?:wait|actually|correction|sorry|mistaken?|oops|incorrect|i meant)\b", re.IGNORECASE
)
EXPLANATION = re.compile(
    r"[\s*#_]*(?:explanation|because|reason|here|since|this|steps?\b|let|to |we )", re.IGNORECASE
)
SPAN = re.compile(r"\$\$?([^$\n]{1,300})\$|\\\((.{1,300}?)\\\)|\\\[(.{1,300}?)\\\]", re.DOTALL)
BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*(?![.:)]*\s*[A-Z])")
PLAIN = r"(?:\d{1,3}(?:[,\u00a0\u202f_]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    rf"(?:(?P<outer>[-−–+])\s?)?[$€£¥₹]?\s?(?P<inner>[-−–])?(?P<size>{PLAIN})(?:\s?/\s?\d+)?",
    re.ASCII,
)
# A number between these is a part of something else: a time, a date, a power, a name.
GLUED_BEFORE = re.compile(r"[\w:/^_\\'.#]$|\d\s?[-–:/]$|\^\{$")
GLUED_BEHIND = re.compile(
    r"[:/^_]\s?\{?\d|[-–]\d|\s?(?:-|–|:|to|of|out of|or|in)\s\$?\d|st\b|nd\b|rd\b|th\b"
)
QUALIFIED = re.compile(
    r"\b(?:not|no|never|than|least|most|between|under|over|below|above|up to|(?<!total )of"
    r"|out of|around|almost|nearly|step|question|problem|part|case|page|chapter|to|or)"
    r"\s*\$?$|n't\s*$",
    re.IGNORECASE,
)
# A number behind one of these is no result where another number stands before it: 18 in 3 days.
AFTER_ANOTHER = re.compile(
    r"\b(?:in|for|after|from|per|by|within|at|on|every|each|times|with|into|and)\s*\$?$",
    re.IGNORECASE,
)
# 2 hours 30 minutes is one quantity; its last number is not the result.
UNIT_BETWEEN = re.compile(
    r"\d\s+(?!is\b|are\b|equals\b|gives\b|makes\b|leaves\b|means\b)[a-z]+\s+\$?$", re.IGNORECASE
)
MINUS = re.compile(r"\b(?:minus|negative)\s*\$?$", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """What a completion gives as its answer.

    Attributes:
        text: as it is written.
        part: as it was read; None if it cannot be read.
    """

    text: str
    part: Part | None


@dataclass(frozen=True)
class Box:
    """A marked box.

    Attributes:
        begin: where its command begins.
        start, end: where its contents do; the end is that of the text where it has no braces.
        braced: whether it has braces.
    """

    begin: int
    start: int
    end: int
    braced: bool = True


def find_boxes(text: str) -> Iterator[Box]:
    r"""The complete boxes of a text. Written braces (`\{`) and line breaks are no braces."""
    open_boxes: list[re.Match[str] | None] = []
    first = FIRST_BOX.search(text)
    # Braces before the first box open nothing that a box could close.
    for mark in BRACE.finditer(text, first.start()) if first else ():
        written = mark.group()
        if written == "}":
            opened = open_boxes.pop() if open_boxes else None
            if opened is not None:
                yield Box(opened.start(), opened.end(), mark.start())
        elif written == "{":
            open_boxes.append(None)
        elif written.endswith("{") and len(written) > 2:
            open_boxes.append(mark)
        elif len(written) > 2:
            yield Box(mark.start(), mark.end(), mark.end(), braced=False)


def box_contents(text: str, box: Box) -> str:
    """What is in a box; of one without braces, the clause behind it."""
    if box.braced:
        return text[box.start : box.end]
    rest = re.split(r"\$|\\[)\]]|\n|[.!?](?=\s|$)", text[box.start : box.start + 500], maxsplit=1)
    return rest[0]


def last_box(text: str) -> Box | None:
    """The complete box that begins last."""
    return max(find_boxes(text), key=lambda box: box.start, default=None)


def boxed(text: str) -> str | None:
    r"""The contents of the last `\boxed{…}` (or `\fbox{…}`) with balanced braces, or of one without
    braces (`\boxed 2`); None if there is none."""
    box = last_box(text)
    return None if box is None else box_contents(text, box)


def tagged(text: str) -> str | None:
    """The contents of the last `<answer>` tag, closed or cut off by the end; None if there is
    none."""
    found = ANSWER_TAG.findall(text)
    return found[-1].strip() if found else None


def final_text(completion: str) -> str | None:
    r"""What a completion marks as its answer: the last `<answer>` tag (the `\boxed{}` in it, if it
    has one), else the last `\boxed{}`, else the line behind the last `####`; None if it marks
    nothing."""
    completion = completion[-LONGEST_COMPLETION:]
    inside = tagged(completion)
    box = boxed(completion if inside is None else inside)
    if box is not None:
        return box.strip()
    if inside is not None:
        return inside
    return line_behind_hashes(completion)


def line_behind_hashes(text: str) -> str | None:
    """The line behind the last `####`; None if there is none."""
    if "####" not in text:
        return None
    return text.rsplit("####", 1)[1].strip().split("\n", 1)[0].strip()


def same_text(completion: str, truth: str) -> bool:
    """Whether a completion, or what it marks as its answer, is `truth`, up to white space."""
    return truth.split() in (completion.split(), text_candidate(completion).split())


def text_candidate(completion: str) -> str:
    """What a completion marks as its answer, or all of it where nothing is marked, with single
    spaces."""
    answer = final_text(completion)
    return " ".join((completion if answer is None else answer).split())


def find_answer(completion: str) -> Finding:
    r"""The answer of a completion: in the last `<answer>` tag, else in the last `\boxed{}`, else
    behind the last `####`, else in its sentences (`read_prose`)."""
    completion = completion[-LONGEST_COMPLETION:]
    inside = tagged(completion)
    body = completion if inside is None else inside
    if FIRST_BOX.search(body):
        return read_boxes(body)
    if inside is not None:
        part = read_answer(inside)
        return read_prose(inside) if part is None else Finding(inside, part)
    line = line_behind_hashes(completion)
    if line is not None:
        part = read_answer(line) or read_clause(line).part
        if part is not None or not re.search(r"\d", completion.rsplit("####", 1)[1][len(line) :]):
            return Finding(line, part)
        completion = completion.rsplit("####", 1)[1]  # it was a heading
    return read_prose(completion)


def read_boxes(text: str) -> Finding:
    """The last box, together with those before it that only commas, "and" or "or" part from it."""
    boxes = sorted(find_boxes(text), key=lambda box: box.start)
    if not boxes:
        return Finding("", None)  # cut off before it was closed
    last = boxes[-1]
    contents = [box_contents(text, last).strip()]
    if not last.braced:
        found = Finding(contents[0], read_answer(contents[0]))
        return read_clause(contents[0]) if found.part is None else found
    for before, behind in reversed(list(pairwise(boxes[-20:]))):
        between = text[before.end + 1 : behind.begin]
        if not BETWEEN_BOXES.fullmatch(between[:40]) or not JOINS.search(between):
            break
        contents.insert(0, box_contents(text, before).strip())
    contents = list(dict.fromkeys(contents))
    joined = ", ".join(contents)
    if len(contents) == 1:
        return Finding(joined, read_answer(joined))
    parts = [read_answer(part) for part in contents]
    known = tuple(part for part in parts if part is not None)
    return Finding(joined, Group(",", known) if len(known) == len(parts) else None)


def read_prose(text: str) -> Finding:
    """The answer of a text without marks: all of it if it is nothing else, what follows "the answer
    is", a number in bold, or the last number of the last sentence that has one.

    A number that is only a part of something (5:30, 3 of 4, at least 5) is no answer.
    """
    text = text[-LONGEST_PROSE:].strip()
    if text.endswith("!") and re.search(r"[A-Za-z]{2}", text):
        text = text.rstrip("!")  # no factorial, but joy
    if len(text) <= LONGEST_BARE and (part := read_answer(text)) is not None:
        return Finding(text, part)
    first, _, rest = text.partition("\n")
    if EXPLANATION.match(rest) and (part := read_answer(first.strip())) is not None:
        return Finding(first.strip(), part)
    if cues := list(CUE.finditer(text)):
        rest = text[cues[-1].end() :]
        corrections = list(RETRACTION.finditer(rest))
        if not corrections:
            return read_clause(rest)
        text = rest[corrections[-1].end() :]
    bold = [m.group(1).strip() for m in BOLD.finditer(text)]
    for inside in reversed(bold):
        part = read_answer(inside)
        if isinstance(part, Quantity) and re.search(r"\d", inside):
            return Finding(inside, part)
    sentences = [s.replace("**", "").strip() for s in SENTENCE_END.split(text) if s.strip(" *")]
    with_numbers = [s for s in sentences if re.search(r"\d", s)]
    if not with_numbers:
        return Finding(text, None)
    return read_last_number(with_numbers[-1])


def read_clause(text: str) -> Finding:
    """The answer that a text begins with: its first sentence, a clause of it, or the only number
    there."""
    text = text.replace("**", "").replace("__", "").strip()
    sentence = SENTENCE_END.split(text, maxsplit=1)[0].strip()
    clauses = [sentence[: end.start()] for end in CLAUSE_END.finditer(sentence)][:6]
    for clause in (sentence, *reversed(clauses)):
        if clause.strip() and (part := read_answer(clause.strip())) is not None:
            return Finding(clause.strip(), part)
    if span := SPAN.match(sentence):
        inside = next(filter(None, span.groups()))
        return Finding(inside, read_answer(inside))
    if len(NUMBER.findall(sentence)) == 1:
        return read_last_number(sentence)
    return Finding(sentence, None)


def read_last_number(sentence: str) -> Finding:
    """The number that a sentence ends with, or its last formula between dollars."""
    nothing = Finding(sentence, None)
    spans = list(SPAN.finditer(sentence))
    if spans and not re.search(r"\d", sentence[spans[-1].end() :]):
        inside = next(filter(None, spans[-1].groups()))
        part = read_answer(inside)
        if part is not None and not QUALIFIED.search(sentence[: spans[-1].start()]):
            return Finding(inside, part)
    _, equals, right = sentence.rpartition("=")
    if equals and re.search(r"\d", right):
        part = read_answer(right.strip()) or read_first_clause(right)
        return Finding(right.strip(), part)
    numbers = list(NUMBER.finditer(sentence))
    if not numbers:
        return nothing
    last = numbers[-1]
    start = last.start("size")
    before, behind = sentence[: last.start()], sentence[last.end() :]
    negative = last.group("inner") is not None
    if last.group("outer") in ("-", "−", "–"):
        if re.search(r"[\w)\]}%]$", before) or (
            re.search(r"[\w)\]}%]\s+$", before)
            and (sentence[last.start() + 1].isspace() and re.search(r"[\d)\]}%]\s+$", before))
        ):
            return nothing  # 3-4, 9 - 4: a range or a difference
        negative = True
    if not sentence[last.start() : start].isalnum() and start > last.start():
        before += " "  # a space, a sign or a currency parts the number from what stands before it
    if before.endswith("(") and behind.startswith(")"):
        return Finding(last.group(), read_answer(last.group()))  # eighteen (18) dollars
    if GLUED_BEFORE.search(before) or GLUED_BEHIND.match(behind) or QUALIFIED.search(before):
        return nothing
    if (AFTER_ANOTHER.search(before) and len(numbers) > 1) or UNIT_BETWEEN.search(before):
        return nothing
    if MINUS.search(before):
        negative = not negative
    clause = ("-" if negative else "") + sentence[start:]
    return Finding(clause, read_answer(clause.strip()) or read_first_clause(clause))


def read_first_clause(text: str) -> Part | None:
    """What the first readable clause of a text says."""
    for end in CLAUSE_END.finditer(text):
        if (part := read_answer(text[: end.start()].strip())) is not None:
            return part
    return None
