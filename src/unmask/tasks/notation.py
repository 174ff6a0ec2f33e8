r"""What is written as an answer, read by a small grammar of LaTeX and plain text.

```
answer   = part { ("," | ";" | and | or) part }                       a list, in any order
part     = [words] [label "="] expression [unit] | interval | set | point | matrix | relation
label    = letter | words | letter "(" letter ")"
expression: sums, products, fractions, mixed numbers, powers, roots, factorials, functions
unit     = words, perhaps with an exponent, "%" or degrees
```

What the grammar does not know, or has more than one reading, raises `Unreadable`: `1/2x`, `3 of 4`,
`5:30`. It is no answer then, and never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from unmask.tasks import algebra
from unmask.tasks.algebra import TooLarge, Value, rational
from unmask.tasks.expressions import (
    DEEPEST,
    GREEK,
    MOST_WORK,
    UNITS,
    UNITS_OF_ONE_LETTER,
    Cursor,
    closing_place,
    is_command,
    is_prose,
    is_word,
    read_sum,
    word_set,
)
from unmask.tasks.symbols import CLOSING, OPENING, Kind, Token, Unreadable, normalize, tokenize

SHORT = 300  # characters; what was read of shorter answers is kept
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
# Words that may stand before an answer without changing it. A word that is not here ("not 5",
# "at least 5", "step 5") makes the answer unreadable.
LEADING = word_set(
    """
    a an the final answer answers result solution solutions is are equals be so total
    therefore thus hence then area volume perimeter sum product probability length value
    values distance cost price he she it they we you has have had get gets got pays earns
    makes needs exactly just only approximately about there will would USD Rs point interval
    set pair
    """
)
# Words behind a number that make it another number.
CHANGING = word_set(
    """
    half halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths hundredth hundredths squared cubed factorial times plus
    minus over under than or not to
    """
)
RELATIONS = {"=": "=", "<": "<", ">": ">"}
RELATION_COMMANDS = {"le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥"}
RELATION_COMMANDS |= {"geqslant": "≥", "lt": "<", "gt": ">", "approx": "≈", "in": "∈"}
SEPARATORS = (",", ";")
JOINING = ("and", "or")
# One letter with a subscript (F_{16}) is the name of a variable and no digit in a base.
BASED = re.compile(
    r"(?![A-Fa-f]_)([0-9A-Fa-f]+)(?:_\{?(\d{1,2})\}?|\s*\(?\s*(?:in )?base[\s-]*(\d{1,2})\s*\)?)",
    re.ASCII,
)
SIMPLE = re.compile(r"\s*\$?\s*(-?\d{1,300})\s*\$?\s*", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A value with what is written around it.

    Attributes:
        value: the exact value.
        label: what stands before the equals sign (`x`), or nothing.
        unit: the words behind it, or nothing.
        percent: whether a percent sign stands behind it.
        base: of a number that is written with its base; else 0.
        digits: of such a number; else nothing.
    """

    value: Value
    label: str = ""
    unit: str = ""
    percent: bool = False
    base: int = 0
    digits: str = ""


@dataclass(frozen=True)
class Group:
    r"""Several answers in brackets, or as a list.

    Attributes:
        kind: `,` for a list, `{}` for a set, `∪` for a union; these have no order. Else the
            brackets of a point or an interval, or `matrix` with its number of columns.
        items: what it holds.
        label: what stands before the equals sign, or nothing.
    """

    kind: str
    items: tuple[Part, ...]
    label: str = ""


@dataclass(frozen=True)
class Equation:
    """An equation between expressions with letters.

    Attributes:
        difference: left side minus right side.
    """

    difference: Value


Part = Quantity | Group | Equation


def read_answer(text: str) -> Part | None:
    """What a text says, if all of it is one answer; None if it cannot be read.

    Args:
        text: LaTeX or plain text without the mark around it.
    """
    if simple := SIMPLE.fullmatch(text):
        return Quantity(rational(int(simple.group(1))))
    return read_short(text) if len(text) <= SHORT else read_whole(text)


def read_whole(text: str) -> Part | None:
    """`read_answer` for what is no simple number."""
    try:
        written = normalize(text)
        if based := BASED.fullmatch(written):
            return read_based(based)
        return read_list(tokenize(written), 0, [MOST_WORK])
    except (Unreadable, TooLarge, RecursionError):
        return None


