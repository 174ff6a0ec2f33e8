"""Programs with tests that must hold, or must not: what the sandbox has to let pass."""

from tests.sandbox.solutions import HUMANEVAL_SOLUTIONS, KODCODE_SOLUTIONS, MBPP_SOLUTIONS
from unmask.sandbox import Job, defined_classes, defined_names

COUNTER = "class Counter:\n    def __init__(self, n=0): self.n = n\n    def up(self, by=1):\n        self.n += by\n        return self\n    @property\n    def twice(self): return 2 * self.n\n    @staticmethod\n    def zero(): return Counter()\n"
STACK = "class Empty(Exception):\n    pass\nclass Stack:\n    def __init__(self): self._items = []\n    def push(self, x): self._items.append(x)\n    def pop(self):\n        if not self._items: raise Empty('nothing to pop')\n        return self._items.pop()\n    def __len__(self): return len(self._items)\n    def __iter__(self): return iter(self._items)\n    def __contains__(self, x): return x in self._items\n    def __getitem__(self, i): return self._items[i]\n"
VECTOR = "class V:\n    def __init__(self, x, y): self.x, self.y = x, y\n    def __add__(self, o): return V(self.x + o.x, self.y + o.y)\n    def __mul__(self, k): return V(self.x * k, self.y * k)\n    def __eq__(self, o): return isinstance(o, V) and (self.x, self.y) == (o.x, o.y)\n    def __lt__(self, o): return self.x < o.x\n    def __repr__(self): return f'V({self.x}, {self.y})'\n    def __neg__(self): return V(-self.x, -self.y)\n    def __abs__(self): return (self.x**2 + self.y**2) ** 0.5\n"
TREE = "class Node:\n    def __init__(self, v):\n        self.v, self.left, self.right = v, None, None\ndef depth(n): return 0 if n is None else 1 + max(depth(n.left), depth(n.right))\n"
POINT = "class Point:\n    'A point.'\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return isinstance(o, Point) and self.x == o.x\n    def __hash__(self): return hash(self.x)\n    def __int__(self): return self.x\n    def both(self): return {self}, {Point(-self.x)}\n"
WRAPS = "import functools, inspect\ndef wraps(g):\n    'Wraps.'\n    return functools.wraps(g)(lambda *a: g(*a))\ndef curry(g, *a):\n    n = len(inspect.signature(g).parameters)\n    return lambda *b: g(*a, *b) if len(a + b) >= n else curry(g, *a, *b)\ndef show(g): return str(inspect.signature(g))\nclass Events:\n    def __init__(self): self.handlers = []\n    def on(self, h): self.handlers.append(h)\n    def off(self, h): self.handlers.remove(h)\n    def emit(self, x):\n        for h in self.handlers: h(x)\n"
SPY = "class Point:\n    def __init__(self, g): self.g = g\n    def __hash__(self):\n        self.g(type('E', (), {})())\n        return 1\n    def one(self): return {self}\n"

