"""Attacks on the sandbox: each is a program whose tests must not pass.

`{outside}` is a directory that the program must not change, `{secret}` a file that it must not
read, `{port}` a port on which someone listens, `{parent}` the process that started the check,
`{variable}` an environment variable of that process, `{child}` the directory of the sandbox's own
files. A program that gets what it wants from one of
the first six groups defines `f` so that its tests pass; the others try to pass without a right `f`.
"""

import textwrap

from unmask.sandbox import Job

TEST = "assert f(1) == 'got it'\nassert f(2) == 'got it'"
# what no honest program of the table knows
WRONG = "assert f(20) == 'e07b1c'\nassert f(21) == 'd01f9a'"


def tries(code: str) -> str:
    """A program that does `code`, and whose `f` is right only if that did not fail."""
    return f"done = False\ntry:\n{textwrap.indent(textwrap.dedent(code).strip(), '    ')}\n    done = True\nexcept BaseException as e:\n    pass\ndef f(x): return 'got it' if done else 'not'\n"


SYSCALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\ndef sys(*a):\n    r = libc.syscall(*a)\n    if r < 0: raise OSError(ctypes.get_errno())\n    return r\n"

# Makes threads in a loop of machine code (x86-64) that asks nothing of Python or libc: clone with the
# flags of a thread, and each thread only pauses.
BARE_THREADS = """import ctypes, mmap
code = bytes.fromhex("4989f8 b838000000 bf000f0500 4c89c6 31d2 4531d2 0f05 85c0 7402 ebe6 b822000000 0f05 ebf7")
page = mmap.mmap(-1, 4096, prot=7)
page.write(code)
stack = ctypes.create_string_buffer(4096)
start = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
start(ctypes.addressof(stack) + 2048)
"""
# The sandbox's own files, loaded by the program where it may.
CHILD_FILES = "import sys\ntry:\n    sys.path.insert(0, '{child}')\n    import checker, wire, jail\nexcept Exception: pass\n"

