"""Tables and figures of docs/results from the JSON that is checked in: `make results`.

Each experiment's directory gets a page `tables.md`: every evaluation with its command, machine and
points, every training with its command. Figures whose points are checked in are drawn anew with
`--figures`. Logs of trainings (`*/metrics.jsonl`) go into one archive an experiment,
`metrics.tar.xz`.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

from unmask.analysis import plot_pareto, read_points

RESULTS = Path(__file__).parents[1] / "docs/results"
LOGS = "metrics.tar.xz"
PLOTS = {  # figure: the evaluations that are drawn
    "chain/pareto.png": ("chain/heuristics-*", "chain/policy-*-s[012]"),
    "annealed/pareto.png": ("chain/heuristics-semi", "annealed/policy-*-s[012]"),
    "conditioned/pareto.png": (
        "conditioned/policy-s?",
        "conditioned/separate-s?",
        "chain/heuristics-full",
    ),
    "warmstart/pareto.png": ("warmstart/policy-*", "conditioned/policy-s?", "chain/heuristics-*"),
    "sudoku/pareto.png": ("sudoku/heuristics*", "sudoku/policy-*"),
    "one-policy/chain-full.png": (
        "one-policy/policy-chain-full-s?",
        "one-policy/heuristics-chain-full",
    ),
    "one-policy/chain-semi.png": (
        "one-policy/policy-chain-semi-s?",
        "one-policy/heuristics-chain-semi",
    ),
    "one-policy/sudoku-full.png": (
        "one-policy/policy-sudoku-full-s?",
        "one-policy/heuristics-sudoku-full",
    ),
    "one-policy/sudoku-semi.png": (
        "one-policy/policy-sudoku-semi-s?",
        "one-policy/heuristics-sudoku-semi",
    ),
    "one-policy/words-full.png": ("one-policy/policy-words-full-s?", "word-problems/h*-128*"),
    "one-policy/words-semi.png": ("one-policy/policy-words-semi-s?", "word-problems/h*-32*"),
    "custom-task/pareto.png": ("custom-task",),
}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def interval(value: dict[str, Any], name: str, scale: float, digits: int) -> str:
    """A mean with its 95 % interval."""
    mean, low, high = (scale * value[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def sampler_name(spec: str) -> str:
    """A sampler without the directories above its run, such as `chain-s0/best@alpha=1`."""
    path, at, settings = spec.partition("@")
    parts = path.split("/")
    return "/".join(parts[-2:] if parts[-1] in ("last", "best") else parts[-1:]) + at + settings


def command_lines(provenance: dict[str, Any]) -> list[str]:
    """A command as a block of lines of at most 110 characters, and where it ran."""
    command = provenance.get("command") or "(not recorded)"
    wrapped = textwrap.wrap(
        command, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    versions = provenance.get("versions", {})
    where = [f"commit {provenance['commit']}"] if provenance.get("commit") else []
    where += [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    where += [provenance["machine"]] if provenance.get("machine") else []
    return ["```text", *wrapped, "```", "", textwrap.fill(", ".join(where), 118), ""]


def evaluation_lines(path: Path) -> list[str]:
    """A summary as a table."""
    summary = read_json(path)
    first = summary["points"][0]
    lines = [
        f"{summary['model']} on {summary['task']}, split {summary['split']}, {first['prompts']} "
        f"prompts, L = {summary['max_new_tokens']}, {first['seeds']} sampling seed(s).",
        "",
        "| sampler | block length | accuracy % | NFE |",
        "|---|---|---|---|",
    ]
    for point in summary["points"]:
        accuracy, nfe = interval(point, "accuracy", 100, 1), interval(point, "nfe", 1, 1)
        name = f"`{sampler_name(point['sampler'])}`"
        lines.append(f"| {name} | {point['block_length']} | {accuracy} | {nfe} |")
    return [*lines, "", *command_lines(summary["provenance"])]


def page_of(experiment: Path) -> str:
    """The page of an experiment; empty where it has no evaluation and no training."""
    lines: list[str] = []
    for path in sorted(experiment.rglob("summary.json")):
        name = path.parent.relative_to(experiment).as_posix()
        lines += [f"## Evaluation {name if name != '.' else experiment.name}", ""]
        lines += evaluation_lines(path)
    for path in sorted(experiment.rglob("run.json")):
        name = path.parent.relative_to(experiment).as_posix()
        lines += [f"## Training {name if name != '.' else experiment.name}", ""]
        lines += command_lines(read_json(path).get("provenance", {}))
    if not lines:
        return ""
    head = [
        f"# Tables: {experiment.name}",
        "",
        "Written by `make results` from the JSON beside it; do not edit. Brackets are 95 %",
        "intervals, by bootstrap over prompts.",
        "",
    ]
    return "\n".join([*head, *lines]).rstrip() + "\n"


def pack_logs(experiment: Path) -> None:
    """Moves the logs of an experiment into its archive, the same bytes whenever it is made."""
    logs = sorted(experiment.rglob("metrics.jsonl"))
    if not logs:
        return
    kept: dict[str, bytes] = read_logs(experiment)
    kept |= {path.relative_to(experiment).as_posix(): path.read_bytes() for path in logs}
    with tarfile.open(experiment / LOGS, "w:xz") as archive:
        for name, data in sorted(kept.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    for path in logs:
        path.unlink()


def read_logs(experiment: Path) -> dict[str, bytes]:
    """The logs in an experiment's archive, by name, such as `s0/metrics.jsonl`."""
    if not (experiment / LOGS).exists():
        return {}
    with tarfile.open(experiment / LOGS) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive]
        return {name: file.read() for name, file in files if file is not None}


def draw_figures() -> None:
    """The fronts, as `unmask plot` draws them."""
    for name, patterns in PLOTS.items():
        directories = [path for pattern in patterns for path in sorted(RESULTS.glob(pattern))]
        points, (model, task, split), length = read_points(directories)
        title = f"{model} on {task}, {points[0].prompts} {split} prompts, 95 % intervals"
        plot_pareto(points, length, title, RESULTS / name)


def main(options: list[str]) -> None:
    for experiment in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        pack_logs(experiment)
        if page := page_of(experiment):
            (experiment / "tables.md").write_text(page, encoding="utf-8")
    if "--figures" in options:
        draw_figures()


if __name__ == "__main__":
    main(sys.argv[1:])
