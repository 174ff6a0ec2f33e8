"""`unmask doctor`"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from packaging.requirements import Requirement

Status = Literal["ok", "missing", "broken"]
GIB = 2**30
# What a process does that asks for a user namespace and a mount namespace of its own.
UNSHARE = "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x10020000) != 0)"
LANDLOCK_CREATE_RULESET = 444


@dataclass(frozen=True)
class Config:
    """Say what works on this machine: versions, devices, memory, sandbox, caches, extras, models.
    The exit code is 1 if something that unmask cannot do without is broken, else 0."""

    json: bool = False
    """Print JSON instead of lines."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: what it belongs to.
        name: of the thing.
        status: "ok"; "missing", where only some commands need it; or "broken".
        detail: what was found, and what to do if it is not there.
    """

    group: str
    name: str
    status: Status
    detail: str


def run(config: Config) -> int:
    """Prints the findings; returns the exit code."""
    findings = [
        finding
        for look in (find_versions, find_machine, find_sandbox, find_caches, find_models)
        for finding in look()
    ]
    if config.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        group = ""
        for each in findings:
            if each.group != group:
                group = each.group
                print(group)
            print(f"  {each.status:<8}{each.name:<30}{each.detail}")
    broken = [finding.name for finding in findings if finding.status == "broken"]
    if not config.json:
        print(f"broken: {', '.join(broken)}" if broken else "nothing is broken")
    return 1 if broken else 0


def find_versions() -> list[Finding]:
    """Python, this package, what it cannot do without, and what its extras need."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    words = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    right = sys.version_info >= (3, 11)
    found = [Finding("versions", "python", "ok" if right else "broken", words)]
    try:
        found.append(Finding("versions", "unmask", "ok", version("unmask")))
        needed = [Requirement(text) for text in requires("unmask") or ()]
    except PackageNotFoundError:
        detail = "runs from its source and is not installed; pip install -e ."
        return [*found, Finding("versions", "unmask", "missing", detail)]
    extras: dict[str, list[Requirement]] = {}
    for requirement in needed:
        marker = str(requirement.marker or "")
        extra = marker.partition("extra ==")[2].strip(" \"'")
        if extra:
            extras.setdefault(extra, []).append(requirement)
        elif requirement.marker is None or requirement.marker.evaluate():
            found.append(Finding("versions", requirement.name, *version_of(requirement, "broken")))
    return [*found, *find_extras(extras)]


def find_extras(extras: Mapping[str, Sequence[Requirement]]) -> list[Finding]:
    """Of each extra the packages and other extras that it asks for, and which are not there."""

    def find_parts(extra: str) -> tuple[list[str], list[str]]:
        names, absent = [], []
        for requirement in extras.get(extra, ()):
            if requirement.name == "unmask":  # an extra that is made of others
                parts = sorted(requirement.extras)
                names += parts
                absent += [part for part in parts if find_parts(part)[1]]
                continue
            names.append(requirement.name)
            if version_of(requirement, "missing")[0] != "ok":
                absent.append(requirement.name)
        return names, absent

    found = []
    for extra in sorted(extras):
        names, absent = find_parts(extra)
        detail = f'{", ".join(absent)} not there; pip install "unmask[{extra}]"'
        status: Status = "missing" if absent else "ok"
        found.append(Finding("extras", extra, status, detail if absent else ", ".join(names)))
    return found


