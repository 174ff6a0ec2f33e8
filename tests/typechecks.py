"""Turns the checks of types off where a test repeats itself.

The hook of `tests/conftest.py` checks the shapes and types of every call, which takes about as long
as the calls of a small model themselves. A test that draws hundreds of random cases needs it for
some of them only: types go wrong by the kind of a case, not by its numbers.
"""

import jaxtyping


def check_types(on: bool) -> None:
    """Checks types from here on, or no longer. Before the next test they are checked again."""
    jaxtyping.config.update("jaxtyping_disable", not on)
