"""Expressions in LaTeX and plain text, as exact values: sums, products, fractions, mixed numbers,
powers, roots, factorials, functions.

What has more than one reading, or none, raises `Unreadable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from unmask.tasks import algebra
from unmask.tasks.algebra import Value, rational
from unmask.tasks.symbols import CLOSING, OPENING, Kind, Token, Unreadable


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


DEEPEST = 20  # brackets inside of brackets
MOST_WORK = 20_000  # products of terms; adversarial answers end here
CONSTANTS = {"pi": algebra.PI, "infty": algebra.INFINITY, "infinity": algebra.INFINITY}
CONSTANTS |= {"inf": algebra.INFINITY, "e": algebra.EULER, "i": algebra.IMAGINARY}
GREEK = word_set(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi
    rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega ell
    """
)
ARTICLES = ("a", "an")  # also letters of a formula: a + b, an + b
UNITS_OF_ONE_LETTER = set("mgshlLJNWVKCFd")
UNITS = word_set(
    """
    cm mm km dm nm ft in mi yd kg mg lb lbs oz ml mL cl qt min sec hr hrs wk mo yr kWh mph ea pg
    """
)


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
    return read_between(cursor, cursor.position + 1, end)


def read_between(cursor: Cursor, start: int, end: int) -> Value:
    """The expression between two places; the cursor goes on behind the second."""
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
    value = read_between(cursor, start, end)
    number = algebra.as_rational(value)
    if number is None:
        return algebra.generator(("absolute", algebra.key_of(value)))
    return rational(abs(number))
