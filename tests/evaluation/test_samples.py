"""Several samples a prompt."""

import math
from itertools import combinations

import pytest

from unmask import UnmaskError
from unmask.evaluation import majority, pass_at_k, sampling


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            subsets = list(combinations([1] * c + [0] * (n - c), k))
            assert math.isclose(pass_at_k(n, c, k), sum(any(s) for s in subsets) / len(subsets))
    for bad in ((n, 0, n + 1), (n, n + 1, 1), (n, 0, 0)):
        with pytest.raises(UnmaskError, match="cannot be estimated"):
            pass_at_k(*bad)


def test_majority_and_sampling():
    assert majority(["4", "5", "4"], [0.0, 1.0, 0.0]) == 0
    assert majority(["5", "5", "4"], [1.0, 1.0, 0.0]) == 1
    assert majority(["4", "5"], [0.0, 1.0]) == 0.5, "a tie is worth its mean"
    base = {"sampler": "x", "block_length": 3, "nfe": 2}
    records = [
        base | {"prompt": p, "answer": a, "correct": float(a == "5")}
        for p in "ab"
        for a in ("5", "5", "4")
    ]
    (row,) = sampling(records, (1, 2))
    assert row["samples"] == 3 and row["majority"]["mean"] == 1
    assert math.isclose(row["pass@1"]["mean"], 2 / 3) and row["pass@2"]["mean"] == 1
