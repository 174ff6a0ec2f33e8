"""`unmask compare`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.analysis import read_points
from unmask.errors import UnmaskError
from unmask.evaluation import compare, read_records


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
    if not config.results:
        raise UnmaskError("no results were given; give directories that `unmask evaluate` wrote")
    read_points(config.results)  # refuses results of different models, tasks or lengths
    records = [record for directory in config.results for record in read_records(directory)]
    known = ", ".join(dict.fromkeys(record["sampler"] for record in records))

    def of(sampler: str, option: str) -> list[dict[str, Any]]:
        found = [record for record in records if record["sampler"] == sampler]
        if not found:
            raise UnmaskError(
                f"--{option} is {sampler!r}, which the results do not hold; they hold {known}"
            )
        return found

    for d in compare(of(config.first, "first"), of(config.second, "second")):
        accuracy = f"{100 * d.accuracy:+.1f} points [{100 * d.accuracy_low:+.1f}, {100 * d.accuracy_high:+.1f}], p = {d.p_accuracy:.2g}"
        nfe = f"{d.nfe:+.2f} NFE [{d.nfe_low:+.2f}, {d.nfe_high:+.2f}], p = {d.p_nfe:.2g}"
        print(
            f"BL {d.block_length:>3}, {d.prompts} prompts  {config.second} against {config.first}: "
            f"{accuracy}; {nfe}"
        )
