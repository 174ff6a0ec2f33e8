"""The rule of the sandbox's inside: the standard library, and its own five files."""

import ast
import sys

from tests.sandbox.runs import CHILD

FILES = {"__main__.py", "jail.py", "wire.py", "program.py", "checker.py"}
# Tests of kind "pytest" need pytest: one import, in one function of the process with the tests,
# that no other kind of check runs.
EXCEPTIONS = {("checker.py", "import_pytest", "pytest")}


def list_imports(tree):
    """Every import of a file: the function it stands in ("" at the top) and the module."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.function = node.name if isinstance(node, ast.FunctionDef) else node.function
        if isinstance(node, ast.Import):
            yield from ((node.function, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.function, "." * node.level + (node.module or "")


def test_the_inside_imports_the_standard_library_and_itself_only():
    assert {path.name for path in CHILD.iterdir() if path.suffix == ".py"} == FILES
    allowed = sys.stdlib_module_names | {name.removesuffix(".py") for name in FILES}
    others = set()
    for name in FILES:
        tree = ast.parse((CHILD / name).read_text(encoding="utf-8"))
        tree.function = ""
        others |= {
            (name, function, module)
            for function, module in list_imports(tree)
            if module.split(".")[0] not in allowed
        }
    assert others == EXCEPTIONS


def test_the_outside_needs_no_other_part_of_the_package():
    """Above all not the tasks, whose answers it checks."""
    for path in CHILD.parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tree.function = ""
        for _, module in list_imports(tree):
            own = module.startswith(("unmask.sandbox", "unmask.errors"))
            assert own or module.split(".")[0] in sys.stdlib_module_names, (path.name, module)
