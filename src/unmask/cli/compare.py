"""`unmask compare`"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import UnmaskError, count_of


@dataclass(frozen=True)
class Config:
    """Whether two samplers differ on the same prompts: paired bootstrap of accuracy and NFE."""

    results: tuple[Path, ...] = ()
    """One or more directories of `unmask evaluate`, of the same model, task and prompts."""
    first: str = ""
    """A sampler, as the results spell it."""
    second: str = ""
    """The sampler to compare with it; differences are second minus first."""


def run(config: Config) -> None:
    from unmask.analysis import read_points
    from unmask.evaluation import compare, read_records

    if not config.results:
        raise UnmaskError("no results were given; give directories that `unmask evaluate` wrote")
    read_points(config.results)  # refuses results of different settings
    records = [record for directory in config.results for record in read_records(directory)]
    check_once(config.results, (config.first, config.second))
    first = records_of(records, config.first, "first")
    second = records_of(records, config.second, "second")
    for d in compare(first, second):
        low, high = 100 * d.accuracy_low, 100 * d.accuracy_high
        accuracy = f"{100 * d.accuracy:+.1f} points [{low:+.1f}, {high:+.1f}]"
        nfe = f"{d.nfe:+.2f} NFE [{d.nfe_low:+.2f}, {d.nfe_high:+.2f}]"
        print(
            f"BL {d.block_length:>3}, {count_of(d.prompts, 'prompt')}  "
            f"{config.second} against {config.first}: {accuracy}, "
            f"p = {d.p_accuracy:.2g}; {nfe}, p = {d.p_nfe:.2g}"
        )


def check_once(results: Sequence[Path], samplers: Sequence[str]) -> None:
    """Refuses directories that hold the same answers of these samplers, which would count twice.

    Raises:
        UnmaskError: naming two directories and a sampler.
    """
    from unmask.evaluation import read_records

    found: dict[tuple[Any, ...], Path] = {}
    for directory in results:
        names = ("sampler", "block_length", "seed")
        records = [r for r in read_records(directory) if r["sampler"] in samplers]
        for key in {tuple(record[name] for name in names) for record in records}:
            if found.setdefault(key, directory) != directory:
                raise UnmaskError(
                    f"{found[key]} and {directory} both hold {key[0]} with block length {key[1]} "
                    f"and seed {key[2]}; give one of them"
                )


def records_of(
    records: Sequence[Mapping[str, Any]], sampler: str, option: str
) -> list[Mapping[str, Any]]:
    """The results of one sampler.

    Raises:
        UnmaskError: naming the option that gave it, if there are none.
    """
    found = [record for record in records if record["sampler"] == sampler]
    if not found:
        known = ", ".join(dict.fromkeys(record["sampler"] for record in records))
        raise UnmaskError(
            f"--{option} is {sampler!r}, which the results do not hold; they hold {known}"
        )
    return found
