"""Strategies: what is done to a directory of good files."""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DEEP: Any = 0
for _ in range(3000):
    DEEP = [DEEP]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 1000, 10**7, 2**31, 2**63, 10**20, -(10**20), 10**400,
    0.0, 0.5, -0.5, 1e300, math.nan, math.inf, "", "x", "two", "0", "\ud800", "a" * 5000, "../x",
    "\u2028", [], [[]], [None], [1, 2], ["a"], [0] * 1000, {}, {"a": {}}, {"": None},
]  # fmt: skip
TEMPLATES = [
    3, [], [3], {}, {"a": 3}, True, "{{", "{% for %}", "{{ raise_exception('no') }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ ''.__class__.__mro__[1] }}",
    "{{ messages.append(1) }}", "{{ 10 ** 10 ** 10 }}", "{{ 'a' * 10000000000 }}",
    "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{{ messages[9].content }}", "{{ nothing.at.all }}", "{{ 1 / 0 }}", "{{ range(9999999) }}",
    "{% include 'x' %}", "{{ messages | tojson | from_nowhere }}", "", " ", "{% break %}",
]  # fmt: skip
TEXTS = [b"", b"null", b"[]", b"{", b"{}", b"3", b"\xff\xfe", b"NaN", b'"a"', b"[" * 5000, b"\n\n"]


@dataclass(frozen=True)
class Edit:
    """One thing that is done to a file.

    Attributes:
        how: which: set, delete or add a value of a JSON file; cut, flip, append, replace, remove,
            folder, pipe or loop for any file; header for a safetensors file.
        place: which of the values of the file, or which byte.
        name: of a field that is added.
        value: that is set.
    """

    how: str
    place: float = 0.0
    name: str = ""
    value: Any = None


def edits_of(path: Path, names: list[str]) -> st.SearchStrategy[Edit]:
    """Edits of a file; `names` are the fields of its schema."""
    place = st.floats(0, 1, exclude_max=True)
    anyhow = st.sampled_from(("cut", "flip", "replace", "remove", "folder", "pipe", "loop"))
    raw = st.builds(Edit, anyhow, place, value=st.sampled_from(TEXTS))
    value = st.sampled_from(ODD) | st.integers(-5, 2000) | st.text(max_size=5)
    if path.suffix == ".safetensors":
        sizes = st.sampled_from(("dtype", "shape", "data_offsets", ""))
        return raw | st.builds(Edit, st.just("header"), place, sizes, value)
    if path.suffix in (".json", ".jsonl"):
        known = st.sampled_from(names) if names else st.just("x")
        inside = st.builds(
            Edit,
            st.sampled_from(("set", "set", "set", "delete", "add", "add")),
            place,
            known,
            value,
        )
        template = st.builds(Edit, st.just("add"), place, known, st.sampled_from(TEMPLATES))
        if path.name == "tokenizer_config.json":
            chat = st.just("chat_template")
            inside = (
                st.builds(Edit, st.just("add"), place, chat, st.sampled_from(TEMPLATES)) | inside
            )
            return template | inside | inside | raw
        return st.one_of(inside, inside, inside, inside, raw)
    return raw


def places_in(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container and key in a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places_in(value[key], found)
    return found


def edit_value(value: Any, edit: Edit) -> Any:
    """The value with one place of it set, deleted or added."""
    if not isinstance(value, dict | list):
        return edit.value
    found = places_in(value, [])
    if edit.how == "add" or not found:
        if isinstance(value, dict):
            value[edit.name] = edit.value
        return value
    container, key = found[int(edit.place * len(found))]
    if edit.how == "delete":
        del container[key]
    else:
        container[key] = edit.value
    return value


def edit_header(data: bytes, edit: Edit) -> bytes:
    """A safetensors file whose header says something else."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    names = sorted(name for name in header if name != "__metadata__")
    name = names[int(edit.place * len(names))]
    if not edit.name:
        header[f"{name}x"] = header.pop(name)
    elif edit.name == "dtype":
        header[name]["dtype"] = edit.value
    else:
        values = header[name][edit.name]
        values[int(edit.place * 7) % len(values) if values else slice(0, 0)] = edit.value or 0
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def apply_edit(path: Path, edit: Edit) -> None:
    """Does it."""
    if not path.is_file():
        return
    data = path.read_bytes()
    if edit.how in ("remove", "folder", "pipe", "loop"):
        path.unlink()
        if edit.how == "folder":
            path.mkdir()
        elif edit.how == "pipe":
            os.mkfifo(path)
        elif edit.how == "loop":
            path.symlink_to(path.name)
    elif edit.how == "replace":
        path.write_bytes(edit.value)
    elif edit.how == "append":
        path.write_bytes(data + edit.value)
    elif edit.how == "cut":
        path.write_bytes(data[: int(edit.place * len(data))])
    elif edit.how == "flip":
        at = int(edit.place * len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :] if data else b"x")
    elif edit.how == "header":
        try:
            path.write_bytes(edit_header(data, edit))
        except (ValueError, struct.error, TypeError, KeyError, IndexError, RecursionError):
            path.write_bytes(b"")  # damaged by an earlier edit
    else:
        edit_json(path, data, edit)


def edit_json(path: Path, data: bytes, edit: Edit) -> None:
    """Edits a JSON file, or one line of a JSON-lines file."""
    try:
        if path.suffix == ".json":
            path.write_text(json.dumps(edit_value(json.loads(data), edit)), encoding="utf-8")
            return
        lines = data.decode().splitlines()
        if lines:
            at = int(edit.place * len(lines))
            lines[at] = json.dumps(edit_value(json.loads(lines[at]), edit))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (ValueError, RecursionError):
        path.write_bytes(b"{")  # damaged by an earlier edit
