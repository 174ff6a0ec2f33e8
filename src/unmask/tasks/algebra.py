"""Exact arithmetic with what an answer may be made of: rational numbers, roots, π, e, i, logarithms
and variables. There is no floating point here, so two values are called equal only if they are.

A value is a fraction of two sums. A sum maps monomials to rational coefficients. A monomial is a
product of generators with exponents: primes with exponents between 0 and 1 (so √12 is 2·3^(1/2)),
letters, and whatever is not worked out (sin x, √(x + 1)), which stands for itself. Roots of
different primes are independent of one another (Besicovitch 1940), so sums without such opaque
generators are equal if and only if they are the same mapping. What is not worked out can make two
equal values look different, never two different values equal.

Everything is bounded: what would grow too large raises `TooLarge`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial, gcd

Monomial = tuple[tuple[Hashable, Fraction], ...]
Sum = dict[Monomial, Fraction]

ONE: Sum = {(): Fraction(1)}
LARGEST_TERMS = 200
LARGEST_BITS = 60_000  # 4000! has 42,100
LARGEST_FACTORIAL = 4000
TRIAL_DIVISORS = 2000


class TooLarge(ValueError):
    """A value that is not worked out, because it is too large or has no meaning."""


@dataclass(frozen=True)
class Value:
    """A fraction of two sums; the lower one is never empty (zero).

    Attributes:
        top: the numerator.
        bottom: the denominator.
    """

    top: Sum
    bottom: Sum


def rational(number: Fraction | int) -> Value:
    """A number as a value."""
    return Value({(): Fraction(number)} if number else {}, ONE)


def generator(name: Hashable, exponent: Fraction | int = 1) -> Value:
    """One generator, for example a letter, to a power."""
    return Value({((name, Fraction(exponent)),): Fraction(1)}, ONE)


PI, EULER, IMAGINARY, INFINITY = (generator(name) for name in ("π", "e", "i", "∞"))


def as_rational(value: Value) -> Fraction | None:
    """The number that a value is; None if it is no rational number."""
    if not value.top:
        return Fraction(0)
    if value.bottom == ONE and len(value.top) == 1:
        return value.top.get(())
    if len(value.top) == len(value.bottom):  # a multiple of the denominator, perhaps
        monomial, coefficient = next(iter(value.bottom.items()))
        ratio = value.top.get(monomial, Fraction(0)) / coefficient
        if value.top == {m: c * ratio for m, c in value.bottom.items()}:
            return ratio
    return None


def check_size(total: Sum) -> Sum:
    """The sum itself.

    Raises:
        TooLarge: if it has too many terms or digits.
    """
    if len(total) > LARGEST_TERMS:
        raise TooLarge
    for c in total.values():
        if max(c.numerator.bit_length(), c.denominator.bit_length()) > LARGEST_BITS:
            raise TooLarge
    return total


def add_sums(one: Sum, other: Sum, factor: int = 1) -> Sum:
    """one + factor · other."""
    total = dict(one)
    for monomial, coefficient in other.items():
        found = total.get(monomial, Fraction(0)) + factor * coefficient
        if found:
            total[monomial] = found
        else:
            total.pop(monomial, None)
    return total


def multiply_monomials(one: Monomial, other: Monomial) -> tuple[Monomial, Fraction]:
    """The product of two monomials, as a monomial and what came out of its roots and powers of
    i."""
    exponents = dict(one)
    for name, exponent in other:
        exponents[name] = exponents.get(name, Fraction(0)) + exponent
    coefficient, kept = Fraction(1), []
    for name, exponent in exponents.items():
        if isinstance(name, int):  # a prime
            whole = exponent.numerator // exponent.denominator
            coefficient *= Fraction(name) ** whole
            exponent -= whole
        elif name == "i":
            turns = exponent % 4
            coefficient *= -1 if turns >= 2 else 1
            exponent = turns % 2
        if exponent:
            kept.append((name, exponent))
    return tuple(sorted(kept, key=repr)), coefficient


def multiply_sums(one: Sum, other: Sum) -> Sum:
    """The product of two sums.

    Raises:
        TooLarge: if it has too many terms.
    """
    if len(one) * len(other) > LARGEST_TERMS**2 // 4:
        raise TooLarge
    total: Sum = {}
    for left, a in one.items():
        for right, b in other.items():
            monomial, factor = multiply_monomials(left, right) if left or right else ((), 1)
            found = total.get(monomial, Fraction(0)) + a * b * factor
            if found:
                total[monomial] = found
            else:
                total.pop(monomial, None)
    return check_size(total)


def add(one: Value, other: Value, factor: int = 1) -> Value:
    """one + factor · other."""
    if one.bottom == other.bottom:
        return Value(check_size(add_sums(one.top, other.top, factor)), one.bottom)
    left = multiply_sums(one.top, other.bottom)
    right = multiply_sums(other.top, one.bottom)
    bottom = multiply_sums(one.bottom, other.bottom)
    return Value(check_size(add_sums(left, right, factor)), bottom)


def multiply(one: Value, other: Value) -> Value:
    """one · other."""
    bottom = one.bottom
    if other.bottom != ONE:
        bottom = multiply_sums(one.bottom, other.bottom)
    return Value(multiply_sums(one.top, other.top), bottom)


def divide(one: Value, other: Value) -> Value:
    """one / other.

    Raises:
        TooLarge: for a division by zero.
    """
    if not other.top:
        raise TooLarge
    if len(other.top) == 1:  # a single term has an inverse that is a single term
        ((monomial, coefficient),) = other.top.items()
        inverse, factor = multiply_monomials((), tuple((n, -e) for n, e in monomial))
        return multiply(
            one, Value(multiply_sums({inverse: factor / coefficient}, other.bottom), ONE)
        )
    return multiply(one, Value(other.bottom, other.top))


def equal(one: Value, other: Value) -> bool:
    """Whether two values are the same. What would be too large to find out is not the same."""
    if one.bottom == other.bottom:
        return one.top == other.top
    try:
        return multiply_sums(one.top, other.bottom) == multiply_sums(other.top, one.bottom)
    except TooLarge:
        return False


def key_of(value: Value) -> Hashable:
    """A value as a part of a generator's name."""
    return tuple(
        tuple(sorted(((m, c) for m, c in part.items()), key=repr))
        for part in (value.top, value.bottom)
    )