# Rollouts of one prompt give the same answers, and their truth is read for each of them.
read_short = lru_cache(maxsize=1024)(read_whole)


def read_based(match: re.Match[str]) -> Quantity:
    """A number with its base, for example 52_8.

    Raises:
        Unreadable: if the base does not have its digits.
    """
    base = int(match.group(2) or match.group(3))
    if not 2 <= base <= 36 or len(match.group(1)) > 300:
        raise Unreadable
    try:
        value = rational(int(match.group(1), base))
    except ValueError:
        raise Unreadable from None
    return Quantity(value, base=base, digits=match.group(1).lower())


def split_tokens(tokens: Sequence[Token], separators: Sequence[str]) -> list[list[Token]]:
    """Runs of tokens between separators that stand in no bracket.

    Raises:
        Unreadable: if brackets do not close.
    """
    runs: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind == Kind.SIGN:
            depth += (token.text in OPENING) - (token.text in CLOSING)
            if depth < 0:
                raise Unreadable
        plain = token.kind in (Kind.WORD, Kind.TEXT, Kind.SIGN) and token.text in separators
        united = token.kind == Kind.COMMAND and "\\" + token.text in separators
        if depth == 0 and (plain or united):
            runs.append([])
        else:
            runs[-1].append(token)
    if depth:
        raise Unreadable
    return runs


def read_list(tokens: Sequence[Token], depth: int, budget: list[int]) -> Part:
    """One part, or several with commas or words between them."""
    if depth > DEEPEST:
        raise Unreadable
    runs = split_tokens(tokens, (*SEPARATORS, *JOINING))
    # "1, 2, and 3" has an empty run before its "and".
    parts = [run for i, run in enumerate(runs) if run or i in (0, len(runs) - 1)]
    if not all(parts):
        raise Unreadable
    items: list[Part] = []
    for run in parts:
        items += read_signs(run, depth, budget)
    return items[0] if len(items) == 1 else Group(",", tuple(items))


def read_signs(tokens: Sequence[Token], depth: int, budget: list[int]) -> list[Part]:
    """A part; two where it has a ±."""
    signs = (1, -1) if any(t.kind == Kind.COMMAND and t.text == "pm" for t in tokens) else (1,)
    return [read_part(Cursor(tokens, sign, depth, budget)) for sign in signs]


def read_part(cursor: Cursor) -> Part:
    """What stands between two separators."""
    skip_leading(cursor)
    tokens = cursor.tokens[cursor.position :]
    sides, relations = split_relations(tokens)
    if len(sides) == 1:
        return read_side(cursor, tokens)
    if "≈" in relations:
        return read_approximation(cursor, sides, relations)
    if relations == ["∈"]:
        return replace_label(read_side(cursor, sides[1]), read_label(sides[0]))
    if set(relations) == {"="}:
        return read_equation(cursor, sides)
    return read_inequality(cursor, sides, relations)


def skip_leading(cursor: Cursor) -> None:
    """Passes words that change nothing: "the answer is", with a colon behind them perhaps."""
    tokens, place = cursor.tokens, cursor.position
    while place < len(tokens) and is_prose(tokens, place):
        place += 1
    words = [t.text for t in tokens[cursor.position : place]]
    if not words or place == len(tokens):
        return
    behind = tokens[place]
    if words[-1] in ("minus", "negative") and behind.kind == Kind.NUMBER:
        words.pop()
        place -= 1
    if behind.text in RELATIONS or behind.text in RELATION_COMMANDS:
        return  # a label
    colon = behind.kind == Kind.SIGN and behind.text == ":"
    if all(word in LEADING or word.lower() in LEADING for word in words):
        cursor.position = place + colon


def split_relations(tokens: Sequence[Token]) -> tuple[list[list[Token]], list[str]]:
    """The sides of a chain of relations, and the relations between them."""
    sides: list[list[Token]] = [[]]
    relations: list[str] = []
    depth = 0
    for token in tokens:
        relation = None
        if token.kind == Kind.SIGN:
            depth += (token.text in OPENING) - (token.text in CLOSING)
            relation = RELATIONS.get(token.text)
        elif token.kind == Kind.COMMAND:
            relation = RELATION_COMMANDS.get(token.text)
        if relation is None or depth:
            sides[-1].append(token)
            continue
        previous = relations[-1] if relations and not sides[-1] else None
        if relation == "=" and previous in ("<", ">"):  # <= and >= in plain text
            relations[-1] = {"<": "≤", ">": "≥"}[previous]
            continue
        relations.append(relation)
        sides.append([])
    return sides, relations