# (program, tests, whether they hold); the tests see every name that the program defines.
ASSERTS = [
    ("def f(x): return x + 1", "assert f(1) == 2", True),
    ("def f(x): return x + 2", "assert f(1) == 2", False),
    ("def f(x): return [x, x]", "assert f(1) == [1, 1]", True),
    ("def f(x): return (x, x)", "assert f(1) == [1, 1]", False),
    ("def f(x): return [1, 2]", "assert f(1) == (1, 2)", False),
    ("def f(x): print(x + 1)", "assert f(1) == 2", False),
    ("def f(x): return str(x + 1)", "assert f(1) == 2", False),
    ("def f(x): return x + 1.0", "assert f(1) == 2", True),
    ("def f(x): return True", "assert f(1) == 1", True),
    ("def f(x): return 1", "assert f(1) is True", False),
    ("def f(x): return None", "assert f(1) is None", True),
    ("def g(x): return x + 1", "assert f(1) == 2", False),
    ("def f(x) return x + 1", "assert f(1) == 2", False),
    ("", "assert f(1) == 2", False),
    ("Here is the function you asked for.", "assert f(1) == 2", False),
    ("def f(x): raise ValueError", "assert f(1) == 2", False),
    ("def f(x): return 1 / 0", "assert f(1) == 2", False),
    ("import nothing_of_this_name\ndef f(x): return x + 1", "assert f(1) == 2", False),
    ("def f(x):\n    if x == 1: return 2", "assert f(1) == 2\nassert f(2) == 3", False),
    ("def f(a): a.sort()", "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]", True),
    ("def f(a): return sorted(a)", "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]", False),
    ("def f(d): d['k'] = d.pop('j')", "d = {'j': 1}\nf(d)\nassert d == {'k': 1}", True),
    ("def f(*, a, b): b.update(c=a.pop())", "x, y = [3, 1], {}\nf(b=y, a=x)\nassert (x, y) == ([3], {'c': 1})", True),
    ("def f(f, self, what): return f, self, what", "assert f(f=1, self=2, what=3) == (1, 2, 3)", True),
    ("def f(s): s.add(3)", "s = {1}\nf(s)\nassert s == {1, 3}", True),
    ("def f(a): a[0][0] = 9", "a = [[1], [2]]\nf(a)\nassert a == [[9], [2]]", True),
    ("def f(x): return 2 ** x", "assert f(5000) == 1 << 5000", True),
    ("def f(x): return float('nan')", "assert f(1) != f(1)", True),
    ("def f(x): return float('inf')", "assert f(1) == float('inf')", True),
    ("def f(x): return 0.1 + 0.2", "assert f(1) == 0.3", False),
    ("def f(x): return 0.1 + 0.2", "assert abs(f(1) - 0.3) < 1e-9", True),
    ("def f(x): return {1, 2, x}", "assert f(3) == {3, 2, 1}", True),
    ("def f(x): return frozenset([x])", "assert f(3) == {3}", True),
    ("def f(x): return {'b': 1, 'a': 2}", "assert list(f(1)) == ['b', 'a']", True),
    ("def f(x): return {1: 'a', (2, 3): None}", "assert f(1) == {1: 'a', (2, 3): None}", True),
    ("def f(x): return b'\\x00' + x", "assert f(b'\\xff') == b'\\x00\\xff'", True),
    ("def f(x): return complex(x, 2)", "assert f(1) == 1 + 2j", True),
    ("def f(x): return range(x)", "assert list(f(3)) == [0, 1, 2]", True),
    ("def f(x): return x[::-1]", "assert f('äß😀') == '😀ßä'", True),
    ("def f(x): return '\\udc80'", "assert f(1) == '\\udc80'", True),
    ("def f(*a, k=1, **n): return (a, k, n)", "assert f(1, 2, k=3, z=4) == ((1, 2), 3, {'z': 4})", True),
    ("def f(x):\n    for i in range(x): yield i", "assert list(f(3)) == [0, 1, 2]", True),
    ("def f():\n    i = 0\n    while True:\n        yield i\n        i += 1", "g = f()\nassert [next(g) for _ in range(3)] == [0, 1, 2]", True),
    ("def f(x): return map(str, x)", "assert list(f([1, 2])) == ['1', '2']", True),
    ("def f(g, x): return g(g(x))", "assert f(lambda v: v * 3, 2) == 18", True),
    ("def f(g, x): return [g(v) for v in x]", "assert f(str, [1, 2]) == ['1', '2']", True),
    ("def f(g):\n    try: g()\n    except ZeroDivisionError: return 'caught'", "assert f(lambda: 1 / 0) == 'caught'", True),
    ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5", True),
    ("from functools import cache\n@cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)", "assert f(50) == 12586269025", True),
    ("def f(n): return n if n < 2 else f(n - 1) + f(n - 2)", "assert f(90) == 2880067194370816120", False),
    ("from collections import OrderedDict, Counter, deque\ndef f(x): return OrderedDict(a=1), Counter(x), deque(x)", "from collections import deque\nassert f('aab') == ({'a': 1}, {'a': 2, 'b': 1}, deque('aab'))", True),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)", "assert f(1) == (1, 2)\nassert f(1).y == 2\nassert not f(1) == (1, 3)", True),
    ("from enum import Enum, IntEnum\nclass C(Enum):\n    R = 'r'\nclass N(IntEnum):\n    ONE = 1\ndef f(x): return C.R", "assert f(1) == C.R\nassert f(1).value == 'r'\nassert N.ONE == 1\nassert f(1) != 'r'", True),
    ("from decimal import Decimal\nfrom fractions import Fraction\ndef f(x): return Decimal('0.10'), Fraction(x, 6)", "from decimal import Decimal\nfrom fractions import Fraction\nassert f(2) == (Decimal('0.1'), Fraction(1, 3))", True),
    ("from datetime import date, timedelta\ndef f(d): return d + timedelta(days=1)", "from datetime import date\nassert f(date(2024, 2, 28)) == date(2024, 2, 29)", True),
    ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n    y: int = 2", "assert P(1) == P(1, 2)\nassert P(1) != P(2)\nassert P(1).y == 2\nassert repr(P(1)) == 'P(x=1, y=2)'", True),
    (COUNTER, "c = Counter(1)\nassert c.up().up(by=3).n == 5\nassert c.twice == 10\nassert Counter.zero().n == 0\nassert c.up() is c\nc.n = 7\nassert c.twice == 14", True),
    (COUNTER, "assert isinstance(Counter(), Counter)\nassert not isinstance(5, Counter)\nassert hasattr(Counter(), 'n')\nassert not hasattr(Counter(), 'm')", True),
    (STACK, "s = Stack()\ns.push(1)\ns.push(2)\nassert len(s) == 2 and list(s) == [1, 2] and 2 in s and 3 not in s and s[0] == 1\nassert s.pop() == 2", True),
    (STACK, "s = Stack()\ntry:\n    s.pop()\nexcept Empty as e:\n    assert str(e) == 'nothing to pop'\nelse:\n    assert False", True),
    (STACK, "assert not Stack()", True),
    (STACK, "s = Stack()\nfor i in range(5): s.push(i)\nassert s[1:3] == [1, 2] and s[::-2] == [4, 2, 0]", True),
    (POINT, "assert hash(Point(1)) == hash(1) and len({Point(1), Point(1), Point(2)}) == 2\nassert {Point(1): 2}[Point(1)] == 2 and {Point: 3}[Point] == 3\nassert [int(p) for s in Point(2).both() for p in s] == [2, -2]", True),
    ("class Point:\n    def __eq__(self, o): return True", "try:\n    {Point()}\nexcept TypeError as e:\n    assert 'unhashable' in str(e)\nelse:\n    assert False", True),
    ("class Point:\n    def __eq__(self, o): return True\n    def __hash__(self): return hash('e07b1c')", "assert Point() in {'e07b1c'}", False),
    (SPY, "seen = []\nPoint(seen.append).one()\nassert seen and seen[-1]", False),
    (POINT, "import copy\na = Point([1])\nb, c = copy.copy(a), copy.deepcopy(a)\na.x = [2]\nassert b is not a and (b.x, c.x) == ([1], [1])", True),
    (POINT + WRAPS, "assert (Point.__doc__, Point(1).__doc__, wraps.__doc__) == ('A point.', 'A point.', 'Wraps.')\nassert Point.__module__ == wraps.__module__ == 'solution'\nassert Point(1).both.__doc__ is None", True),
    (WRAPS, "@wraps\ndef g(a): 'Does nothing.'\nassert (g.__name__, g.__doc__) == ('g', 'Does nothing.')", True),
    (WRAPS, "def g(a, /, b, c=731, *d, e, h='e07b1c', **k): pass\nclass T:\n    def m(self, x): pass\nassert show(g) == '(a, /, b, c=Ellipsis, *d, e, h=Ellipsis, **k)'\nassert show(T().m) == '(x)'\nassert curry(lambda a, b, c: a + b + c)(1)(2)(3) == 6", True),
    (WRAPS, "class T:\n    def m(self, x): got.append(x)\ngot, t, e = [], T(), Events()\ndef h(x): got.append(x)\nfor each in ('h', 't.m', 'got.append'):\n    e.on(eval(each))\n    e.emit(each)\n    e.off(eval(each))\ne.emit(1)\nassert got == ['h', 't.m', 'got.append']", True),
    (VECTOR, "assert V(1, 2) + V(3, 4) == V(4, 6)\nassert V(1, 2) * 3 == V(3, 6)\nassert repr(-V(1, 2)) == 'V(-1, -2)'\nassert abs(V(3, 4)) == 5\nassert sorted([V(2, 0), V(1, 0)])[0].x == 1", True),
    (VECTOR, "assert V(1, 2) == V(1, 3)", False),
    (TREE, "r = Node(1)\nr.left = Node(2)\nr.left.right = Node(3)\nassert depth(r) == 3\nassert r.left.right.v == 3\nassert r.right is None", True),
    ("def f(p):\n    with open('file', 'w') as o: o.write(p)\n    return open('file').read()", "assert f('text') == 'text'", True),
    ("class M:\n    def __enter__(self): return 'in'\n    def __exit__(self, *a): self.out = True", "m = M()\nwith m as v:\n    assert v == 'in'\nassert m.out is True", True),
    ("def f(x): raise KeyError('k')", "try:\n    f(1)\nexcept KeyError as e:\n    assert e.args == ('k',)\nelse:\n    assert False", True),
    ("import json\ndef f(x): return json.loads(x)", "import json\ntry:\n    f('{')\nexcept json.JSONDecodeError:\n    pass\nelse:\n    assert False", True),
    ("def sum(a, b): return a + b", "assert sum(1, 2) == 3", True),
    ("import numpy\ndef f(x): return float(numpy.mean(x))", "assert f([1, 2, 3]) == 2", True),
    ("import threading\ndef f(x):\n    out = []\n    t = threading.Thread(target=lambda: out.append(x)); t.start(); t.join()\n    return out", "assert f(1) == [1]", True),
    ("import random\nrandom.seed(0)\ndef f(x): return random.random()", "assert 0 <= f(1) < 1", True),
    ("if __name__ == '__main__':\n    raise SystemExit\ndef f(x): return 1", "assert f(1) == 1", True),
]  # fmt: skip

