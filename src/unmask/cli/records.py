"""Records that commands read and write: JSON lines, and tables of them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError
from unmask.files import (
    check_file,
    check_writable,
    decode_lines,
    is_stream,
    write_bytes,
    write_text,
)

OTHER_TABLES = (".tsv", ".xls", ".xlsx", ".ods", ".feather", ".arrow", ".orc", ".h5", ".sqlite")


def read_values(path: Path, forms: str, kind: str) -> list[tuple[str, Any]]:
    """The values of a JSON-lines file, each with a name of its place; `-` is standard input.

    Args:
        path: of the file.
        forms: what a line should hold, for the sentence of an error.
        kind: what the file is called in a sentence.

    Raises:
        UnmaskError: if it cannot be read, or a line is not JSON of whole characters.
    """
    name = "standard input" if str(path) == "-" else str(path)
    if str(path) != "-":
        check_file(path, "give a JSON-lines file")
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        lines = decode_lines(data)
    except (OSError, ValueError) as error:
        raise UnmaskError(
            f"{kind} {name} cannot be read ({error}); give a JSON-lines file"
        ) from None
    values = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number} of {name}"
        try:
            value = json.loads(line)
            line.encode()  # a lone surrogate is no character, and no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise UnmaskError(f"{where} is not JSON of whole characters; {forms}") from None
        values.append((where, value))
    return values


def check_output(path: Path | None) -> None:
    """Refuses an output file that exists, has no directory or one that takes no files, is named as
    a kind of table that is not written, or needs a library that is missing.

    Raises:
        UnmaskError: if so.
    """
    if path is None:
        return
    if path.exists() and not is_stream(path):
        raise UnmaskError(f"output file {path} already exists; name a new one or remove it")
    if not path.parent.is_dir():
        raise UnmaskError(
            f"output file {path} is in no existing directory; make {path.parent} first"
        )
    check_writable(path)
    if path.suffix.lower() in OTHER_TABLES:
        raise UnmaskError(
            f"output file {path} would be a table of a kind that is not written; name a file that "
            "ends in .csv, .parquet or .jsonl"
        )
    if path.suffix.lower() == ".parquet":
        from importlib.util import find_spec

        if find_spec("pyarrow") is None:
            raise UnmaskError(
                f"output file {path} needs pyarrow, which is not installed; pip install pyarrow, "
                "or name a file that ends in .jsonl or .csv"
            )


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes JSON lines, or a table where the file's name ends in .csv or .parquet; chats are JSON
    there."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_text(path, "".join(lines))
        return
    rows = [{**record, "prompt": prompt_cell(record["prompt"])} for record in records]
    if kind == ".parquet":
        import pyarrow
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
        write_bytes(path, buffer.getvalue())
        return
    table = io.StringIO()
    # A record ends with \n, as every other file here; cells with line breaks are in quotes.
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def prompt_cell(prompt: Any) -> str:
    """A prompt as one cell of a table."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
