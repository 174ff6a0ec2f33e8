"""Checks the shapes and types of every call, with beartype, up to a number of calls in each test.

A check takes about as long as a call of a small model itself, a fifth of the whole suite. A test
that draws hundreds of random cases, or trains for rounds, needs it for some of its calls only:
types go wrong by the kind of a case, not by its numbers. `make test-thorough` checks all calls.
"""

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype

from tests.effort import cases

MOST = cases(3000, 10**9)  # checks in a test; a call has two, of its arguments and of its result
counts = {"checks": 0}


def check_types(on: bool) -> None:
    """Checks types from here on, as often as in a new test, or no longer. Before the next test they
    are checked again."""
    counts["checks"] = 0
    jaxtyping.config.update("jaxtyping_disable", not on)


def beartype_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype`, which ends all checks of a test when there have been enough."""
    checked = beartype(function)

    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        counts["checks"] += 1
        if counts["checks"] >= MOST:
            check_types(False)
        return checked(*args, **kwargs)

    return check
