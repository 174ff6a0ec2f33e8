r"""Whether a completion's answer equals the true one: the verifiers `number` and `math`.

Both find and read an answer in the same way (`answers`, `notation`) and compare exactly
(`algebra`). `number` is for truths that are one rational number, and says of them what `math` says.
What cannot be read equals only what is written alike.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from unmask.tasks import algebra
from unmask.tasks.algebra import TooLarge, rational
from unmask.tasks.answers import Finding, find_answer
from unmask.tasks.expressions import ARTICLES, GREEK
from unmask.tasks.notation import LEADING, Equation, Group, Part, Quantity, read_answer
from unmask.tasks.symbols import normalize

UNORDERED = (",", "{}", "∪")
LONGEST_TEXT = 2000
LARGEST_VOTE = 10**1000
# Words before an answer that change nothing, with the marks of `normalize` around them.
LEADING_WORD = "|".join(sorted(LEADING.difference(ARTICLES)))
LEAD_IN = re.compile(rf"[\x01\x03\s]*(?:(?:{LEADING_WORD})\b[\x01-\x03\s:=]*)+", re.IGNORECASE)
LENGTHS = {"cm": "centi", "mm": "milli", "km": "kilo", "m": ""}
MEASURES = {short: (short, f"{name}meter", f"{name}metre") for short, name in LENGTHS.items()}
MEASURES |= {
    "in": ("in", "inch", "inches"),
    "ft": ("ft", "foot", "feet"),
    "yd": ("yd", "yard"),
    "mi": ("mi", "mile"),
    "kg": ("kg", "kilogram"),
    "g": ("g", "gram"),
    "mg": ("mg", "milligram"),
    "s": ("s", "sec", "second"),
    "min": ("min", "minute"),
    "h": ("h", "hr", "hour"),
    "day": ("d", "day"),
    "week": ("week",),
    "month": ("month",),
    "year": ("year", "yr"),
    "dollar": ("dollar", "USD"),
    "cent": ("cent", "penny", "pennies"),
    "L": ("L", "l", "liter", "litre"),
    "ml": ("ml", "mL", "milliliter", "millilitre"),
    "dozen": ("dozen",),
}
UNIT_NAMES = {name: unit for unit, names in MEASURES.items() for name in names}


def same_mathematics(completion: str, truth: str) -> bool:
    """Whether a completion's answer equals `truth` (LaTeX or plain text) as mathematics. What
    cannot be read is right only where it is written as the truth is."""
    found = find_answer(completion)
    if found.text and plain_text(found.text[:LONGEST_TEXT]) == plain_text(truth) != "":
        return True
    right = read_answer(truth)
    if found.part is None or right is None:
        return False
    try:
        return same_part(found.part, right)
    except TooLarge:
        return False


def number(text: str) -> Fraction | None:
    """The value of a text that is one rational number; None if it is something else."""
    return rational_number(read_answer(text.strip()))


def rational_number(part: Part | None) -> Fraction | None:
    """The number that a part of an answer is, without its unit."""
    if not isinstance(part, Quantity):
        return None
    return algebra.as_rational(part.value)


def final_number(completion: str) -> Fraction | None:
    """The number that a completion gives as its result; None if it gives none."""
    return rational_number(find_answer(completion).part)


def number_candidate(completion: str) -> str:
    """What several samples of a problem vote on whose result is one number: that as a fraction,
    without its unit; as plain text where it is none."""
    value = final_number(completion)
    # Python does not write numbers of many thousand digits out.
    if value is not None and max(abs(value.numerator), value.denominator) < LARGEST_VOTE:
        return str(value)
    return plain_answer(find_answer(completion)) or completion.strip()


def plain_answer(found: Finding) -> str:
    """An answer as plain text; of one that was read, without the words that lead in to it."""
    text = normalize(found.text[:LONGEST_TEXT])
    lead_in = LEAD_IN.match(text)
    if found.part is not None and lead_in and lead_in.end() < len(text):
        text = text[lead_in.end() :]
    return plain_text(text)


def candidate(completion: str) -> str:
    """What several samples of a problem vote on: a rational number as a fraction, so that its
    spellings agree; all else as plain text, so that what verdicts tell apart (a unit, a percent
    sign, a base, a variable) stays apart."""
    found = find_answer(completion)
    part = found.part
    if isinstance(part, Quantity) and not (
        part.unit or part.percent or part.base or is_letter(part.label)
    ):
        return number_candidate(completion)
    return plain_answer(found) or completion.strip()


def same_number(completion: str, truth: str) -> bool:
    """Whether a completion's result equals `truth`, itself a number as text, in value: 1,000 is
    1000.00, and 5 is not 5.5."""
    return number(truth) is not None and same_mathematics(completion, truth)


@lru_cache(maxsize=1024)
def plain_text(text: str) -> str:
    """A text for comparison as text: without spaces, marks and braces, words in lower case."""
    written = re.sub(r"(?<=\d)\s+(?=\d)", "\x04", normalize(text))
    written = re.sub(r"[\s\x01\x02\x03]|\\text(?![a-z])", "", written)
    written = re.sub(r"(?<!\\)\{(\w)\}", r"\1", written)
    written = re.sub(r"\\[dt]frac", r"\\frac", written)
    written = re.sub(r"[^\W\d_]{2,}", lambda match: match.group().lower(), written)
    return re.sub(r"^\((\w)\)$", r"\1", written)


def has_truth(truth: str) -> bool:
    """Whether some completion can be right about this truth."""
    return plain_text(truth) != ""


def same_part(answer: Part, truth: Part) -> bool:
    """Whether two answers that were read are the same."""
    answer, truth = open_single(answer), open_single(truth)
    if isinstance(answer, Equation) or isinstance(truth, Equation):
        one, other = difference(answer), difference(truth)
        if one is None or other is None or not one.top or not other.top:
            return False
        return algebra.as_rational(algebra.divide(one, other)) is not None
    if answer.label != truth.label and is_letter(answer.label) and is_letter(truth.label):
        return False
    if isinstance(answer, Quantity) and isinstance(truth, Quantity):
        return same_quantity(answer, truth)
    if isinstance(answer, Group) and isinstance(truth, Group):
        return same_group(answer, truth)
    return False


def is_letter(label: str) -> bool:
    """Whether a label is the name of a variable and no word."""
    return len(label) == 1 or label in GREEK


def open_single(part: Part) -> Part:
    """The item of a set that has one, for it is the solution as much as the set is."""
    if isinstance(part, Group) and part.kind == "{}" and len(part.items) == 1:
        return part.items[0]
    return part


def difference(part: Part) -> algebra.Value | None:
    """Left side minus right side of an equation; `y = 2x` is one."""
    if isinstance(part, Equation):
        return part.difference
    if isinstance(part, Quantity) and is_letter(part.label):
        return algebra.add(algebra.generator(part.label), part.value, -1)
    return None


def same_quantity(answer: Quantity, truth: Quantity) -> bool:
    """Whether two quantities are equal. Where one has a percent sign and the other has not, 50 % is
    50, as a question for percents is answered, as well as 1/2; but 0.5 % is not 0.5."""
    if truth.base not in (0, 10) and not answer.base:
        # The base may be left out where the digits are given in it.
        return truth.digits.isdigit() and algebra.equal(answer.value, rational(int(truth.digits)))
    units = {known_unit(answer.unit), known_unit(truth.unit)} - {None}
    if len(units) > 1:
        return False
    same = algebra.equal(answer.value, truth.value)
    if answer.percent == truth.percent:
        return same
    size = algebra.as_rational(truth.value)
    if same and size is not None and abs(size) >= 1:
        return True
    factors = [rational(Fraction(1, 100) if q.percent else 1) for q in (answer, truth)]
    return algebra.equal(
        algebra.multiply(answer.value, factors[0]), algebra.multiply(truth.value, factors[1])
    )


def known_unit(unit: str) -> str | None:
    """One name for a unit of measurement, with its exponent; None for any other words."""
    words = unit.split()
    power = "1"
    if words and words[-1].startswith("^"):
        power = words.pop()[1:]
    for word, exponent in (("square", "2"), ("sq", "2"), ("cubic", "3")):
        if words and words[0].lower() == word:
            words, power = words[1:], exponent
    if len(words) != 1:
        return None
    (word,) = words
    name = UNIT_NAMES.get(word) or UNIT_NAMES.get(word.lower())
    name = name or UNIT_NAMES.get(word.lower().removesuffix("s"))
    return None if name is None else f"{name}^{power}"


def same_group(answer: Group, truth: Group) -> bool:
    """Whether lists, sets, points, intervals or matrices are the same. A list and a set have no
    order; a list may stand for a point where it has its order."""
    if len(answer.items) != len(truth.items):
        return False
    if answer.kind in UNORDERED and truth.kind in UNORDERED:
        if (answer.kind == "∪") != (truth.kind == "∪"):
            return False
        return same_in_any_order(answer.items, truth.items)
    kinds = {answer.kind, truth.kind}
    if len(kinds) > 1 and kinds != {",", "()"}:
        return False
    return all(map(same_part, answer.items, truth.items))


def same_in_any_order(answer: tuple[Part, ...], truth: tuple[Part, ...]) -> bool:
    """Whether each item of one is an item of the other, as often."""
    if len(answer) > 100:
        return False
    left = list(truth)
    for item in answer:
        place = next((i for i, other in enumerate(left) if same_part(item, other)), None)
        if place is None:
            return False
        del left[place]
    return True
