"""How many random cases the tests draw: `make test` a few of each kind, `make test-thorough` many.

Both draw the same ones every time, and the few are the first of the many.
"""

import os

THOROUGH = os.environ.get("UNMASK_THOROUGH") == "1"


def cases(few: int, many: int) -> int:
    """How many cases to draw."""
    return many if THOROUGH else few