def version_of(requirement: Requirement, otherwise: Status) -> tuple[Status, str]:
    """Whether a package is there in a version that will do, and which one it is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version(requirement.name)
    except PackageNotFoundError:
        return otherwise, f"is not installed; pip install '{requirement.name}'"
    if requirement.specifier.contains(own, prereleases=True):
        return "ok", own
    return otherwise, f"{own}, and {requirement.specifier} is needed"


def find_machine() -> list[Finding]:
    """Devices, memory and threads."""
    import torch

    from unmask.memory import free_memory
    from unmask.processes import computes_bf16
    from unmask.sandbox import worker_count

    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        words = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        found.append(Finding("machine", f"cuda:{number}", "ok", words))
    if not found:
        words = "no GPU that this torch can use; models run on the CPU"
        found.append(Finding("machine", "cuda", "missing", words))
    words = "computes bfloat16"
    if not computes_bf16(torch.device("cpu")):
        words = "computes no bfloat16 with this torch; models are loaded in float32"
    found.append(Finding("machine", "CPU", "ok", words))
    free = free_memory()
    words = "unknown" if free is None else f"{free / GIB:.1f} GiB free"
    found.append(Finding("machine", "memory", "ok", words))
    threads = os.environ.get("OMP_NUM_THREADS")
    words = f"{torch.get_num_threads()} of torch on {worker_count()} usable CPUs"
    words += f", OMP_NUM_THREADS={threads}" if threads else ""
    return [*found, Finding("machine", "threads", "ok", words)]


def find_sandbox() -> list[Finding]:
    """What of the sandbox works here. Only tasks that run programs need it."""
    import ctypes

    from unmask.errors import UnmaskError
    from unmask.sandbox import require_sandbox

    if platform.system() != "Linux":
        return [Finding("sandbox", "sandbox", "missing", "needs Linux; docs/security.md")]
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    own = subprocess.run([sys.executable, "-S", "-c", UNSHARE], capture_output=True)
    parts: tuple[tuple[str, bool, str, str], ...] = (
        ("landlock", version > 0, f"version {version}", "needs Linux 5.13 or later"),
        ("seccomp", actions.exists(), "filters", "needs a kernel with seccomp filters"),
        ("namespaces", own.returncode == 0, "own user namespaces", "none for unprivileged users"),
    )
    found = [
        Finding("sandbox", name, "ok" if works else "missing", words if works else reason)
        for name, works, words, reason in parts
    ]
    try:
        require_sandbox()
    except UnmaskError as error:
        return [*found, Finding("sandbox", "programs are confined", "missing", str(error))]
    return [*found, Finding("sandbox", "programs are confined", "ok", "one was run and passed")]


def find_caches() -> list[Finding]:
    """Where models from the Hub are kept, and whether that can be written."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE)
    size = sum(file.stat().st_size for file in home.glob("*/blobs/*") if file.is_file())
    first = next((path for path in (home, *home.parents) if path.exists()), home)
    writable = os.access(first, os.W_OK)
    words = f"{home}, {size / GIB:.2f} GiB" + ("" if home.exists() else ", not made yet")
    reason = f"{words}; {first} cannot be written: set HF_HOME to a directory that can"
    status: Status = "ok" if writable else "missing"
    found = [Finding("caches", "hugging face", status, words if writable else reason)]
    offline = constants.HF_HUB_OFFLINE
    words = "HF_HUB_OFFLINE is set: nothing is downloaded" if offline else "downloads are allowed"
    return [*found, Finding("caches", "hub", "ok", words)]


def find_models() -> list[Finding]:
    """Whether each embedded model is loaded and decodes, and which policies there are."""
    from unmask.models import embedded_models
    from unmask.policies import HEURISTICS, embedded_policies

    found = [try_model(name) for name in embedded_models()]
    found += [try_policy(name) for name in embedded_policies()]
    return [*found, Finding("policies", "heuristics", "ok", ", ".join(HEURISTICS))]


def try_policy(name: str) -> Finding:
    """Loads a policy that ships."""
    from unmask.errors import UnmaskError
    from unmask.policies import load_policy

    try:
        metadata = getattr(load_policy(name), "metadata", {})
    except UnmaskError as error:
        return Finding("policies", f"policy {name}", "broken", f"{error}; install unmask anew")
    return Finding("policies", f"policy {name}", "ok", f"trained at L = {metadata.get('length')}")


def try_model(name: str) -> Finding:
    """Loads an embedded model and answers one prompt with it."""
    from unmask.decoding import DecodeOptions, decode
    from unmask.errors import UnmaskError
    from unmask.models import load_model
    from unmask.policies import load_policy

    try:
        model = load_model(name)
        prompt = [token for token in range(model.vocabulary) if token not in model.never_set][:1]
        options = DecodeOptions(max_new_tokens=model.attention_block or 4)
        decode(model, [prompt], load_policy("threshold:0.9"), options)
    except (UnmaskError, OSError, RuntimeError, ValueError) as error:
        return Finding("models", name, "broken", f"{error}; install unmask anew")
    words = f"L = {model.max_new_tokens}, {model.vocabulary} tokens"
    return Finding("models", name, "ok", words)