def factor_number(number: int) -> dict[int, int]:
    """The exponents of the primes of a positive whole number. A factor without small divisors
    stands for a prime, or is a power of one such number."""
    found: dict[int, int] = {}
    divisor = 2
    while divisor < TRIAL_DIVISORS and divisor * divisor <= number:
        while number % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            number //= divisor
        divisor += 1
    if number > 1:
        base, exponent = whole_power(number)
        found[base] = found.get(base, 0) + exponent
    return found


def whole_power(number: int) -> tuple[int, int]:
    """b and the largest n ≤ 8 with bⁿ = number."""
    for n in range(8, 1, -1):
        root = whole_root(number, n)
        if root**n == number:
            return root, n
    return number, 1


def whole_root(number: int, n: int) -> int:
    """The largest r with rⁿ ≤ number, by bisection on bits."""
    root = 0
    for bit in range(number.bit_length() // n, -1, -1):
        candidate = root | 1 << bit
        if candidate**n <= number:
            root = candidate
    return root


def root_of_rational(number: Fraction, exponent: Fraction) -> Value:
    """A positive rational number to a fractional power.

    Raises:
        TooLarge: if its digits are too many to be factored.
    """
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > 1000:
        raise TooLarge
    result = rational(1)
    for part, sign in ((number.numerator, 1), (number.denominator, -1)):
        for prime, power in factor_number(part).items():
            monomial, coefficient = multiply_monomials((), ((prime, sign * power * exponent),))
            result = multiply(result, Value({monomial: coefficient}, ONE))
    return result


def raise_whole(base: Value, exponent: int) -> Value:
    """base to a whole power.

    Raises:
        TooLarge: if the result is, or for a power of zero that has no meaning.
    """
    if exponent < 0:
        base, exponent = divide(rational(1), base), -exponent
    number = as_rational(base)
    if number is not None:
        bits = max(number.numerator.bit_length(), number.denominator.bit_length())
        if (number not in (0, 1, -1) and (bits - 1) * exponent > LARGEST_BITS) or (
            not number and not exponent
        ):
            raise TooLarge
        if number in (0, 1, -1):
            exponent = exponent % 2 + 2
        return rational(number**exponent)
    if (exponent > LARGEST_TERMS and len(base.top) * len(base.bottom) > 1) or exponent > 10_000:
        raise TooLarge
    result = rational(1)
    while exponent:
        if exponent & 1:
            result = multiply(result, base)
        exponent >>= 1
        if exponent:
            base = multiply(base, base)
    return result


def raise_to(base: Value, exponent: Value) -> Value:
    """base to the power of exponent.

    Raises:
        TooLarge: if the result is, or where no one meaning is agreed on.
    """
    power = as_rational(exponent)
    if power is None:
        return raise_open(base, exponent)
    if power.denominator == 1:
        return raise_whole(base, power.numerator)
    if power.denominator > 100 or abs(power) > 1000:
        raise TooLarge
    number = as_rational(base)
    if number == 0:
        if power < 0:
            raise TooLarge
        return base
    if number is not None and number < 0:
        if power.denominator != 2:
            raise TooLarge
        return multiply(root_of_rational(-number, power), raise_whole(IMAGINARY, power.numerator))
    if number is not None:
        return root_of_rational(number, power)
    return root_of_sum(base, power)


def root_of_sum(base: Value, power: Fraction) -> Value:
    """What is no rational number, to a fractional power: a square root of a + b√c or of a product
    of roots is worked out; of anything else, the rational factor comes out."""
    if base.bottom == ONE and len(base.top) == 1:
        ((monomial, coefficient),) = base.top.items()
        if coefficient > 0 and all(isinstance(name, int) for name, _ in monomial):
            scaled, factor = multiply_monomials((), tuple((n, e * power) for n, e in monomial))
            return multiply(root_of_rational(coefficient, power), Value({scaled: factor}, ONE))
    if power == Fraction(1, 2) and (plain := denested_root(base)) is not None:
        return plain
    content = common_factor(base.top) / common_factor(base.bottom)
    rest = divide(base, rational(content))
    return multiply(root_of_rational(content, power), generator(("root", key_of(rest), power)))


def common_factor(total: Sum) -> Fraction:
    """The positive rational number that leaves coefficients which are whole and have no common
    factor."""
    above, below = 0, 1
    for coefficient in total.values():
        above = gcd(above, coefficient.numerator)
        below = below * coefficient.denominator // gcd(below, coefficient.denominator)
    return Fraction(above, below)


def denested_root(base: Value) -> Value | None:
    """√(a + b√c) as √m + √n or √m − √n with rational m and n; None if it is no such number."""
    whole = base.top.get((), Fraction(0))
    rest = [(m, c) for m, c in base.top.items() if m]
    if base.bottom != ONE or whole <= 0 or len(rest) != 1:
        return None
    monomial, coefficient = rest[0]
    if any(not isinstance(n, int) or e != Fraction(1, 2) for n, e in monomial):
        return None
    square = coefficient**2
    for name, _ in monomial:
        assert isinstance(name, int)
        square *= name
    left = whole**2 - square
    if left < 0 or max(left.numerator, left.denominator).bit_length() > 1000:
        return None
    root = Fraction(whole_root(left.numerator, 2), whole_root(left.denominator, 2))
    if root**2 != left:
        return None
    half = Fraction(1, 2)
    one, other = (root_of_rational((whole + sign * root) / 2, half) for sign in (1, -1))
    return add(one, other, 1 if coefficient > 0 else -1)


def raise_open(base: Value, exponent: Value) -> Value:
    """base to a power that is no number, for example 2^(n + 1): the whole number in the exponent
    comes out."""
    result = rational(1)
    if exponent.bottom == ONE and (whole := exponent.top.get(())) is not None:
        result = raise_to(base, rational(whole))
        exponent = add(exponent, rational(whole), -1)
    return multiply(result, generator(("power", key_of(base), key_of(exponent))))


def factorial_of(value: Value) -> Value:
    """n!

    Raises:
        TooLarge: for numbers that are large, negative or not whole.
    """
    n = as_rational(value)
    if n is None:
        return generator(("factorial", key_of(value)))
    if n.denominator != 1 or not 0 <= n <= LARGEST_FACTORIAL:
        raise TooLarge
    return rational(factorial(n.numerator))


def binomial(above: Value, below: Value) -> Value:
    """n over k."""
    n, k = as_rational(above), as_rational(below)
    if n is None or k is None:
        return generator(("binomial", key_of(above), key_of(below)))
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= LARGEST_FACTORIAL:
        raise TooLarge
    return rational(comb(n.numerator, k.numerator))


def natural_logarithm(value: Value) -> Value:
    """ln, as a sum over the logarithms of primes.

    Raises:
        TooLarge: for numbers that are not positive.
    """
    number = as_rational(value)
    if number is None:
        if equal(value, EULER):
            return rational(1)
        return generator(("ln", key_of(value)))
    if number <= 0 or max(number.numerator, number.denominator).bit_length() > 1000:
        raise TooLarge
    total = rational(0)
    for part, sign in ((number.numerator, 1), (number.denominator, -1)):
        for prime, power in factor_number(part).items():
            total = add(total, multiply(rational(sign * power), generator(("ln", prime))))
    return total


def logarithm(value: Value, base: Value) -> Value:
    """log of a value to a base."""
    return divide(natural_logarithm(value), natural_logarithm(base))


# sin of these multiples of π, squared.
SQUARED_SINES = {
    Fraction(0): Fraction(0),
    Fraction(1, 6): Fraction(1, 4),
    Fraction(1, 4): Fraction(1, 2),
    Fraction(1, 3): Fraction(3, 4),
    Fraction(1, 2): Fraction(1),
}


def multiple_of_pi(value: Value) -> Fraction | None:
    """q where the value is q · π."""
    return as_rational(divide(value, PI))


def sine(value: Value) -> Value:
    """sin, worked out at the multiples of π/6 and π/4."""
    turn = multiple_of_pi(value)
    if turn is None:
        return generator(("sin", key_of(value)))
    turn %= 2
    sign, turn = (-1, turn - 1) if turn >= 1 else (1, turn)
    square = SQUARED_SINES.get(min(turn, 1 - turn))
    if square is None:
        return generator(("sin", key_of(value)))
    if not square:
        return rational(0)
    return multiply(rational(sign), root_of_rational(square, Fraction(1, 2)))


def cosine(value: Value) -> Value:
    """cos, as `sine`."""
    if multiple_of_pi(value) is None:
        return generator(("cos", key_of(value)))
    return sine(add(value, multiply(rational(Fraction(1, 2)), PI)))


def tangent(value: Value) -> Value:
    """tan = sin / cos."""
    return divide(sine(value), cosine(value))


def opaque(name: str) -> Callable[[Value], Value]:
    """A function that is not worked out."""
    return lambda value: generator((name, key_of(value)))


def exponential(value: Value) -> Value:
    """e to a power."""
    return raise_to(EULER, value)


def base_ten(value: Value) -> Value:
    """The logarithm to base 10, which `log` without a base means here."""
    return logarithm(value, rational(10))


def square_root(value: Value) -> Value:
    """√"""
    return raise_to(value, rational(Fraction(1, 2)))


def reciprocal(function: Callable[[Value], Value]) -> Callable[[Value], Value]:
    """1 / function."""
    return lambda value: divide(rational(1), function(value))


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "sqrt": square_root,
    "sin": sine,
    "cos": cosine,
    "tan": tangent,
    "cot": reciprocal(tangent),
    "sec": reciprocal(cosine),
    "csc": reciprocal(sine),
    "ln": natural_logarithm,
    "log": base_ten,
    "exp": exponential,
} | {name: opaque(name) for name in ("arcsin", "arccos", "arctan", "sinh", "cosh", "tanh")}
