"""Wheels of other programs, downloaded by pip without their dependencies and unpacked; for tests
against their real code.

They are kept in `$UNMASK_WHEELS`, or ~/.cache/unmask-tests. Where the registry is out of reach, the
tests are skipped. With `UNMASK_ENGINES=newest` the newest versions are taken, anew each time, and
what cannot be downloaded is an error.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

NEWEST = os.environ.get("UNMASK_ENGINES") == "newest"


def cache():
    return Path(os.environ.get("UNMASK_WHEELS") or Path.home() / ".cache" / "unmask-tests")


def unpacked_wheel(name, version, parts):
    """The directory of an unpacked wheel; `parts` are the beginnings of the paths that are kept."""
    wanted = name if NEWEST else f"{name}=={version}"
    place = cache() / wanted.replace("==", "-")
    if place.exists() and not NEWEST:
        return place
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as directory:
        options = ["--no-deps", "--only-binary", ":all:", "--timeout", "10", "--retries", "1"]
        options += ["--dest", directory]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *options, wanted]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = f"{wanted} cannot be downloaded: {result.stderr.strip().splitlines()[-1]}"
            pytest.fail(reason) if NEWEST else pytest.skip(reason)
        (wheel,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [n for n in archive.namelist() if n.startswith(parts) or ".dist-info/" in n]
            archive.extractall(Path(directory) / "whole", members)
        if NEWEST:
            shutil.rmtree(place, ignore_errors=True)
        try:
            (Path(directory) / "whole").rename(place)
        except OSError:  # another process was first
            assert place.exists()
    return place


def sglang_wheel():
    """SGLang's own files around its decoding algorithms."""
    parts = ("sglang/srt/dllm/", "sglang/srt/plugins/", "sglang/srt/environ.py")
    return unpacked_wheel("sglang", "0.5.23", parts)
