"""The one exception that means "your input, not our bug": commands print its sentence and exit with
code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UnmaskError(Exception):
    """Bad input. The message is one sentence: what was given, what is accepted, what to do.

    Examples:
        >>> unmask.load_policy("threshold:2")
        Traceback (most recent call last):
        unmask.errors.UnmaskError: ...
    """


def short_error(error: BaseException) -> str:
    """An error's message as one line of at most 200 characters, for use inside a sentence.

    Libraries raise errors of several lines, or of none; then the name of the error's type stands
    for its message.
    """
    return short_text(str(error)) or type(error).__name__


def short_text(text: str, length: int = 200) -> str:
    """The text as one line of at most `length` characters, cut between two words if it can be."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    cut = line[: length - 2]
    return cut[: max(cut.rfind(" "), length // 2)] + " …"


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """A count in words of a sentence: `1 prompt`, `2 prompts`.

    Args:
        number: how many.
        noun: what, in the singular; it may be several words.
        plural: the same where it is not one; None adds an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


@contextmanager
def refuse_errors(what: str, advice: str) -> Iterator[None]:
    """Turns whatever a library raises in the body, while it reads what a user gave, into one
    sentence: `what (reason); advice`.

    The tokenizers' library ends with a `PanicException`, which is no `Exception`, where a file is
    absurd enough.

    Raises:
        UnmaskError: for every error of the body; an `UnmaskError` stays as it is.
    """
    try:
        yield
    except (UnmaskError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise UnmaskError(f"{what} ({short_error(error)}); {advice}") from None
