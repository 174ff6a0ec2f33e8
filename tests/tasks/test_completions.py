"""The verifiers `number` and `math` against the table of `completions.py`, and against texts that
are made to break or delay them."""

import json
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.completions import FORMULAS, NUMBERS
from unmask.tasks.mathematics import final_number, number, same_mathematics, same_number
from unmask.tasks.notation import read_answer

ROWS = [
    (completion, truth, completion in right, both)
    for both, table in ((True, NUMBERS), (False, FORMULAS))
    for truth, right, wrong in table
    for completion in (*right, *wrong)
]


def test_the_table_is_large_and_fair():
    assert len(ROWS) >= 700
    assert 250 < sum(right for _, _, right, _ in ROWS) < len(ROWS) - 250
    assert all(number(truth) is not None for truth, _, _ in NUMBERS)
    assert all(number(truth) is None for truth, _, _ in FORMULAS)


@pytest.mark.parametrize("verifier", [same_number, same_mathematics])
def test_verdicts_are_those_of_a_person(verifier):
    different = [
        (completion, truth)
        for completion, truth, right, both in ROWS
        if (both or verifier is same_mathematics) and verifier(completion, truth) != right
    ]
    assert not different


def test_number_takes_no_truth_that_is_no_number():
    assert not any(same_number(right[0], truth) for truth, right, _ in FORMULAS)


def test_true_answers_equal_themselves_and_no_others():
    truths = [truth for truth, _, _ in (*NUMBERS, *FORMULAS) if truth != "52_8"]
    for one in truths:
        assert [t for t in truths if same_mathematics(rf"\boxed{{{one}}}", t)] == [one]


FORMS = (
    "{}",
    "{}.",
    "${}$",
    "#### {}",
    "<answer>{}</answer>",
    r"\boxed{{{}}}",
    r"so $\boxed{{{}}}$, from 2 + 3.",
    "The answer is {}.",
    "The answer is **{}**. It took 7 steps.",
    "Answer: {}",
)


@given(st.fractions(), st.sampled_from(FORMS))
def test_a_written_fraction_is_itself_in_every_form(value, form):
    sign = "-" if value < 0 else ""
    above, below = abs(value.numerator), value.denominator
    for written in (f"{sign}{above}/{below}", rf"{sign}\frac{{{above}}}{{{below}}}"):
        completion = form.format(written)
        assert final_number(completion) == value
        assert same_number(completion, f"{value}") and same_mathematics(completion, f"{value}")
        assert not same_mathematics(completion, f"{value + Fraction(1, 10**30)}")


@given(st.integers(1, 60), st.integers(1, 60))
def test_roots_multiply_and_do_not_add(a, b):
    assert same_mathematics(rf"\boxed{{\sqrt{{{a}}}\sqrt{{{b}}}}}", rf"\sqrt{{{a * b}}}")
    assert same_mathematics(rf"\boxed{{\sqrt{{{a * a * b}}}}}", rf"{a}\sqrt{{{b}}}")
    assert not same_mathematics(rf"\boxed{{\sqrt{{{a}}}+\sqrt{{{b}}}}}", rf"\sqrt{{{a + b}}}")


VALUES = ["1", "2", "3", "x", "y", r"\sqrt{2}", r"\sqrt{3}", r"\pi", "i", "7"]


@given(st.lists(st.tuples(st.sampled_from("+-"), st.sampled_from(VALUES)), min_size=1, max_size=6))
def test_sums_are_equal_in_any_order(terms):
    written = "".join(sign + value for sign, value in terms)
    other = "".join(sign + value for sign, value in reversed(terms))
    assert same_mathematics(rf"\boxed{{{other}}}", written)
    assert not same_mathematics(rf"\boxed{{{other} + 1}}", written)


@given(st.text(alphabet=r"0123456789.,/\{}()[]^_!%$ xefracsqtbod+-=:|&;*" + "\n√½²−", max_size=60))
def test_any_text_is_read_or_not(text):
    read_answer(text)
    same_mathematics(text, "18")
    same_mathematics(rf"\boxed{{{text}}}", r"\frac{x}{2}")


HOSTILE = {
    "boxes in boxes": r"\boxed{" * 5000 + "1" + "}" * 5000,
    "open braces": "{" * 500_000 + r"\boxed{",
    "open boxes": r"\boxed{" * 140_000,
    "brackets in brackets": r"\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
    "tower of powers": r"\boxed{9^{9^{9^{9}}}}",
    "flat tower": r"\boxed{" + "^".join("2" * 900) + "}",
    "factorial": r"\boxed{(10^{10^{8}})!}",
    "factorials of factorials": r"\boxed{3" + "!" * 1900 + "}",
    "sum of factorials": r"\boxed{" + "+".join(["4000!"] * 280) + "}",
    "fractions of factorials": r"\boxed{" + "+".join(f"1/{3000 + i}!" for i in range(180)) + "}",
    "digits": "1" * 1_000_000,
    "decimals": "0." + "0" * 1_000_000 + "1",
    "groups": "1," * 500_000,
    "equals signs": "1=" * 500_000,
    "answers": "the answer is " * 70_000,
    "products of sums": r"\boxed{" + "(a+b+c+d+f)" * 150 + "}",
    "power of a sum": r"\boxed{(a+b+c+d+f)^{50}}",
    "powers of sums": r"\boxed{" + "+".join(f"(x+y+{i})^9" for i in range(150)) + "}",
    "roots in roots": r"\boxed{" + r"\sqrt{" * 250 + "2" + "}" * 250 + "}",
    "roots": r"\boxed{" + "".join(rf"\sqrt{{{10**90 + 7 + 2 * i}}}" for i in range(18)) + "}",
    "fractions in fractions": r"\boxed{" + r"1+\frac{1}{x+" * 100 + "x" + "}" * 101,
    "logarithms": r"\boxed{" + "+".join(rf"\ln {10**200 + i}" for i in range(9)) + "}",
    "exponents": r"\boxed{1e9999+1e-9999}",
    "dollars": "$" * 1_000_000,
    "stars": "**1" * 300_000,
    "tags": "<answer>" * 120_000,
    "hashes": "####" * 250_000,
    "spaces": "1" + " " * 1_000_000 + "x",
    "lines": "\n" * 1_000_000 + "x",
    "boxes": r"\boxed{1}," * 100_000,
    "boxes without braces": r"\boxed 1," * 100_000,
    "signs": "- " * 500_000,
    "bars": r"\boxed{" + "|" * 1900 + "}",
    "rows": r"\boxed{\begin{pmatrix}" + r"1&2\\" * 300 + r"\end{pmatrix}}",
}


# In a process of its own: the tests' checks of types would take most of the time.
JUDGE = """
import json, resource, time
from tests.tasks.test_completions import HOSTILE
from unmask.tasks.mathematics import same_mathematics
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds, right = {}, []
for kind, text in HOSTILE.items():
    for truth in ("42", "5, 42", r"\\frac{x}{2}"):
        began = time.process_time()
        right += [kind] * same_mathematics(text, truth)
        seconds[kind] = max(seconds.get(kind, 0.0), time.process_time() - began)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
print(json.dumps({"right": right, "slow": [k for k, s in seconds.items() if s >= 1]}))
print(memory)
"""


def test_hostile_texts_are_judged_within_a_second_and_in_little_memory():
    done = subprocess.run([sys.executable, "-c", JUDGE], capture_output=True, text=True, check=True)
    verdicts, memory = done.stdout.splitlines()
    assert json.loads(verdicts) == {"right": [], "slow": []}
    assert int(memory) < 100_000  # KiB
