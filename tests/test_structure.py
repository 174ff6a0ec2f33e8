"""The shape of the code: short functions, short parameter lists, imports that go one way."""

import ast
from pathlib import Path

import unmask

ROOT = Path(unmask.__file__).parent
# Calls that users make directly: each option of theirs is a parameter.
PUBLIC_FACES = {
    "generate",
    "stream",
    "decode_steps",
    "evaluate",
    "load_model",
    "Model.proposal",
    "infill_lengths",
    "reveal",
    "UnmaskScheduler.step",
    "UnmaskLM.__init__",
}
# What a package may import, lowest first; a package imports from lower rows only.
FLOORS = (
    {
        "errors",
        "extras",
        "lazy",
        "rng",
        "files",
        "tensors",
        "provenance",
        "transfer",
        "processes",
        "sources",
        "settings",
        "memory",
        "sandbox",
    },
    {"models", "policies"},
    {"decoding"},
    {"scoring"},
    {"tasks"},
    {"evaluation"},
    {"training", "pretraining"},
    {"analysis", "integrations", "serving"},
    {"cli"},
)


def modules():
    """Every module of the package: name, path and syntax tree."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("unmask", *(part for part in parts if part != "__init__")))
        yield name, path, ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    """Functions and methods with their qualified names."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{name}", f) for name, f in functions(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node


def lines_of_code(function):
    """Lines of a function's body, its docstring not counted."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_fit_one_screen():
    long = {
        f"{module}.{name}": lines
        for module, _, tree in modules()
        for name, function in functions(tree)
        if (lines := lines_of_code(function)) > 60
    }
    assert not long


def test_parameter_lists_are_short():
    long = {}
    for module, _, tree in modules():
        for name, function in functions(tree):
            given = function.args
            names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names = [n for n in names if n not in ("self", "cls")]
            if len(names) > 8 and name not in PUBLIC_FACES:
                long[f"{module}.{name}"] = len(names)
    assert not long


def imports(name, path, tree):
    """Modules of the package that a module imports when it is loaded."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def top(nodes):
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                continue
            yield node
            for field in ("body", "orelse", "handlers", "finalbody"):
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from top(getattr(node, field, []))

    for node in top(tree.body):
        if isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            yield from ((source, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def edges():
    """Which module imports which, names from a package resolved to the module that has them."""
    known = {name for name, _, _ in modules()}
    found = {}
    for name, path, tree in modules():
        targets = set()
        for source, item in imports(name, path, tree):
            if source.startswith("unmask"):
                targets.add(f"{source}.{item}" if f"{source}.{item}" in known else source)
        found[name] = targets - {name}
    return found


def test_imports_go_one_way():
    floor = {package: i for i, row in enumerate(FLOORS) for package in row}
    wrong = []
    for name, targets in edges().items():
        own = name.split(".")[1] if "." in name else ""
        if not own or ".child" in name:
            continue
        for target in targets:
            other = target.split(".")[1] if "." in target else ""
            if other and other != own and floor[other] >= floor[own] and floor[own] > 0:
                wrong.append((name, target))
    beside = {("policies", "models")}
    wrong = [(a, b) for a, b in wrong if (a.split(".")[1], b.split(".")[1]) not in beside]
    assert not wrong


def test_no_modules_import_each_other():
    graph = edges()
    done, path = set(), []

    def visit(name):
        if name in path:
            raise AssertionError(" → ".join([*path[path.index(name) :], name]))
        if name in done or name not in graph:
            return
        path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(path.pop())

    for name in sorted(graph):
        visit(name)
