"""What the tests of a program may use of it: read off a right solution's text."""

from __future__ import annotations

import ast
import sys


def defined_names(solution: str) -> tuple[str, ...]:
    """The names that a right solution binds at its top, imports aside: what the tests of a program
    may see of it."""
    names = []
    for node in parse_statements(solution):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return tuple(names)


# What makes a class, beside a statement.
CLASS_MAKERS = {"namedtuple", "NamedTuple", "TypedDict", "make_dataclass", "type"}
CLASS_MAKERS |= {"Enum", "IntEnum", "StrEnum", "Flag", "IntFlag"}


def defined_classes(solution: str) -> tuple[str, ...]:
    """Which of `defined_names` are classes, or objects that are made of one at the top."""
    names: list[str] = []
    for node in parse_statements(solution):
        if isinstance(node, ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            maker = node.value.func
            last = maker.attr if isinstance(maker, ast.Attribute) else getattr(maker, "id", "")
            if last in CLASS_MAKERS or last in names:
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return tuple(names)


def standard_imports(solution: str) -> str:
    """The imports of Python's own modules at the top of a right solution, for tests that rely on
    them."""
    lines = []
    for node in parse_statements(solution):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        if all(module.split(".")[0] in sys.stdlib_module_names for module in modules):
            lines.append(ast.unparse(node) + "\n")
    return "".join(lines)


def parse_statements(text: str) -> list[ast.stmt]:
    """The statements at the top of a text; none where it does not parse."""
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError):
        return []
