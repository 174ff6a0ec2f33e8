"""The words and signs that an answer is made of: LaTeX and plain text as tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

LONGEST_ANSWER = 2000  # characters


class Unreadable(ValueError):
    """What is written is not an answer that can be read, or it has more than one reading."""


class Kind(StrEnum):
    """What a token is."""

    NUMBER = "number"
    WORD = "word"  # letters, of one or more characters
    TEXT = "text"  # a word inside of \text{…}
    COMMAND = "command"  # a LaTeX command without its backslash
    SIGN = "sign"  # one character, or an environment's begin or end


@dataclass(frozen=True)
class Token:
    r"""One token.

    Attributes:
        kind: what it is.
        text: as it is written; of a command, its name.
        number: the value of a number.
        spaced: whether a space stands before it.
    """

    kind: Kind
    text: str
    number: Fraction = Fraction(0)
    spaced: bool = False


SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
FULL_WIDTH = str.maketrans("０１２３４５６７８９，．－＋＝％", "0123456789,.-+=%")
VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5"}
VULGAR |= {"⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8"}
VULGAR |= {"⅞": "7/8"}
CHARACTERS = {
    "−": "-",
    "–": "-",
    "‐": "-",
    "‑": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∗": r"\cdot ",
    "÷": "/",
    "⁄": "/",
    "√": r"\surd ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "’": "'",
    "£": "$",
    "€": "$",
    "¥": "$",
    "₹": "$",
}
CHARACTERS |= {sign: rf"\frac{{{a}}}{{{b}}}" for sign, (a, _, b) in VULGAR.items()}
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
RAISED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+")
LOWERED = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
# Spaces of many kinds, as they are written between thousands too.
SPACE = "[ \t\n\r\u00a0\u2000-\u200a\u202f\u205f\u3000~]"
SPACING = re.compile(
    r"(?<!\\)\\[,;:! ]|\\(?:quad|qquad|thinspace|displaystyle|textstyle|left|right|limits|nolimits"
    r"|[bB]igg?[lr]?)(?![A-Za-z])\s*"
)
WRITTEN = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|mathrm|mathbf|mathit"
    r"|operatorname|rm|bf)\s*\{([^{}]*)\}"
)

THOUSANDS = {  # group separators; each has to be the same throughout a number
    ",": r",|\{,\}",
    " ": rf"(?:{SPACE}|\x03)",
    "_": r"_|\\_",
    "'": "'",
}
WHOLE = "|".join(rf"\d{{1,3}}(?:(?:{sign})\d{{3}})+(?!\d)" for sign in THOUSANDS.values())
NUMBER = re.compile(
    rf"(?P<european>\d{{1,3}}(?:\.\d{{3}})+,\d{{1,2}}(?!\d)|\d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d))"
    rf"|(?P<repeated>\d*\.\d*)\\(?:overline|bar|dot)\s*(?:\{{(?P<period>\d+)\}}|(?P<digit>\d))"
    rf"|(?:(?P<grouped>{WHOLE})|(?P<plain>\d+)|(?=\.\d))(?P<decimals>\.\d+|\.(?![\w.]))?"
    rf"(?:[eE](?P<exponent>[-+]?\d{{1,4}})(?![\w.]))?",
    re.ASCII,
)
OTHER = re.compile(
    rf"(?P<space>(?:{SPACE}|\x03)+)|\x01(?P<text>[^\x02]*)\x02"
    r"|\\(?:begin|end)\s*\{(?P<environment>[a-z]*matrix)\}"
    r"|\\(?P<command>[A-Za-z]+)|(?P<escaped>\\.)|(?P<word>[^\W\d_]+)|(?P<sign>.)",
    re.DOTALL,
)
OPENING, CLOSING = ("(", "[", r"\{", "begin", "{"), (")", "]", r"\}", "end", "}")
# Inside of these a comma separates: (1,234) is a point.
SEPARATING = ("(", "[", r"\{", "begin")
LONGEST_NUMBER = 1000  # digits


def normalize(text: str) -> str:
    r"""One spelling for what has several: signs of Unicode as LaTeX, spacing commands as a mark,
    the words of `\text{…}` in marks, no dollars."""
    if NOT_ASCII.search(text):
        text = RAISED.sub(lambda m: "^{" + m.group().translate(SUPERSCRIPTS) + "}", text)
        text = LOWERED.sub(lambda m: "_{" + m.group().translate(SUBSCRIPTS) + "}", text)
        text = text.translate(FULL_WIDTH)
        for sign, latex in CHARACTERS.items():
            text = text.replace(sign, latex)
    text = text.replace(r"\$", " ").replace("$", " ").replace(r"\%", "%").replace(r"\#", " ")
    if "\\" in text:
        text = text.replace(r",\!", ",")
        text = re.sub(r"(?<!\\)\\[()\[\]]", " ", text)
        text = SPACING.sub("\x03", text)
        text = WRITTEN.sub(mark_words, text)
    text = re.sub(r"(?<=[\w)}])\*\*(?=[-\w({])", "^", text)
    text = text.replace("**", " ").replace("`", " ").strip().strip("\x03").strip()
    text = re.sub(r"^(?:=>|\\(?:Rightarrow|implies|therefore)(?![A-Za-z])|[⇒→∴])\s*", "", text)
    return re.sub(r"(?<![\\.])[.,;:\s]+$", "", text)


def mark_words(match: re.Match[str]) -> str:
    """The words of a `\\text{…}` between marks, so that they are words and no product of letters;
    contents with digits go where they stood."""
    inside = match.group(1)
    if re.search(r"[0-9=]", inside):
        return f" {inside} "
    return f"\x01{inside}\x02"


def read_number(match: re.Match[str]) -> Fraction:
    """The value of what `NUMBER` matched.

    Raises:
        Unreadable: if it has too many digits.
    """
    found = match.group
    if match.end() - match.start() > LONGEST_NUMBER:
        raise Unreadable
    if found("european"):
        return Fraction(found("european").replace(".", "").replace(",", "."))
    if found("repeated") is not None:
        period = found("period") or found("digit")
        whole, _, decimals = found("repeated").partition(".")
        repeated = Fraction(int(period), 10 ** len(decimals) * (10 ** len(period) - 1))
        return Fraction(f"{whole or 0}.{decimals or 0}") + repeated
    whole = found("plain") or re.sub(r"\D", "", found("grouped") or "") or "0"
    decimals = (found("decimals") or "").rstrip(".")
    if not decimals and not found("exponent"):
        return Fraction(int(whole))
    return Fraction(f"{whole}{decimals}e{found('exponent') or 0}")


def tokenize(text: str) -> list[Token]:
    """The tokens of a normalized text.

    Raises:
        Unreadable: if the text is too long, or a number in it.
    """
    if len(text) > LONGEST_ANSWER:
        raise Unreadable
    tokens: list[Token] = []
    position, spaced, brackets = 0, False, 0
    while position < len(text):
        match = NUMBER.match(text, position)
        if match and match.end() > position:
            if brackets and match.group("grouped") and "," in match.group():
                match = re.compile(r"(?P<plain>\d+)", re.ASCII).match(text, position)
                assert match
                tokens.append(Token(Kind.NUMBER, match.group(), Fraction(match.group()), spaced))
            else:
                tokens.append(Token(Kind.NUMBER, match.group(), read_number(match), spaced))
            position, spaced = match.end(), False
            continue
        match = OTHER.match(text, position)
        assert match  # its last alternative takes any character
        position = match.end()
        if match.lastgroup == "space":
            spaced = True
            continue
        tokens += other_tokens(match, spaced)
        if tokens and tokens[-1].kind == Kind.SIGN:
            brackets += (tokens[-1].text in SEPARATING) - (
                tokens[-1].text in CLOSING and tokens[-1].text != "}"
            )
        spaced = False
    return tokens


def other_tokens(match: re.Match[str], spaced: bool) -> list[Token]:
    """The tokens of what `OTHER` matched; several for the words of a `\\text{…}`."""
    kind, text = match.lastgroup, match.group()
    if kind == "text":
        words = re.findall(
            r"[^\W\d_]+(?:'[a-z]+)?|[^\w\s]", match.group("text").replace("\x03", " ")
        )
        return [
            Token(Kind.TEXT if word[0].isalpha() else Kind.SIGN, word, spaced=True)
            for word in words
        ]
    if kind == "environment":
        return [Token(Kind.SIGN, "begin" if text.startswith(r"\begin") else "end", spaced=spaced)]
    if kind == "command":
        return [Token(Kind.COMMAND, match.group("command"), spaced=spaced)]
    return [Token(Kind.WORD if kind == "word" else Kind.SIGN, text, spaced=spaced)]
