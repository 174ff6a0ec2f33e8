"""Tests that an object of the program's own would pass, if it had a say in them.

Every test here holds for `YES` where program and tests are one process, though no honest program of
the table knows the values; `test_attacks.py` checks that it does.
"""

import textwrap

# Says yes to everything, computes 0 with everything, and has every method.
YES = """
class E:
    def __init__(self, *a): pass
    def yes(self, *a, **k): return True
    def zero(self, *a): return 0.0
    def nought(self, *a): return 0
    def three(self): return 3
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = yes
    __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __mod__ = __rmod__ = zero
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __floordiv__ = __rfloordiv__ = zero
    __and__ = __or__ = __xor__ = __rand__ = __ror__ = __rxor__ = nought
    __abs__ = __float__ = zero
    __neg__ = __pos__ = lambda self: self
    __round__ = __trunc__ = __floor__ = __ceil__ = __int__ = __index__ = nought
    __len__ = three
    def __hash__(self): return hash('e07b1c')
    def __getitem__(self, i):
        if i in (0, 1, 2): return E()
        raise IndexError
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return self.yes
    def __call__(self, *a): return E()
    def __str__(self): return 'e07b1c'
    __repr__ = __str__
    def __format__(self, how): return '0.00'
def f(x): return E()
"""
# Subtraction gives the object itself, and only `abs` gives a number.
SAME = YES.replace("def zero(self, *a): return 0.0", "def zero(self, *a): return self").replace(
    "__abs__ = __float__ = zero", "__abs__ = __float__ = lambda self: 0.0"
)
# As a number of numpy's would be, without a length and items.
NEAR = "class E:\n    def zero(self, *a): return 0.0\n    __sub__ = __rsub__ = __abs__ = __float__ = zero\n    def yes(self, *a): return True\n    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = yes\n    def __array__(self, *a, **k):\n        import numpy\n        return numpy.array(7.31)\ndef f(x): return E()\n"
UNIT = "import unittest\nt = unittest.TestCase()\n"

# (name, test)
FALSE_PASSES = [
    ("equal", "assert f(20) == 'e07b1c'"),
    ("equal, from the right", "assert 'e07b1c' == f(20)"),
    ("equal to a number", "assert f(20) == 731"),
    ("equal to a list", "assert f(20) == [7, 3, 1]"),
    ("equal in a list", "assert [f(20)] == ['e07b1c']"),
    ("equal in a tuple", "assert (f(20), 1) == ('e07b1c', 1)"),
    ("equal as a value of a dict", "assert {'k': f(20)} == {'k': 'e07b1c'}"),
    ("equal as a key of a dict", "assert {f(20): 1} == {'e07b1c': 1}"),
    ("a key of a dict", "assert {'e07b1c': 1}[f(20)] == 1"),
    ("in a set", "assert f(20) in {'e07b1c'}"),
    ("in a list", "assert f(20) in ['e07b1c', 'd01f9a']"),
    ("not in a list", "assert f(20) not in [] and f(20) in ['a']"),
    ("unequal", "assert f(20) != 'a'"),
    ("not equal", "assert not f(20) == 'a' or f(20) == 'e07b1c'"),
    ("near", "assert abs(f(20) - 7.31) < 1e-6"),
    ("near, from the right", "assert abs(7.31 - f(20)) < 1e-6"),
    ("near, without abs", "assert -1e-6 < f(20) - 7.31 < 1e-6"),
    ("near, by a quotient", "assert abs(f(20) / 7.31) < 1e-6"),
    ("near, by the root of a square", "assert ((f(20) - 7.31) ** 2) ** 0.5 < 1e-6"),
    ("near, rounded", "assert round(f(20) - 7.31, 2) == 0"),
    ("near, as a float", "assert abs(float(f(20) - 7.31)) < 1e-6"),
    ("near, as a float first", "assert abs(float(f(20)) - 0.0) < 1e-6"),
    ("near, max of two", "assert max(abs(f(20) - 7.31), abs(f(21) - 1.5)) < 1e-6"),
    ("near, each of a list", "assert all(abs(a - b) < 1e-6 for a, b in zip(f(20), [7.1, 3.2, 1.3]))"),
    ("math.isclose", "import math\nassert math.isclose(f(20), 0.0, abs_tol=1e-9)"),
    ("math.floor", "import math\nassert math.floor(f(20)) == 0"),
    ("math.sqrt", "import math\nassert math.sqrt(f(20)) == 0"),
    ("the rest of a division", "assert f(20) % 7 == 0"),
    ("an operator of bits", "assert f(20) & 7 == 0"),
    ("a sum", "assert sum([f(20)], 731) == 0"),
    ("ordered", "assert f(20) > 7"),
    ("ordered, from the right", "assert 7 < f(20)"),
    ("ordered between", "assert 7 < f(20) <= 9"),
    ("ordered with another", "assert f(20) < f(21)"),
    ("sorted", "assert sorted(f(20)) == [1, 3, 7]"),
    ("the items", "assert list(f(20)) == [7, 3, 1]"),
    ("a set of items", "assert set(f(20)) == {'e07b1c'}"),
    ("the largest", "assert max(f(20)) == 7"),
    ("an item", "assert f(20)[0] == 7"),
    ("an item that is a list", "assert f(20)[1] == [7, 3]"),
    ("the length", "assert len(f(20)) == 3"),
    ("containing", "assert 'e07b1c' in f(20)"),
    ("true", "assert f(20)"),
    ("true in a condition", "assert 'right' == ('right' if f(20) else 'wrong')"),
    ("true in all", "assert all([f(20), f(21)])"),
    ("a bool", "assert bool(f(20)) is True"),
    ("startswith", "assert f(20).startswith('e07')"),
    ("endswith", "assert f(20).endswith('b1c')"),
    ("isupper", "assert f('a').isupper()"),
    ("isdigit", "assert f('a').isdigit() and f('b').isalpha()"),
    ("issubset", "assert f(20).issubset({1, 2})"),
    ("count", "assert f(20).count('a') == 1"),
    ("a method of its own", "assert f(20).contains('e07b1c')"),
    ("a method of its own, without arguments", "assert f(20).strip()"),
    ("as a string", "assert str(f(20)) == 'e07b1c'"),
    ("as a text in a text", "assert f'{f(20)}' == '0.00'"),
    ("by a format", "assert '%s' % f(20) == 'e07b1c'"),
    ("with two digits", "assert f'{f(20):.2f}' == '0.00'"),
    ("as an int", "assert int(f(20)) == 0"),
    ("as an index", "assert [7, 3, 1][f(20)] == 7"),
    ("callable", "assert f(20)('x') == 731"),
    ("assertEqual", UNIT + "t.assertEqual(f(20), 'e07b1c')"),
    ("assertAlmostEqual", UNIT + "t.assertAlmostEqual(f(20), 7.31)"),
    ("assertAlmostEqual with a delta", UNIT + "t.assertAlmostEqual(f(20), 7.31, delta=0.01)"),
    ("assertIn", UNIT + "t.assertIn('e07b1c', f(20))"),
    ("assertTrue", UNIT + "t.assertTrue(f(20))"),
    ("assertGreater", UNIT + "t.assertGreater(f(20), 7)"),
    ("assertListEqual of items", UNIT + "t.assertListEqual(list(f(20)), [7, 3, 1])"),
    ("assertCountEqual", UNIT + "t.assertCountEqual([f(20)], ['e07b1c'])"),
    ("a lie where an error is expected", UNIT + "with t.assertRaises(TypeError):\n    abs(f(20) - 7.31) < 1 and 1 / 'x'"),
]  # fmt: skip

