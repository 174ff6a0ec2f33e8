"""Formulas that a model wrote, read without evaluating them as Python.

A formula is a sum, product, quotient or power of numbers, a few letters and a few functions. Its
length, its numbers and its powers are bounded, and it can call nothing else.
"""

from __future__ import annotations

import ast
import cmath
import operator
import re
from collections.abc import Callable
from fractions import Fraction

LONGEST = 500  # characters
LARGEST = 10**15  # number
HIGHEST = 40  # power, those of factors and of powers of powers together
# No quotes, brackets, underscores, commas or comments; no letter right behind a number, as in 1e9.
PLAIN = re.compile(r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?![0-9A-Za-z.])|[A-Za-z]|[ \t+*/()-])*")
LETTERS = ("x", "X", "y", "z", "c", "C", "k", "K", "E")
FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda value: 1 / cmath.tan(value),
    "sec": lambda value: 1 / cmath.cos(value),
    "csc": lambda value: 1 / cmath.sin(value),
    "asin": cmath.asin,
    "acos": cmath.acos,
    "atan": cmath.atan,
    "exp": cmath.exp,
    "log": cmath.log,
    "ln": cmath.log,
    "sqrt": cmath.sqrt,
}
OPERATORS: dict[type, Callable[[complex, complex], complex]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
# Where slopes are compared: not on the real line, where roots and logarithms have their ends.
POINTS = (0.61 + 0.37j, -0.43 + 0.29j, 1.27 - 0.53j)
STEPS = tuple(0.02 * cmath.exp(2j * cmath.pi * n / 16) for n in range(16))
NEAR = 1e-9  # of two slopes, a share of the size of what they were computed from


def read_formula(text: str) -> ast.expr:
    """The syntax tree of a formula.

    Raises:
        ValueError: if the text is none, or is too long, too large or too high.
    """
    if len(text) > LONGEST or not PLAIN.fullmatch(text):
        raise ValueError("not a formula")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        highest = find_power(tree)
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError) as error:
        raise ValueError("not a formula") from error
    if highest > HIGHEST:
        raise ValueError("powers too high")
    return tree


def find_power(tree: ast.expr, inside: bool = False) -> Fraction:
    """The highest power in a formula: powers of factors add up, powers of powers multiply, and no
    power lowers what is below it. `inside` says that the formula is what a function is taken of;
    that has no functions but roots, since towers of exponentials have no bound.

    Raises:
        ValueError: if it is not a formula.
    """
    match tree:
        case ast.Constant(value=int() | float() as value) if abs(value) <= LARGEST:
            return Fraction(1)
        case ast.Name(id=name) if name in LETTERS:
            return Fraction(1)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=inner):
            return find_power(inner, inside)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return max(find_power(left, inside), find_power(right, inside))
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            return find_power(left, inside) + find_power(right, inside)
        case ast.BinOp(left=ast.Name(id="E"), op=ast.Pow(), right=right) if not inside:
            return find_power(right, inside=True)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return find_power(left, inside) * max(abs(read_power(right)), 1)
        case ast.Call(func=ast.Name(id="sqrt"), args=[inner], keywords=[]):
            return find_power(inner, inside)
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if not inside:
            if name in FUNCTIONS:
                return find_power(inner, inside=True)
    raise ValueError("not a formula")


def read_power(tree: ast.expr) -> Fraction:
    """The number that stands behind `**`: a whole one, or a half.

    Raises:
        ValueError: if it is anything else.
    """
    match tree:
        case ast.Constant(value=int() | float() as value):
            power = Fraction(str(value))
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=inner):
            power = -read_power(inner) if isinstance(sign, ast.USub) else read_power(inner)
        case ast.BinOp(left=over, op=ast.Div(), right=under):
            power = read_power(over) / read_power(under)
        case _:
            raise ValueError("not a number")
    if power.denominator > 2:
        raise ValueError("neither whole nor a half")
    return power


def is_antiderivative(tree: ast.expr, slope: ast.expr, letter: str) -> bool:
    """Whether the slope of a formula is another formula at a few points, to nine places: the mean
    over a circle around each (Cauchy's integral), which is exact where the formula is smooth."""
    for point in POINTS:
        middle = find_value(tree, letter, point)
        parts = [(find_value(tree, letter, point + step) - middle) / step for step in STEPS]
        wanted = find_value(slope, letter, point)
        size = 1 + abs(wanted) + max(map(abs, parts))
        if not abs(sum(parts) / len(parts) - wanted) <= NEAR * size:
            return False
    return True


def find_value(tree: ast.expr, letter: str, point: complex) -> complex:
    """The value of a formula where `letter` stands for `point`, E for Euler's number, and every
    other letter for a constant of its own.

    Raises:
        ArithmeticError, ValueError: if there is none, or it is too large.
    """
    match tree:
        case ast.Constant(value=int() | float() as value):
            return complex(value)
        case ast.Name(id=name):
            return point if name == letter else complex(cmath.e if name == "E" else ord(name) / 97)
        case ast.UnaryOp(op=sign, operand=inner):
            value = find_value(inner, letter, point)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=sign, right=right):
            values = (find_value(part, letter, point) for part in (left, right))
            return OPERATORS[type(sign)](*values)
        case ast.Call(func=ast.Name(id=name), args=[inner]):
            return FUNCTIONS[name](find_value(inner, letter, point))
    raise ValueError("not a formula")
