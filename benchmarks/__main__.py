"""`python -m benchmarks`: measures everything (17 minutes), prints it, and writes
docs/performance.md, its JSON and its figures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks import workloads
from benchmarks.blocks import blocks
from benchmarks.report import write_report
from unmask.files import write_json
from unmask.provenance import provenance

Section = Literal["decoding", "grpo", "cache", "blocks", "memory", "growth", "processes"]
SECTIONS: tuple[Section, ...] = (
    "decoding",
    "grpo",
    "cache",
    "blocks",
    "memory",
    "growth",
    "processes",
)
JSON = Path("docs/results/performance/performance.json")


@dataclass(frozen=True)
class Config:
    """Measure speed, memory and scaling, and write docs/performance.md."""

    sections: tuple[Section, ...] = SECTIONS
    """What to measure; other sections keep what the JSON holds."""
    threads: int = 1
    """Threads of torch; with 1, times are CPU time, which other work on the machine disturbs
    least."""
    report: bool = True
    """Write docs/performance.md and its figures (with `--sections` empty: from the JSON as it
    is)."""


def measure(section: Section) -> Any:
    if section == "decoding":
        return [shown(workloads.run_decoding(work)) for work in workloads.decoding()]
    jobs: dict[str, Callable[[], Any]] = {
        name: getattr(workloads, name)
        for name in ("grpo", "cache", "memory", "growth", "processes")
    }
    jobs["blocks"] = blocks
    return shown(jobs[section]())


def shown(result: Any) -> Any:
    print(json.dumps(result), flush=True)
    return result


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    JSON.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(JSON.read_text()) if JSON.exists() else {}
    for section in config.sections:
        began, load = time.perf_counter(), os.getloadavg()[0]
        print(f"— {section}", flush=True)
        found = measure(section)
        made = provenance(dtype=torch.bfloat16)
        made["command"] = "python -m benchmarks" + (
            f" --threads {config.threads}" if config.threads > 1 else ""
        )
        results[section] = {
            "results": found,
            "provenance": made,
            "load": [round(load, 1), round(os.getloadavg()[0], 1)],
            "minutes": round((time.perf_counter() - began) / 60, 1),
        }
        write_json(JSON, results)
    if config.report:
        print(write_report(results, Path("docs")))


if __name__ == "__main__":
    main(tyro.cli(Config))