def read_label(tokens: Sequence[Token]) -> str:
    """The name on the left of an equals sign: a letter, f(x), or words; "" if it is a formula."""
    texts = [t.text for t in tokens]
    names = [
        (t.kind == Kind.WORD and len(t.text) == 1 and t.text not in ("e", "i"))
        or (t.kind == Kind.COMMAND and t.text in GREEK)
        for t in tokens
    ]
    if tokens and all(is_prose(tokens, place) for place in range(len(tokens))):
        return " ".join(texts)
    if len(tokens) == 2 and is_command(tokens[0], "angle", "triangle"):
        return f"{texts[0]} {texts[1]}"
    if tokens and is_prose(tokens, 0) and read_label(tokens[1:]):
        return read_label(tokens[1:])
    if len(texts) == 1 and names[0]:
        return texts[0]
    if len(texts) == 4 and names[0] and names[2] and (texts[1], texts[3]) == ("(", ")"):
        return texts[0]
    if len(texts) >= 5 and texts[0] == "(" and texts[-1] == ")" and all(names[1::2]):
        return "".join(texts)
    if len(texts) >= 3 and names[0] and texts[1] == "_" and len(texts) in (3, 5):
        return "".join(texts)
    return ""


def replace_label(part: Part, label: str) -> Part:
    """The part with a name.

    Raises:
        Unreadable: if there is no name, or the part takes none.
    """
    if not label or isinstance(part, Equation):
        raise Unreadable
    return replace(part, label=label)


def read_equation(cursor: Cursor, sides: list[list[Token]]) -> Part:
    """`x = 3`, `6 · 7 = 42` or an equation of a curve."""
    label = read_label(sides[0])
    if len(sides) == 2 and not label and read_label(sides[1]):
        sides, label = sides[::-1], read_label(sides[1])  # 42 = n
    rest = sides[1:] if label else sides
    parts = [read_side(cursor, side) for side in rest]
    last = parts[-1]
    if label and len(parts) == 1:
        return replace_label(last, label)
    if not all(isinstance(part, Quantity) for part in parts):
        raise Unreadable
    quantities = [part for part in parts if isinstance(part, Quantity)]
    same = all(algebra.equal(q.value, quantities[-1].value) for q in quantities)
    if same and not has_letters(quantities[-1].value):
        return replace(quantities[-1], label=label)
    if label or len(parts) != 2 or not any(has_letters(q.value) for q in quantities):
        raise Unreadable  # 2 + 2 = 5
    return Equation(algebra.add(quantities[0].value, quantities[1].value, -1))


def has_letters(value: Value) -> bool:
    """Whether a value is no constant."""
    return any(
        isinstance(name, tuple) or (isinstance(name, str) and name not in ("π", "e", "i", "∞"))
        for part in (value.top, value.bottom)
        for monomial in part
        for name, _ in monomial
    )


def read_approximation(cursor: Cursor, sides: list[list[Token]], relations: list[str]) -> Part:
    """`x ≈ 3.14` is 3.14; `π ≈ 3.14` is π, the exact side."""
    exact = sides[: relations.index("≈") + 1]
    label = read_label(exact[0])
    if label and len(exact) == 1:
        if len(sides) != 2:
            raise Unreadable
        return replace_label(read_side(cursor, sides[1]), label)
    return read_equation(cursor, exact) if len(exact) > 1 else read_side(cursor, exact[0])


def read_inequality(cursor: Cursor, sides: list[list[Token]], relations: list[str]) -> Part:
    """An inequality for one letter, as the interval that it is.

    Raises:
        Unreadable: for any other.
    """
    if any(relation in ("<", "≤") for relation in relations):
        if any(relation in (">", "≥") for relation in relations):
            raise Unreadable
    else:
        sides, relations = sides[::-1], relations[::-1]  # from the least to the greatest
    strict = [relation in ("<", ">") for relation in relations]
    infinity = Quantity(algebra.INFINITY)
    if len(sides) == 3 and (label := read_label(sides[1])):
        bounds = (read_side(cursor, sides[0]), read_side(cursor, sides[2]))
        return Group("[("[strict[0]] + "])"[strict[1]], bounds, label)
    if len(sides) == 2 and (label := read_label(sides[0])):
        least = Quantity(algebra.multiply(rational(-1), algebra.INFINITY))
        return Group("(" + "])"[strict[0]], (least, read_side(cursor, sides[1])), label)
    if len(sides) == 2 and (label := read_label(sides[1])):
        return Group("[("[strict[0]] + ")", (read_side(cursor, sides[0]), infinity), label)
    raise Unreadable