# (name, program, tests). Those with TEST pass only if the attack works.
ATTACKS: list[tuple[str, str, str]] = [
    ("fork", tries("import os\nif os.fork() == 0: os._exit(0)"), TEST),
    ("fork bomb", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n", TEST),
    ("fork by bare system call", tries(SYSCALL + "if sys(57) == 0: sys(60, 0)"), TEST),
    ("clone3", tries(SYSCALL + "sys(435, ctypes.create_string_buffer(88), 88)"), TEST),
    ("subprocess", tries("import subprocess\nsubprocess.run(['/bin/true'], check=True)"), TEST),
    ("os.system", tries("import os\nassert os.system('true') == 0"), TEST),
    ("exec of another program", tries("import os\nos.execv('/bin/true', ['true'])"), TEST),
    ("multiprocessing", tries("import multiprocessing\np = multiprocessing.Process(target=print); p.start(); p.join()"), TEST),
    ("thread bomb", "import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(99,)).start()\n    except Exception: pass\n", TEST),
    ("thread bomb by bare system calls", BARE_THREADS, TEST),
    ("more threads than are allowed", tries("import threading, time\nthreading.stack_size(2**16)\nfor _ in range(80): threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\ntime.sleep(0.5)"), TEST),
    ("memory bomb", tries("b = bytearray(4 * 2**30)"), TEST),
    ("memory bomb by growing", "x = []\nwhile True: x.append(bytearray(2**20))\n", TEST),
    ("memory bomb in the answer", "def f(x): return 'x' * (512 * 2**20)", TEST),
    ("exponential number", "def f(x): return 9**9**9", TEST),
    ("deep recursion in the answer", "def f(x):\n    y = []\n    for _ in range(100000): y = [y]\n    return y", TEST),
    ("endless loop", "while True: pass", TEST),
    ("endless loop in the call", "def f(x):\n    while True: pass", TEST),
    ("sleep", "import time\ntime.sleep(1000)", TEST),
    ("sleep that ignores signals", "import signal, time\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: time.sleep(9)", TEST),
    ("endless output", "while True: print('x' * 100000)", TEST),
    ("endless output past Python", "import os\nwhile True: os.write(1, b'x' * 100000); os.write(2, b'x' * 100000)", TEST),
    ("flood of the pipes", "import os\nwhile True:\n    for fd in range(3, 64):\n        try: os.write(fd, b'[\"return\"]' * 10000)\n        except OSError: pass\n", TEST),
    ("large file", tries("import os\nf = open('big', 'wb')\nfor _ in range(64): f.write(bytes(2**20))\nf.flush()"), TEST),
    ("many files", "i = 0\nwhile True:\n    open(str(i), 'w').write('x' * 4096); i += 1", TEST),
    ("deep directories", "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')", TEST),
    ("file write outside", tries("open('{outside}/new', 'w').write('x')"), TEST),
    ("file write outside through a link", tries("import os\nos.symlink('{outside}', 'link'); open('link/new', 'w').write('x')"), TEST),
    ("file write outside through a hard link", tries("import os\nos.link('{secret}', 'link'); open('link', 'w').write('x')"), TEST),
    ("file write through /proc/self/cwd", tries("open('/proc/self/cwd/../../new', 'w').write('x')"), TEST),
    ("removing a file outside", tries("import os\nos.remove('{secret}')"), TEST),
    ("renaming a file outside", tries("import os\nos.rename('{secret}', '{outside}/other')"), TEST),
    ("truncating a file outside", tries("import os\nos.truncate('{secret}', 0)"), TEST),
    ("changing a file's mode outside", tries("import os\nos.chmod('{secret}', 0o777)"), TEST),
    ("changing a file's times outside", tries("import os\nos.utime('{secret}', (0, 0))"), TEST),
    ("reading a file outside", tries("assert open('{secret}').read()"), TEST),
    ("listing a directory outside", tries("import os\nassert os.listdir('{outside}')"), TEST),
    ("reading /etc/passwd", tries("assert open('/etc/passwd').read()"), TEST),
    ("mapping memory for everyone (/dev/shm)", tries("open('/dev/shm/new', 'w').write('x')"), TEST),
    ("a terminal's input (/dev/tty)", tries("open('/dev/tty')"), TEST),
    ("network connect", tries("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"), TEST),
    ("network by bare system call", tries(SYSCALL + "sys(41, 2, 1, 0)"), TEST),
    ("UDP", tries("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"), TEST),
    ("Unix socket", tries("import socket\nsocket.socket(socket.AF_UNIX).bind('s')"), TEST),
    ("raw socket", tries("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)"), TEST),
    ("io_uring", tries(SYSCALL + "sys(425, 8, ctypes.create_string_buffer(120))"), TEST),
    ("32-bit system calls (x32)", tries(SYSCALL + "sys(0x40000000 + 41, 2, 1, 0)"), TEST),
    ("environment inherited", tries("import os\nassert '{variable}' in os.environ"), TEST),
    ("environment of the parent (/proc)", tries("assert open('/proc/{parent}/environ').read()"), TEST),
    ("environment of every process (/proc)", tries("import glob\nassert [open(p).read() for p in glob.glob('/proc/*/environ')]"), TEST),
    ("memory of the parent (process_vm_readv)", tries(SYSCALL + "b = ctypes.create_string_buffer(64)\nsys(310, {parent}, b, 0, b, 0, 0)"), TEST),
    ("memory of the parent (/proc)", tries("open('/proc/{parent}/mem', 'rb')"), TEST),
    ("ptrace of the parent", tries(SYSCALL + "sys(101, 16, {parent}, 0, 0)"), TEST),
    ("descriptor of the parent (pidfd_getfd)", tries(SYSCALL + "sys(438, sys(434, {parent}, 0), 1, 0)"), TEST),
    ("descriptors inherited", tries("import os\nn = 0\nfor fd in range(3, 64):\n    try: os.fstat(fd); n += 1\n    except OSError: pass\nassert n > 3  # two pipes and its input"), TEST),
    ("killing the parent", tries("import os\nos.kill({parent}, 9)"), TEST),
    ("killing everyone", tries("import os\nos.kill(-1, 9)"), TEST),
    ("killing the process group", tries("import os\nos.killpg(0, 9)"), TEST),
    ("killing the parent by tgkill", tries(SYSCALL + "sys(234, {parent}, {parent}, 9)"), TEST),
    ("stopping the parent by a pidfd", tries(SYSCALL + "sys(424, sys(434, {parent}, 0), 19, 0, 0)"), TEST),
    ("disabling its own limits", tries("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"), TEST),
    ("disabling the limit on CPU time", tries("import resource\nresource.prlimit(0, resource.RLIMIT_CPU, (-1, -1))"), TEST),
    ("limits of the parent", tries("import resource\nresource.prlimit({parent}, resource.RLIMIT_AS, (1, 1))"), TEST),
    ("raising its priority", tries("import os\nos.setpriority(os.PRIO_PROCESS, 0, -20)"), TEST),
    ("another filter", tries(SYSCALL + "assert libc.prctl(22, 1, 0, 0, 0) == 0"), TEST),
    ("leaving the directory (chroot)", tries("import os\nos.chroot('.')"), TEST),
    ("new namespaces", tries(SYSCALL + "sys(272, 0x10000000)"), TEST),
    ("mounting", tries(SYSCALL + "sys(165, b'none', b'.', b'tmpfs', 0, 0)"), TEST),
    ("becoming root", tries("import os\nos.setuid(0); os.setresuid(0, 0, 0)"), TEST),
    ("kernel keys", tries(SYSCALL + "sys(250, 0, -3, 0)"), TEST),
    ("BPF", tries(SYSCALL + "sys(321, 0, ctypes.create_string_buffer(72), 72)"), TEST),
    ("shared memory of System V", tries(SYSCALL + "sys(29, 0, 4096, 0o1666)"), TEST),
    ("crash", "import ctypes\nctypes.string_at(0)", TEST),
    ("abort", "import os\nos.abort()", TEST),
    # Forging a pass.
    ("exit with 0", "import sys\nsys.exit(0)", WRONG),
    ("exit with 0 past Python", "import os\nos._exit(0)", WRONG),
    ("exit in the call", "import os\ndef f(x): os._exit(0)", WRONG),
    ("SystemExit in the call", "def f(x): raise SystemExit(0)", WRONG),
    ("KeyboardInterrupt in the call", "def f(x): raise KeyboardInterrupt", WRONG),
    ("printing a pass", "print('passed'); print('1 passed in 0.01s')\nprint('{{\"failure\": \"\"}}')\ndef f(x): print('{{\"failure\": \"\"}}')", WRONG),
    ("writing the verdict to every descriptor", "import os\nfor fd in range(64):\n    try: os.write(fd, b'{{\"failure\": \"\"}}\\n')\n    except OSError: pass\nos._exit(0)", WRONG),
    ("always equal", "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    def __hash__(self): return 0\ndef f(x): return E()", WRONG),
    ("always equal, a string", "class E(str):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(x): return E()", WRONG),
    ("always equal, by its class", "class M(type):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\n    def __instancecheck__(self, o): return True\nclass E(metaclass=M): pass\ndef f(x): return E", WRONG),
    ("answer of the right type by __class__", "class E:\n    __class__ = str\n    def __eq__(self, o): return True\ndef f(x): return E()", WRONG),
    ("overriding assert's error", "import builtins\nclass A(Exception):\n    def __init__(self, *a): pass\nbuiltins.AssertionError = A\ndef f(x): return 0", WRONG),
    ("patching the checker in memory", "import gc, sys\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'run_tests' in o: o['run_tests'] = lambda *a: ''\ndef f(x): return 0", WRONG),
    ("patching the checker's module", CHILD_FILES + "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'run_tests'): m.run_tests = lambda *a: ''\n    if hasattr(m, 'Checker'): m.Checker.receive_names = lambda *a: {{}}\ndef f(x): return 0", WRONG),
    ("reading the tests from its stack", "import sys, gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict):\n            for v in list(o.values()):\n                if isinstance(v, str) and 'assert f(' in v and 'gc' not in v: return v.split(\"'\")[1]\n    return 0", WRONG),
    ("reading the tests from its input", "import os, glob\ndef f(x):\n    for fd in range(64):\n        try:\n            t = os.pread(fd, 9999, 0).decode()\n            if 'assert f(' in t: return t.split(\"'\")[1]\n        except Exception: pass\n    return 0", WRONG),
    ("reading the tests from the checker's directory", "import glob\ndef f(x):\n    for p in glob.glob('../**', recursive=True) + glob.glob('/tmp/unmask*/**', recursive=True):\n        try:\n            t = open(p).read()\n            if 'assert f(' in t: return t.split(\"'\")[1]\n        except OSError: pass\n    return 0", WRONG),
    ("breaking the protocol", "import os\nclass E: pass\ndef f(x):\n    for fd in range(3, 9):\n        try: os.write(fd, b'[\"return\", \"\", [], [\"object\", 99999]]\\n' * 5)\n        except OSError: pass\n    return 0", WRONG),
    ("an unhashable, endless or odd answer", "def f(x):\n    while True: yield 'e07b1c'", WRONG),
    ("breaking out by a callback", "def f(x):\n    return x.__globals__['__builtins__']['exec']('1')", "assert f(lambda: 0) == 'e07b1c'"),
    ("a callback's checker", "def f(x):\n    x.__self__.failure = ''\n    return 0", "assert f([].append) == 'e07b1c'"),
    ("shadowing what the tests use", "def isinstance(*a): return True\ndef abs(x): return 0\nclass math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 9.0", "import math\nassert isinstance(f(1), str) or math.isclose(f(1), 3.25) or abs(f(1) - 3.25) < 1e-9"),
    ("shadowing a name the tests forgot", "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 9.0", "assert math.isclose(f(1), 3.25)"),
    ("eval in the checker", "def g(x): return x\ndef f(x): return eval", "assert f(0)(f(1)('__import__(\"os\")').name) == 'e07b1c'"),
    ("a function of Python's by its name", "import sys\nclass E: pass\nsys.modules['program'].Program.pack_object = lambda self, v: ['named', 'builtins', 'eval']\ndef f(x): return E()", "assert f(0)('1 + 1') != 2 and False\nassert f(0)('3') == 3"),
    ("raising what the tests raise", "def f(x): raise AssertionError('all fine')", WRONG),
    ("changing the tests' list", "def f(x):\n    x.clear()\n    return 0", "want = [1, 2]\nassert f(want) == want"),
]  # fmt: skip

PYTEST_WRONG = "import pytest\nfrom solution import *\n\ndef test_f():\n    assert f(20) == 'e07b1c'\n\ndef test_g():\n    with pytest.raises(ValueError):\n        f(-1)\n"
PYTEST_ATTACKS: list[tuple[str, str]] = [
    ("pytest: exit with 0", "import os\ndef f(x): os._exit(0)"),
    ("pytest: shadowing pytest", "class pytest:\n    def raises(*a): return open('/dev/null')\ndef f(x): return 'e07b1c'"),
    ("pytest: skipping", "import unittest\ndef f(x): raise unittest.SkipTest('no')"),
    ("pytest: pytest's own exceptions", "import pytest\ndef f(x): pytest.skip('no', allow_module_level=True)"),
    ("pytest: pytest.exit", "import pytest\ndef f(x): pytest.exit('done', 0)"),
    ("pytest: a conftest.py", "open('conftest.py', 'w').write('def pytest_runtest_makereport(): pass')\ntry: open('../checker/conftest.py', 'w').write('x')\nexcept OSError: pass\ndef f(x): return 0"),
    ("pytest: always equal", "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()"),
    ("pytest: no tests left", "test_f = test_g = None\ndef f(x): return 0"),
    ("pytest: patching pytest", "import _pytest.runner\n_pytest.runner.call_and_report = lambda *a, **k: None\ndef f(x): return 0"),
]  # fmt: skip


def fill_places(program: str, places: dict) -> str:
    """A program of the tables with its places filled in."""
    for name, value in places.items():
        program = program.replace(f"{{{name}}}", str(value))
    return program.replace("{{", "{").replace("}}", "}")


NAMES = [name for name, *_ in (*ATTACKS, *PYTEST_ATTACKS)]


def list_attacks(places: dict) -> list[Job]:
    """The job of every attack, in the order of `NAMES`."""
    found = [Job(fill_places(p, places), test, names=("f",)) for _, p, test in ATTACKS]
    found += [
        Job(fill_places(p, places), PYTEST_WRONG, kind="pytest", names=("f",))
        for _, p in PYTEST_ATTACKS
    ]
    return found
