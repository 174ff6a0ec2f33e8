"""`unmask compare-fronts`"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from unmask.errors import UnmaskError, count_of


@dataclass(frozen=True)
class Config:
    """Whether the front of one set of samplers is above that of another, and over which range of
    passes, with the uncertainty of prompts and training runs."""

    first: Annotated[str, tyro.conf.Positional]
    """Directories of `unmask evaluate`, one for each training run, separated by commas; or a
    pattern in quotes ("runs/policy-s?"). Each directory's samplers make one front."""
    second: Annotated[str, tyro.conf.Positional]
    """The directories to compare with, likewise; differences are first minus second."""
    block_length: int | None = None
    """Only results of this block length; leave out to take all of them, of both settings."""
    out: Path | None = None
    """Write the differences to this JSON file too."""


def run(config: Config) -> None:
    from unmask.analysis import read_points
    from unmask.evaluation import compare_fronts, join_verdicts, read_records
    from unmask.files import check_writable, write_json
    from unmask.provenance import provenance

    if config.out is not None:
        check_writable(config.out)
    sides = [find_directories(text) for text in (config.first, config.second)]
    read_points([*sides[0], *sides[1]])  # refuses results of different settings

    def records_of(directory: Path) -> list[Mapping[str, Any]]:
        found = read_records(directory)
        wanted = config.block_length
        chosen = [r for r in found if wanted is None or r["block_length"] == wanted]
        if not chosen:
            raise UnmaskError(
                f"{directory} has no results of block length {wanted}; it has "
                f"{', '.join(map(str, sorted({r['block_length'] for r in found})))}"
            )
        return chosen

    gaps = compare_fronts(*([records_of(d) for d in side] for side in sides))
    first, second = (count_of(len(side), "run") for side in sides)
    print(f"{config.first} ({first}) against {config.second} ({second})")
    for verdict, begin, end, least, most in join_verdicts(gaps):
        budgets = f"from {begin:.2f} to {end:.2f} passes"
        if math.isinf(end):
            budgets = f"from {begin:.2f} passes on"
        elif begin == end:
            budgets = f"at {begin:.2f} passes"
        print(
            f"  {budgets}: {verdict}; differences of {100 * least:+.1f} to {100 * most:+.1f} points"
        )
    if config.out is not None:
        rows = [asdict(gap) for gap in gaps]
        names = [[str(directory) for directory in side] for side in sides]
        config.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            config.out,
            {"first": names[0], "second": names[1], "gaps": rows, "provenance": provenance()},
        )


def find_directories(text: str) -> list[Path]:
    """The directories that a comma-separated list of names and patterns means, in order.

    Raises:
        UnmaskError: if a name or pattern fits no directory, or is empty.
    """
    found: list[Path] = []
    for part in text.split(","):
        name = part.strip()
        if not name:
            raise UnmaskError(
                f"{text!r} names no directory before, between or behind its commas; leave such a "
                "comma out (the current directory is .)"
            )
        names = [name] if Path(name).is_dir() else sorted(glob.glob(name))
        paths = [Path(path) for path in names if Path(path).is_dir()]
        if not paths:
            raise UnmaskError(
                f"{name!r} is no directory; give directories that `unmask evaluate` wrote"
            )
        found += [path for path in paths if path not in found]
    return found