def read_side(outer: Cursor, tokens: Sequence[Token]) -> Part:
    """A side of a relation: a bracketed group, a union, or an expression with its unit."""
    cursor = replace(outer, tokens=tokens, position=0)
    united = split_tokens(tokens, ("\\cup",))
    if len(united) > 1:
        return Group("∪", tuple(read_side(outer, run) for run in united))
    if tokens and tokens[0].text in ("(", "[", r"\{", "begin"):
        end = closing_place(tokens, 0)
        if end == len(tokens) - 1 and (group := read_group(outer, tokens)):
            return group
    if len(tokens) == 1 and tokens[0].text in ("emptyset", "varnothing"):
        return Group("{}", ())
    value = read_sum(cursor)
    return read_unit(cursor, value)


def read_group(outer: Cursor, tokens: Sequence[Token]) -> Group | None:
    """A set, point, interval or matrix; None for one expression in brackets."""
    opening, closing, inside = tokens[0].text, tokens[-1].text, tokens[1:-1]
    if opening == "begin":
        if closing != "end":
            raise Unreadable
        rows = [split_tokens(row, ("&",)) for row in split_tokens(inside, ("\\\\",))]
        rows = [row for row in rows if row != [[]]]
        if len({len(row) for row in rows}) != 1:
            raise Unreadable
        cells = tuple(read_inside(outer, cell) for row in rows for cell in row)
        return Group(f"matrix {len(rows[0])}", cells)
    if (opening == r"\{") != (closing == r"\}"):
        raise Unreadable
    runs = split_tokens(inside, SEPARATORS)
    if opening == r"\{":
        if runs == [[]]:
            return Group("{}", ())
        return Group("{}", tuple(read_inside(outer, run) for run in runs))
    if len(runs) == 1:
        if opening + closing not in ("()", "[]"):
            raise Unreadable
        return None
    return Group(opening + closing, tuple(read_inside(outer, run) for run in runs))


def read_inside(outer: Cursor, tokens: Sequence[Token]) -> Part:
    """One item of a group."""
    if outer.depth >= DEEPEST or not tokens:
        raise Unreadable
    return read_part(Cursor(tokens, outer.sign, outer.depth + 1, outer.budget))


def read_unit(cursor: Cursor, value: Value) -> Quantity:
    """What stands behind a value: scales (million), a percent sign, degrees, the words of a unit.

    Raises:
        Unreadable: if anything else does.
    """
    percent = False
    while (word := cursor.peek()).text.lower() in SCALES and is_word(word):
        value = algebra.multiply(value, rational(10 ** SCALES[cursor.take().text.lower()]))
    if cursor.peek().text in ("%", "percent"):
        cursor.take()
        percent = True
    words: list[str] = []
    while cursor.position < len(cursor.tokens):
        token = cursor.take()
        number_behind = token.text in ("^", "^{") and words
        if number_behind:
            words.append("^" + read_unit_exponent(cursor))
        elif is_unit_word(cursor.tokens, cursor.position - 1, bool(words)):
            words.append(token.text)
        elif not (
            token.text in ("/", "-", ".", "'", "!", "(", ")", "*") and token.kind == Kind.SIGN
        ):
            raise Unreadable
    if any(word.lower() in CHANGING for word in words):
        raise Unreadable
    return Quantity(value, unit=" ".join(words), percent=percent)


def is_unit_word(tokens: Sequence[Token], place: int, follows: bool) -> bool:
    """Whether a word of a unit stands at a place.

    Args:
        tokens: what is read.
        place: where.
        follows: whether it follows another word of the unit.
    """
    token = tokens[place]
    return is_prose(tokens, place) or (
        token.kind == Kind.WORD
        and (follows or (token.spaced and token.text in UNITS_OF_ONE_LETTER) or token.text in UNITS)
    )


def read_unit_exponent(cursor: Cursor) -> str:
    """The exponent of a unit: 2, {2} or -1."""
    digits = ""
    while cursor.peek().text in ("{", "}", "-") or cursor.peek().kind == Kind.NUMBER:
        digits += cursor.take().text
    return digits.strip("{}")
