"""Formulas: what is one, and that nothing else gets past."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.tasks.formulas import (
    FUNCTIONS,
    LETTERS,
    LONGEST,
    find_value,
    is_antiderivative,
    read_formula,
)

FORMULAS = [
    "24",
    " (8 - 4) * (7 - 1) ",
    "-2*x**3*cos(x) + 6*x**2*sin(x) + 12*x*cos(x) - 12*sin(x) + C",
    "2*(-10*x - 10)**(3/2)/3 + C",
    "x*asin(3*x) + sqrt(1 - 9*x**2)/3",
    "E**(2*x) + exp(-x) + .5*X**1.5 - 3.*x**-2",
    "log(sqrt(x**2 + 1))",
    "2**3*3",
    "x**(-1/2) + (x + 1)**(-3/2) + x**(+2) + c + K",
]
NONE = [
    "",
    "2 +",
    "f(x)",
    "a",
    "sin",
    "sin(x, x)",
    "sin(*x)",
    "x.x",
    "x(2)",
    "'x'",
    "[x]",
    "x[0]",
    "x if x else y",
    "x and y",
    "not x",
    "x # y",
    "x\n",
    "(x\n)",
    "x_",
    "1_0",
    "1e9",
    "1.e9",
    "1.e-99999999",
    "0x10",
    "2j",
    "x = 3",
    "x == 3",
    "x % 3",
    "7 // 2",
    "x ^ 2",
    "3!",
    "lambda x",
    "eval(x)",
    "exp",
    "\uff58",
    "\u00b2",
    "x\x00",
    "(" * 300 + ")" * 300,
    "(" * 240 + "x" + ")" * 240,
    "9**9**9**9",
    "9**(9**9)",
    "((9**9)**9)**9",
    "((9**40)**(1/2))**40",
    "(9**40)**0*9**40",
    "x**41",
    "x**-41",
    "x**(1/3)",
    "x**0.33",
    "x**(1/0)",
    "x**x",
    "2**x",
    "x**20*x**21",
    "exp(exp(x))",
    "exp(E**x)",
    "E**E**E**9",
    "exp(sqrt(exp(9)))",
    "1" * 16 + "1",
    "1" * 400 + ".",
    "+".join(["x"] * LONGEST),
]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_read(text):
    assert isinstance(find_value(read_formula(text), "x", 0.3 + 0.1j), complex)


@pytest.mark.parametrize("text", NONE)
def test_other_texts_are_not(text):
    with pytest.raises(ValueError, match=r"formula|power|number|half"):
        read_formula(text)


PIECES = [*LETTERS, *FUNCTIONS, *"0123456789+-*/(). ", "**", "()", "_", "__class__", "eval", "'"]
PIECES += ["lambda", "if", "for", ":", ",", "[", "]", "{", "\\", "\n", "#", "\u0660", "e", "E**"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_what_is_read_holds_known_names_and_numbers_only(text):
    try:
        tree = read_formula(text)
    except ValueError:
        return
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Attribute | ast.Subscript | ast.Starred)
        if isinstance(node, ast.Name):
            assert node.id in {*LETTERS, *FUNCTIONS}
        if isinstance(node, ast.Constant):
            assert type(node.value) in (int, float)


SLOPES = [
    ("x**3/3 + C", "x**2", True),
    ("x**3/3 - 12", "x**2", True),
    ("x**3/3", "x**2", True),
    ("x**3", "x**2", False),
    ("x**3/3 + x/1000000", "x**2", False),
    ("x**3/3 + C*x/1000000", "x**2", False),
    ("log(x)", "1/x", True),
    ("log(2*x + 3)/2 + k", "1/(2*x + 3)", True),
    ("0", "x**2", False),
    ("2*(-10*x - 10)**(3/2)/3", "-10*sqrt(-10*x - 10)", True),
    ("-2*(-10*x - 10)**(3/2)/3", "-10*sqrt(-10*x - 10)", False),
    ("x*asin(3*x) + sqrt(1 - 9*x**2)/3", "asin(3*x)", True),
    ("x*asin(3*x) - sqrt(1 - 9*x**2)/3", "asin(3*x)", False),
    ("3*x*atan(x) - 3*ln(x**2 + 1)/2", "3*atan(x)", True),
    ("E**(8 - 8*x)*(-3)", "24*exp(8 - 8*x)", True),
    ("(8*x + 6)**4*(-3)/32", "-3*(8*x + 6)**3", True),
    ("-384*x**4 - 1152*x**3 - 1296*x**2 - 648*x", "-3*(8*x + 6)**3", True),
    ("-384*x**4 - 1152*x**3 - 1296*x**2 - 647*x", "-3*(8*x + 6)**3", False),
    ("sin(20*x + 9)/1", "20*cos(20*x + 9)", True),
]


@pytest.mark.parametrize(("text", "slope", "expected"), SLOPES)
def test_slopes_are_compared(text, slope, expected):
    assert is_antiderivative(read_formula(text), read_formula(slope), "x") == expected
