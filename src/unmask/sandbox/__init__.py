"""The sandbox: runs programs that a model wrote, confined, against tests that they cannot see."""

from unmask.sandbox.check import (
    Job,
    Limits,
    Outcome,
    Stop,
    check,
    check_all,
    require_pytest,
    require_sandbox,
    worker_count,
)
from unmask.sandbox.names import defined_classes, defined_names, standard_imports

__all__ = [
    "Job",
    "Limits",
    "Outcome",
    "Stop",
    "check",
    "check_all",
    "defined_classes",
    "defined_names",
    "require_pytest",
    "require_sandbox",
    "standard_imports",
    "worker_count",
]