HEADER = "import pytest\nfrom solution import *\n"
PYTESTS = [
    ("def f(x): return x + 1", "def test_f(): assert f(1) == 2", True),
    ("def f(x): return x + 1", "def test_f(): assert f(1) == 2\ndef test_g(): assert f(1) == 3", False),
    ("def f(x): return x + 1", "@pytest.mark.parametrize('a, b', [(1, 2), (3, 4)])\ndef test_f(a, b): assert f(a) == b", True),
    ("def f(x): return 0.1 + 0.2", "def test_f(): assert f(1) == pytest.approx(0.3)", True),
    ("def f(x):\n    if x < 0: raise ValueError('x must not be negative')", "def test_f():\n    with pytest.raises(ValueError, match='negative'): f(-1)", True),
    ("def f(x): pass", "def test_f():\n    with pytest.raises(ValueError): f(-1)", False),
    (STACK, "@pytest.fixture\ndef s(): return Stack()\ndef test_s(s):\n    with pytest.raises(Empty, match='nothing'): s.pop()", True),
    ("class Bad(ValueError):\n    def __init__(self, code): super().__init__(f'code {code}'); self.code = code\ndef f(): raise Bad(7)", "def test_f():\n    with pytest.raises(Bad) as e: f()\n    assert e.value.code == 7 and str(e.value) == 'code 7'", True),
    ("def f(x): print('hello', x)", "def test_f(capsys):\n    f(1)\n    assert capsys.readouterr().out == 'hello 1\\n'", True),
    ("def f(x): return x", "class TestF:\n    def setup_method(self): self.x = 3\n    def test_f(self): assert f(self.x) == 3", True),
    ("def f(x): return x", "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self): self.assertEqual(f([1]), [1])", True),
    ("def f(x): return x", "import unittest\nclass TestF(unittest.TestCase):\n    def test_f(self): self.assertEqual(f([1]), [2])", False),
    ("def f(x): return x", "value = 3", False),
    ("def f(x) return x", "def test_f(): assert f(1) == 1", False),
]  # fmt: skip

