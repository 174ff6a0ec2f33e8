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
from dataclasses import dataclass, field, replace
from functools import lru_cache

from unmask.tasks import algebra
from unmask.tasks.algebra import TooLarge, Value, rational
from unmask.tasks.symbols import CLOSING, OPENING, Kind, Token, Unreadable, normalize, tokenize

SHORT = 300  # characters; what was read of shorter answers is kept


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


DEEPEST = 20  # brackets inside of brackets
MOST_WORK = 20_000  # products of terms; adversarial answers end here
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
CONSTANTS = {"pi": algebra.PI, "infty": algebra.INFINITY, "infinity": algebra.INFINITY}
CONSTANTS |= {"inf": algebra.INFINITY, "e": algebra.EULER, "i": algebra.IMAGINARY}
GREEK = word_set(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi
    rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell
    """
)
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
ARTICLES = ("a", "an")  # also letters of a formula: a + b, an + b
# Words behind a number that make it another number.
CHANGING = word_set(
    """
    half halves third thirds fourth fourths fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths hundredth hundredths squared cubed factorial times plus
    minus over under than or not to
    """
)
UNITS_OF_ONE_LETTER = set("mgshlLJNWVKCFd")
UNITS = word_set(
    """
    cm mm km dm nm ft in mi yd kg mg lb lbs oz ml mL cl qt min sec hr hrs wk mo yr kWh mph ea pg
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


@dataclass
class Cursor:
    """Where the reader is in a run of tokens.

    Attributes:
        tokens: what is read.
        sign: what ± is in this reading, 1 or −1.
        depth: how many brackets are open around these tokens.
        budget: what work is left, in one place for all cursors of an answer.
        position: the next token.
        in_function: whether an argument of a function is read, where degrees are angles.
        in_bracket: whether the inside of a bracket is read, where no unit can stand.
    """

    tokens: Sequence[Token]
    sign: int = 1
    depth: int = 0
    budget: list[int] = field(default_factory=lambda: [MOST_WORK])
    position: int = 0
    in_function: bool = False
    in_bracket: bool = False

    def peek(self, ahead: int = 0) -> Token:
        """A token that is not taken yet; an empty sign at the end."""
        place = self.position + ahead
        return self.tokens[place] if place < len(self.tokens) else END

    def take(self) -> Token:
        """The next token, which is taken."""
        token = self.peek()
        self.position += 1
        return token

    def spend(self, *values: Value) -> None:
        """Counts work with these values.

        Raises:
            Unreadable: if it is more than an answer is worth.
        """
        terms = 1
        bits = 0
        for value in values:
            terms *= len(value.top) + len(value.bottom)
            for coefficient in value.top.values():
                bits = max(bits, coefficient.numerator.bit_length())
                bits = max(bits, coefficient.denominator.bit_length())
        self.budget[0] -= terms + (bits // 500) ** 2
        if self.budget[0] < 0:
            raise Unreadable


END = Token(Kind.SIGN, "")


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


def is_word(token: Token) -> bool:
    """Whether a token is a word of a sentence and no letter of a formula."""
    if token.kind == Kind.TEXT:
        return True
    return (
        token.kind == Kind.WORD
        and len(token.text) > 1
        and token.text not in CONSTANTS
        and token.text not in algebra.FUNCTIONS
        and token.text not in ARTICLES
    )


def is_article(tokens: Sequence[Token], place: int) -> bool:
    """Whether `a` or `an` stands at a place as the article of what follows: a word ("a dozen") or a
    number behind a space ("a 5"). Elsewhere its letters are variables."""
    token = tokens[place]
    if token.kind != Kind.WORD or token.text not in ARTICLES or place + 1 == len(tokens):
        return False
    behind = tokens[place + 1]
    return is_word(behind) or (behind.kind == Kind.NUMBER and behind.spaced)


def is_prose(tokens: Sequence[Token], place: int) -> bool:
    """Whether a word of a sentence stands at a place, the article included."""
    return is_word(tokens[place]) or is_article(tokens, place)


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


def closing_place(tokens: Sequence[Token], start: int) -> int:
    """Where the bracket that opens at `start` closes.

    Raises:
        Unreadable: if it does not.
    """
    depth = 0
    for place in range(start, len(tokens)):
        if tokens[place].kind == Kind.SIGN:
            depth += (tokens[place].text in OPENING) - (tokens[place].text in CLOSING)
            if depth == 0:
                return place
    raise Unreadable


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


def read_sum(cursor: Cursor) -> Value:
    """terms with + and − between them."""
    total = read_signed(cursor)
    while (token := cursor.peek()).text in ("+", "-") or is_command(token, "pm", "mp"):
        cursor.take()
        factor = 1 if token.text == "+" else -1
        if token.text in ("pm", "mp"):
            factor = cursor.sign * (1 if token.text == "pm" else -1)
        term = read_product(cursor)
        cursor.spend(total, term)
        total = algebra.add(total, term, factor)
    return total


def read_signed(cursor: Cursor) -> Value:
    """A product, perhaps with a sign before it."""
    token = cursor.peek()
    if token.text in ("minus", "negative") and cursor.peek(1).kind == Kind.NUMBER:
        cursor.take()
        return algebra.multiply(rational(-1), read_product(cursor))
    if token.text in ("+", "-"):
        cursor.take()
        sign = -1 if token.text == "-" else 1
        return algebra.multiply(rational(sign), read_product(cursor))
    if is_command(token, "pm", "mp"):
        cursor.take()
        sign = cursor.sign if token.text == "pm" else -cursor.sign
        return algebra.multiply(rational(sign), read_product(cursor))
    return read_product(cursor)


def is_command(token: Token, *names: str) -> bool:
    """Whether a token is one of these LaTeX commands."""
    return token.kind == Kind.COMMAND and token.text in names


def read_product(cursor: Cursor) -> Value:
    """Factors, with signs between them or none.

    Raises:
        Unreadable: for a factor without a sign behind a division (1/2x), which has two readings.
    """
    total = read_power(cursor)
    divided = False
    while True:
        token = cursor.peek()
        times = is_command(token, "times", "cdot", "ast") or token.text == "*"
        times = times or is_times_sign(cursor.tokens, cursor.position)
        if times or token.text == "/" or is_command(token, "div"):
            if token.text == "/" and is_unit_behind(cursor):
                return total
            cursor.take()
            factor = read_negative_factor(cursor)
            divided = not times
            cursor.spend(total, factor)
            total = algebra.multiply(total, factor) if times else algebra.divide(total, factor)
        elif starts_factor(cursor):
            if divided:
                raise Unreadable
            factor = read_power(cursor)
            cursor.spend(total, factor)
            total = algebra.multiply(total, factor)
        else:
            return total


def is_times_sign(tokens: Sequence[Token], place: int) -> bool:
    """Whether the letter x stands at a place between two numbers as a sign: 1.5 x 10^3."""
    return (
        0 < place < len(tokens) - 1
        and tokens[place].kind == Kind.WORD
        and tokens[place].text in ("x", "X")
        and tokens[place - 1].kind == Kind.NUMBER
        and tokens[place + 1].kind == Kind.NUMBER
    )


def is_unit_behind(cursor: Cursor) -> bool:
    """Whether a unit follows the slash at the cursor: $5/hour. Two letters that are no known unit
    are variables: 5/xy."""
    place = cursor.position + 1
    if place == len(cursor.tokens) or not is_prose(cursor.tokens, place):
        return False
    token = cursor.tokens[place]
    return token.kind == Kind.TEXT or len(token.text) != 2 or token.text in {"an", *UNITS}


def read_negative_factor(cursor: Cursor) -> Value:
    """A factor behind a sign of multiplication, perhaps negative."""
    if cursor.peek().text == "-":
        cursor.take()
        return algebra.multiply(rational(-1), read_power(cursor))
    return read_power(cursor)


def starts_factor(cursor: Cursor) -> bool:
    """Whether a factor follows without a sign. A number cannot."""
    token = cursor.peek()
    if token.kind == Kind.COMMAND:
        return token.text in FACTOR_COMMANDS
    if token.kind == Kind.WORD:
        if token.text in CONSTANTS or token.text in algebra.FUNCTIONS:
            return True
        if len(token.text) == 1:
            article = token.spaced and is_article(cursor.tokens, cursor.position)
            return not (article or ends_as_unit(cursor))  # 18 a day; 18 m
        before = cursor.tokens[cursor.position - 1]
        return (
            len(token.text) <= 3
            and not token.spaced
            and token.text not in UNITS
            and before.kind in (Kind.NUMBER, Kind.SIGN)
        )
    return token.kind == Kind.SIGN and token.text in ("(", "[", "{") and not is_remark(cursor)


def is_remark(cursor: Cursor) -> bool:
    """Whether the bracket at the cursor holds one word and stands apart from the number before it:
    18 (USD)."""
    place = cursor.position
    inside = cursor.tokens[place + 1 : place + 3]  # the word and the closing bracket
    return (
        cursor.tokens[place].spaced
        and cursor.tokens[place - 1].kind == Kind.NUMBER
        and len(inside) == 2
        and inside[0].kind == Kind.WORD
        and len(inside[0].text) > 1
        and inside[1].text in CLOSING
    )


def ends_as_unit(cursor: Cursor) -> bool:
    """Whether the letter at the cursor is the unit of all before it: 5 m. Behind another letter it
    is a variable (r^2 h), and inside of a bracket too."""
    token = cursor.peek()
    last = cursor.position == len(cursor.tokens) - 1
    if not (last and token.spaced and token.text in UNITS_OF_ONE_LETTER) or cursor.in_bracket:
        return False
    return not any(has_variable(cursor.tokens, place) for place in range(cursor.position))


def has_variable(tokens: Sequence[Token], place: int) -> bool:
    """Whether a letter or a product of letters stands at a place, and no constant."""
    token = tokens[place]
    if token.kind == Kind.COMMAND:
        return token.text in GREEK
    return (
        token.kind == Kind.WORD
        and len(token.text) <= 3
        and token.text not in CONSTANTS
        and token.text not in algebra.FUNCTIONS
        and not is_times_sign(tokens, place)
    )


FACTOR_COMMANDS = (
    {"frac", "dfrac", "tfrac", "cfrac", "sqrt", "surd", "pi", "infty", "binom", "dbinom", "tbinom"}
    | GREEK
    | set(algebra.FUNCTIONS)
)


def read_power(cursor: Cursor) -> Value:
    """An atom with what stands behind it: exponents, factorials, degrees.

    Raises:
        Unreadable: if it ends too early.
    """
    value = read_atom(cursor)
    raised = False
    while True:
        token = cursor.peek()
        if token.text == "!" and token.kind == Kind.SIGN and not token.spaced:
            cursor.take()
            value = algebra.factorial_of(value)
            cursor.spend(value)
        elif token.text == "^":
            cursor.take()
            if skip_degrees(cursor):
                if cursor.in_function:
                    value = algebra.multiply(value, algebra.divide(algebra.PI, rational(180)))
                continue
            if raised:
                raise Unreadable
            exponent = read_exponent(cursor)
            value = algebra.raise_to(value, exponent)
            cursor.spend(value, value)
            raised = True
        elif is_command(token, "circ", "degree"):
            raise Unreadable
        else:
            return value


def skip_degrees(cursor: Cursor) -> bool:
    """Passes ∘ or {∘}, if it stands there."""
    if is_command(cursor.peek(), "circ"):
        cursor.take()
        return True
    if cursor.peek().text == "{" and is_command(cursor.peek(1), "circ"):
        cursor.position += 3
        return True
    return False


def read_exponent(cursor: Cursor) -> Value:
    """What stands behind ^: a group in braces, else a factor with its own exponents."""
    if cursor.peek().text == "{":
        return read_bracket(cursor)
    if cursor.peek().text in ("-", "+"):
        sign = -1 if cursor.take().text == "-" else 1
        return algebra.multiply(rational(sign), read_exponent(cursor))
    if cursor.depth >= DEEPEST:
        raise Unreadable
    cursor.depth += 1
    value = read_power(cursor)
    cursor.depth -= 1
    return value


def read_bracket(cursor: Cursor) -> Value:
    """One expression in brackets of any kind, which are taken."""
    if cursor.depth >= DEEPEST:
        raise Unreadable
    end = closing_place(cursor.tokens, cursor.position)
    pair = cursor.tokens[cursor.position].text + cursor.tokens[end].text
    if pair not in ("()", "[]", "{}"):
        raise Unreadable
    inner = replace(
        cursor,
        tokens=cursor.tokens[cursor.position + 1 : end],
        position=0,
        depth=cursor.depth + 1,
        in_bracket=True,
    )
    value = read_sum(inner)
    if inner.position != len(inner.tokens):
        raise Unreadable
    cursor.position = end + 1
    return value


def read_atom(cursor: Cursor) -> Value:
    """A number, a letter, a command or a bracket."""
    token = cursor.peek()
    if token.kind == Kind.NUMBER:
        return read_number_atom(cursor)
    if token.kind == Kind.COMMAND:
        return read_command(cursor)
    if token.kind == Kind.WORD:
        return read_letters(cursor)
    if token.text in ("(", "[", "{"):
        return read_bracket(cursor)
    if token.text == "|":
        return read_absolute(cursor)
    raise Unreadable


def read_number_atom(cursor: Cursor) -> Value:
    """A number, or a mixed number: 2 1/2, 2\\frac{1}{2}.

    Raises:
        Unreadable: for a number with a subscript, or a mixed number whose fraction is not one.
    """
    token = cursor.take()
    if cursor.peek().text == "_":
        raise Unreadable
    whole = token.text.isdigit()
    upper, bar, lower = (cursor.peek(i) for i in range(3))
    if whole and is_command(upper, "frac", "dfrac", "tfrac"):
        ahead = replace(cursor)
        ahead.take()
        above, below = read_argument(ahead), read_argument(ahead)
        numbers = [algebra.as_rational(value) for value in (above, below)]
        written = cursor.tokens[cursor.position + 1 : ahead.position]
        if all(t.kind == Kind.NUMBER or t.text in "{}" for t in written):
            a, b = numbers
            if a is None or b is None or not 0 < a < b:
                raise Unreadable
            cursor.position = ahead.position
            return rational(token.number + a / b)
    if upper.kind == Kind.NUMBER:
        proper = bar.text == "/" and lower.kind == Kind.NUMBER and 0 < upper.number < lower.number
        behind = cursor.peek(3).text
        if not (whole and upper.spaced and proper and upper.text.isdigit()) or behind in ("/", "^"):
            raise Unreadable
        cursor.position += 3
        return rational(token.number + upper.number / lower.number)
    return rational(token.number)


def read_argument(cursor: Cursor) -> Value:
    """The argument of a command: a group in braces, or one sign; of a number without braces its
    first digit alone, as TeX takes it."""
    token = cursor.peek()
    if token.kind == Kind.NUMBER and len(token.text) > 1:
        if not token.text.isdigit():
            raise Unreadable
        rest = token.text[1:]
        tokens = list(cursor.tokens)
        tokens[cursor.position] = Token(
            Kind.NUMBER, rest, Token(Kind.NUMBER, rest).number + int(rest)
        )
        cursor.tokens = tokens
        return rational(int(token.text[0]))
    if token.kind == Kind.NUMBER:
        return rational(cursor.take().number)
    if token.text == "{":
        return read_bracket(cursor)
    if token.kind == Kind.COMMAND and token.text in ("pi", *GREEK):
        return read_command(cursor)
    if token.kind == Kind.WORD and len(token.text) == 1:
        return read_letters(cursor)
    raise Unreadable


def read_command(cursor: Cursor) -> Value:
    """A LaTeX command with its arguments."""
    name = cursor.take().text
    if name in ("frac", "dfrac", "tfrac", "cfrac"):
        above = read_argument(cursor)
        below = read_argument(cursor)
        cursor.spend(above, below)
        return algebra.divide(above, below)
    if name in ("binom", "dbinom", "tbinom"):
        return algebra.binomial(read_argument(cursor), read_argument(cursor))
    if name == "sqrt":
        return read_root(cursor)
    if name == "surd":
        return algebra.square_root(read_atom(cursor))
    if name in algebra.FUNCTIONS:
        return read_function(cursor, name)
    if name in CONSTANTS:
        return CONSTANTS[name]
    if name in GREEK:
        return read_subscript(cursor, name)
    raise Unreadable


def read_root(cursor: Cursor) -> Value:
    """The arguments of \\sqrt, with its order perhaps.

    Raises:
        Unreadable: for several digits without braces, which TeX and people read differently.
    """
    order = rational(2)
    if cursor.peek().text == "[":
        order = read_bracket(cursor)
    if cursor.peek().kind == Kind.NUMBER and len(cursor.peek().text) > 1:
        raise Unreadable
    plain = cursor.peek().text == "("
    inside = read_bracket(cursor) if plain else read_argument(cursor)
    degree, number = algebra.as_rational(order), algebra.as_rational(inside)
    if degree is None or degree.denominator != 1 or not 2 <= degree <= 100:
        raise Unreadable
    sign = 1
    if number is not None and number < 0 and degree % 2:
        sign, inside = -1, rational(-number)
    cursor.spend(inside)
    root = algebra.raise_to(inside, rational(1 / degree))
    return algebra.multiply(rational(sign), root)


def read_function(cursor: Cursor, name: str) -> Value:
    """A function with its argument: in brackets, or the factors that follow."""
    function, power = algebra.FUNCTIONS[name], None
    base = None
    while cursor.peek().text in ("^", "_"):
        sign = cursor.take().text
        if sign == "^" and power is None:
            power = read_argument(cursor)
        elif sign == "_" and base is None and name == "log":
            base = read_argument(cursor)
        else:
            raise Unreadable
    outside, cursor.in_function = cursor.in_function, True
    if cursor.peek().text in ("(", "[", "{"):
        argument = read_bracket(cursor)
    elif cursor.peek().text == "|" or name in ("sqrt", "exp"):
        raise Unreadable
    else:
        argument = read_power(cursor)
        while starts_factor(cursor) and cursor.peek().text not in algebra.FUNCTIONS:
            argument = algebra.multiply(argument, read_power(cursor))
    cursor.in_function = outside
    cursor.spend(argument, argument)
    value = function(argument) if base is None else algebra.logarithm(argument, base)
    if power is None:
        return value
    if algebra.as_rational(power) in (None, -1):  # sin^{-1} is no reciprocal
        raise Unreadable
    return algebra.raise_to(value, power)


def read_letters(cursor: Cursor) -> Value:
    """A letter, the name of a constant or function, or the first of letters that are a product
    (2xy), which are tokens of their own from then on: an exponent behind them is that of the last.

    Raises:
        Unreadable: for a word.
    """
    token = cursor.take()
    name = token.text
    if name in algebra.FUNCTIONS:
        return read_function(cursor, name)
    if name in CONSTANTS:
        return CONSTANTS[name]
    if len(name) == 1:
        return read_subscript(cursor, name)
    alone = len(cursor.tokens) == 1 or (token.spaced and cursor.position > 1)
    alone = alone and not cursor.in_bracket  # a word; but what stands in a bracket is a formula
    if len(name) > 3 or alone or name in UNITS or is_word_before_number(cursor):
        raise Unreadable
    before, behind = cursor.tokens[: cursor.position - 1], cursor.tokens[cursor.position :]
    cursor.tokens = [*before, *(Token(Kind.WORD, letter) for letter in name), *behind]
    cursor.position -= 1
    return read_letters(cursor)


def is_word_before_number(cursor: Cursor) -> bool:
    """Whether letters stand before a number or another word: those are words, no product."""
    return cursor.peek().kind in (Kind.NUMBER, Kind.WORD, Kind.TEXT)


def read_subscript(cursor: Cursor, name: str) -> Value:
    """A letter with its subscript, which is a part of its name."""
    if cursor.peek().text != "_":
        return algebra.generator(name)
    cursor.take()
    if cursor.peek().text == "{":
        end = closing_place(cursor.tokens, cursor.position)
        inside = cursor.tokens[cursor.position + 1 : end]
        cursor.position = end + 1
    else:
        inside = [cursor.take()]
    return algebra.generator(name + "_" + "".join(t.text for t in inside))


def read_absolute(cursor: Cursor) -> Value:
    """|…|, worked out for rational numbers."""
    start = cursor.position + 1
    end = next((i for i in range(start, len(cursor.tokens)) if cursor.tokens[i].text == "|"), None)
    if end is None or cursor.depth >= DEEPEST:
        raise Unreadable
    inner = replace(
        cursor,
        tokens=cursor.tokens[start:end],
        position=0,
        depth=cursor.depth + 1,
        in_bracket=True,
    )
    value = read_sum(inner)
    if inner.position != len(inner.tokens):
        raise Unreadable
    cursor.position = end + 1
    number = algebra.as_rational(value)
    if number is None:
        return algebra.generator(("absolute", algebra.key_of(value)))
    return rational(abs(number))