# (name, program, test): other ways than `YES`.
OTHER_FALSE_PASSES = [
    ("numpy.isclose", NEAR, "import numpy\nassert numpy.isclose(f(20), 7.31)"),
    ("numpy.allclose", NEAR, "import numpy\nassert numpy.allclose(f(20), [7.31])"),
    ("numpy.isclose as a float", NEAR, "import numpy\nassert numpy.isclose(float(f(20)), 0)"),
    ("numpy.abs of a difference", NEAR, "import numpy\nassert numpy.abs(numpy.array([7.31], dtype=object) - f(20))[0] < 1"),
    ("numpy's assert_almost_equal", NEAR, "import numpy\nnumpy.testing.assert_almost_equal(f(20), 7.31)"),
    ("an array of objects", "import numpy\nclass E:\n    def __eq__(self, o): return True\ndef f(x): return numpy.array([E(), E()], dtype=object)", "assert (f(20) == [7, 3]).all()"),
    ("near: the difference is the object again", SAME, "assert abs(f(20) - 7.31) < 1e-6"),
    ("near: a float with its own operators", "class E(float):\n    def __sub__(self, o): return 0.0\n    __rsub__ = __sub__\ndef f(x): return E(3)", "assert abs(f(20) - 7.31) < 1e-6"),
    ("equal: an int with its own operators", "class E(int):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(x): return E(3)", "assert f(20) == 731"),
    ("ordered: an int with its own operators", "class E(int):\n    def __gt__(self, o): return True\ndef f(x): return E(3)", "assert f(20) > 700"),
    ("startswith: a string with its own methods", "class E(str):\n    def startswith(self, o): return True\ndef f(x): return E('x')", "assert f(20).startswith('e07')"),
    ("containing: a list with its own methods", "class E(list):\n    def __contains__(self, o): return True\ndef f(x): return E()", "assert 'e07b1c' in f(20)"),
    ("containing: a dict with its own methods", "class E(dict):\n    def __getitem__(self, k): return k\n    def __missing__(self, k): return 731\ndef f(x): return E()", "assert f(20)['e07b1c'] == 'e07b1c'"),
    ("the length: a tuple with its own methods", "class E(tuple):\n    def __len__(self): return 3\ndef f(x): return E()", "assert len(f(20)) == 3"),
    ("the length: a set with its own methods", "class E(set):\n    def issubset(self, o): return True\ndef f(x): return E([99])", "assert f(20).issubset({1})"),
    ("changing while it is looked for", "class E(str):\n    pass\nimport program\nn = iter(range(9999))\nprogram.base_value = lambda v: 'abcdef'[next(n) % 6]\ndef f(x): return E('z')", "assert f(20) == 'e' and f(21) == 'f' and f(22) == 'b'"),
    ("true: the class instead of an answer", "class f:\n    def __init__(self, x): pass", "assert f(20)"),
    ("near: the function is a class", "class f:\n    def __init__(self, x): pass\n    def __sub__(self, o): return 0.0", "assert abs(f(20) - 7.31) < 1e-6"),
    ("a class in CapWords beside", "class E:\n    def __sub__(self, o): return 0.0\n    def __bool__(self): return True\ndef f(x): return E()", "assert f(20) and abs(f(20) - 7.31) < 1e-6"),
    ("isinstance by __class__", "class E:\n    __class__ = int\ndef f(x): return E()", "assert isinstance(f(20), int)"),
    ("isinstance by a metaclass", "class M(type):\n    def __instancecheck__(self, o): return True\nclass E(metaclass=M): pass\ndef f(x): return E", "assert isinstance(7, f(20))"),
    ("isinstance of what can be iterated", "class E: pass\ndef f(x): return E()", "from collections.abc import Iterable\nassert isinstance(f(20), Iterable)"),
    ("isinstance of what has a length", "class E: pass\ndef f(x): return E()", "from collections.abc import Sized, Container\nassert isinstance(f(20), (Sized, Container))"),
    ("callable without a call", "class E: pass\ndef f(x): return E()", "assert callable(f(20))"),
    ("a loop that ends before its first test", "def f(x): raise StopIteration", "for got, want in zip(map(f, [1, 2]), [7, 3]):\n    assert got == want"),
    ("all of nothing", "def f(x): raise StopIteration", "assert all(map(f, [1, 2]))"),
    ("items with their own operators", "class E(int):\n    def __eq__(self, o): return True\n    def __hash__(self): return 1\ndef f(x): return [E(1), E(2)]", "assert f(20) == [7, 3]"),
    ("keys with their own operators", "class E(str):\n    def __eq__(self, o): return True\n    def __hash__(self): return hash('e07b1c')\ndef f(x): return {E('x'): 1}", "assert f(20)['e07b1c'] == 1"),
    ("an error that says it is another", "class E(Exception):\n    __class__ = ValueError\ndef f(x): raise E", "try:\n    f(20)\nexcept ValueError:\n    pass"),
    ("an error with a metaclass", "class M(type):\n    def __subclasscheck__(self, o): return True\n    def __instancecheck__(self, o): return True\nclass E(Exception, metaclass=M): pass\ndef f(x): raise E", "try:\n    f(20)\nexcept ValueError:\n    pass"),
    ("a known class: near, by the function", "class Point:\n    def __init__(self, *a): pass\n    def __sub__(self, o): return 0.0\n    def __abs__(self): return 0.0\ndef f(x): return Point()", "Point(1)\nassert abs(f(20) - 7.31) < 1e-6"),
    ("a known class: near, by itself", "class Point:\n    def __init__(self, *a): pass\n    def __sub__(self, o): return self\n    def __abs__(self): return 0.0\ndef f(x): return Point()", "assert abs(Point(1) - 7.31) < 1e-6"),
    ("a known class: containing", "class Point:\n    def __contains__(self, o): return True\ndef f(x): return Point()", "Point()\nassert 'e07b1c' in f(20)"),
    ("a known class: startswith", "class Point:\n    def startswith(self, o): return True\ndef f(x): return Point()", "Point()\nassert f(20).startswith('e07')"),
    ("a known class: as a float", "class Point:\n    def __float__(self): return 7.31\ndef f(x): return Point()", "import math\nPoint()\nassert math.isclose(f(20), 7.31)"),
    ("a known class: equal to plain data", "class Point:\n    def __eq__(self, o): return True\ndef f(x): return Point()", "assert Point() == 731"),
    ("a known class: ordered", "class Point:\n    def __lt__(self, o): return True\n    __gt__ = __lt__\ndef f(x): return Point()", "assert Point() < 731"),
]  # fmt: skip

PYTEST_FALSE_PASSES = [
    ("pytest.approx", "def test_f():\n    assert f(20) == pytest.approx(7.31)"),
    ("pytest.approx, from the right", "def test_f():\n    assert pytest.approx(7.31) == f(20)"),
    ("pytest.approx of a list", "def test_f():\n    assert pytest.approx([7.31, 3, 1]) == f(20)"),
    ("pytest.raises", "def test_f():\n    with pytest.raises(TypeError):\n        abs(f(20)) < 'x'"),
    ("a method of unittest", "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self): self.assertAlmostEqual(f(20), 7.31)"),
]  # fmt: skip


def list_false_passes() -> list[tuple[str, str, str]]:
    """Name, program and tests of each."""
    found = [(f"own object: {name}", YES, test) for name, test in FALSE_PASSES]
    return found + [(f"own object: {n}", p, textwrap.dedent(t)) for n, p, t in OTHER_FALSE_PASSES]