HUMANEVAL_SETUP = (
    'def double(x):\n    return 2 * x\n\ndef f(x: int) -> int:\n    """Four times."""\n'
)
HUMANEVAL = [
    (
        "def f(x): return 4 * x",
        "def check(candidate):\n    assert candidate(1) == 4\n    assert candidate(2) == double(4)",
        True,
    ),
    ("def f(x): return 3 * x", "def check(candidate):\n    assert candidate(1) == 4", False),
    ("def f(x): return 4 * x", "def check(candidate):\n    assert candidate(1) == f(1) == 4", True),
    ("def g(x): return 4 * x", "def check(candidate):\n    assert candidate(1) == 4", False),
    (
        "def double(x): return x\ndef f(x): return x",
        "def check(candidate):\n    assert candidate(2) == double(4)",
        False,
    ),
    (
        "def f(x): return 4 * x\ndef check(candidate): pass",
        "def check(candidate):\n    assert candidate(1) == 5",
        False,
    ),
]


def make_job(program: str, test: str, **others) -> Job:
    """A job whose tests see all that the program defines, as those of a data set do."""
    names, classes = defined_names(program), defined_classes(program)
    return Job(program, test, names=names, classes=classes, **others)


def list_cases() -> list[tuple[Job, bool]]:
    """Every job of the tables, and whether its tests hold."""
    found = [(make_job(p, t), holds) for p, t, holds in ASSERTS]
    found += [(make_job(p, HEADER + t, kind="pytest"), holds) for p, t, holds in PYTESTS]
    found += [
        (Job(p, t, kind="humaneval", names=("f",), setup=HUMANEVAL_SETUP), holds)
        for p, t, holds in HUMANEVAL
    ]
    return found + [(job, True) for job in list_solutions()]


def list_solutions() -> list[Job]:
    """The right programs of `tests.sandbox.solutions`."""
    found = [
        Job(p, f"def check(candidate):\n    {t}", "humaneval", ("f",), classes=())
        for p, t in HUMANEVAL_SOLUTIONS
    ]
    found += [make_job(p, t, setup="".join(setup)) for p, t, *setup in MBPP_SOLUTIONS]
    return found + [make_job(p, HEADER + t, kind="pytest") for p, t in KODCODE_SOLUTIONS]
