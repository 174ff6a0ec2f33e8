"""docs/performance.md and its figures, from the JSON."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from unmask.files import write_text

INTRODUCTION = """# Performance

Written by `make bench` from [performance.json](results/performance/performance.json); do not edit. Every figure is a ratio of times taken in turns in one
process: the median, with the smallest and largest in brackets. With one thread, times are the process' CPU time.

* **Ideal**: the frozen model's backbone on exactly the row-steps that the decisions need, in full batches of the workload's size, longest rows first, and
  one head product over the positions whose confidence the policy reads. Nothing is done with the logits.
* **Reference**: the loops as the literature writes them (`benchmarks/reference_loops.py`). They decide the same: the tokens are compared, and must be equal.
* **(a)** embedded/chain, 128 test prompts, L = 48, batch 64. **(b)** LLaDA's layout with random weights: width 512, 8 layers, vocabulary 126,464; 8 prompts of 64 tokens,
  L = 128, batch 8. **(c)** the same with 16 prompts of 20 to 400 tokens. **(d)** a GRPO step: 8 rollouts of each of 16 prompts (a) or of 1 prompt (b), and two
  optimiser steps. All in bf16. The random weights are scaled so that confidences spread as a trained model's do.
* Policies: `confidence:K` reveals K a pass (LLaDA), `threshold:λ` is Fast-dLLM's; `learned` is the paper's network as it starts (width 128; 64 on (a)), which
  reads the confidence at all L positions, so that its ideal has a larger head product.
"""


def spread(value: dict[str, float]) -> str:
    """Median with the smallest and largest."""
    return f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def made(section: dict[str, Any]) -> str:
    """What a section was measured with."""
    of = section["provenance"]
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    load = " to ".join(map(str, section["load"]))
    return f"`{of['command']}`, commit {of['commit']}, {versions}; {of['machine']}; load {load} of other work included; {section['minutes']} minutes."


def decoding(section: dict[str, Any]) -> str:
    rows, parts = [], []
    for r in section["results"]:
        reference = spread(r["reference / ours"]) if "reference / ours" in r else ""
        rows.append(
            [
                r["workload"],
                f"{r['nfe']:.1f}",
                str(r["row_steps"]),
                spread(r["ours / ideal"]),
                reference,
            ]
        )
        parts.append(
            [
                r["workload"],
                *(
                    f"{100 * r['split'][name]:.1f} %"
                    for name in ("backbone", "head", "policy", "bookkeeping", "idle")
                ),
            ]
        )
    return "\n\n".join(
        [
            "## Decoding",
            table(
                [
                    "workload",
                    "NFE",
                    "row-steps",
                    "ours / ideal (target ≤ 1.15)",
                    "reference / ours (target, b BL 32: ≥ 2.5)",
                ],
                rows,
            ),
            "Where our time goes. Idle is what the backbone took beyond the same row-steps in full "
            "batches (padding, batches that empty).",
            table(
                [
                    "workload",
                    "backbone",
                    "head",
                    "policy (target, b: ≤ 2 %)",
                    "bookkeeping",
                    "idle",
                ],
                parts,
            ),
        ]
    )


def grpo(section: dict[str, Any]) -> str:
    rows = [
        [
            r["workload"],
            spread(r["reference / ours"]),
            *(f"{r['seconds'][name]:.2f}" for name in r["seconds"]),
        ]
        for r in section["results"]
    ]
    head = [
        "workload",
        "reference / ours (target ≥ 3)",
        "our rollouts",
        "our update",
        "its rollouts",
        "its update",
    ]
    return "## GRPO step\n\nSeconds of ours, and of the reference (*its*):\n\n" + table(head, rows)


def cache(section: dict[str, Any]) -> str:
    found = section["results"]
    speed = [
        [r["workload"], r["cache"], f"{r['nfe']:.1f}", spread(r["without / with"])]
        for r in found["speed"]
    ]
    accuracy = [
        [
            r["model"],
            f"{r['block_length']}",
            r["cache"],
            f"{100 * r['accuracy']:.1f} %",
            f"{r['nfe']:.1f}",
            f"{r['seconds']:.1f}",
        ]
        for r in found["accuracy"]
    ]
    return "\n\n".join(
        [
            "## Caching keys and values (approximate, off by default)",
            "Refreshed at block borders. How many times as fast as without:",
            table(["workload", "cache", "NFE", "without / with"], speed),
            "Accuracy on the embedded models (`threshold:0.9`, 128 test prompts; CPU seconds):",
            table(["model", "BL", "cache", "accuracy", "NFE", "seconds"], accuracy),
        ]
    )


def blocks(section: dict[str, Any]) -> str:
    rows = []
    for r in section["results"]:
        times = r["ms a token"]
        whole = f"{times['whole canvas']['median']:.1f}" if "whole canvas" in times else ""
        gain = f"{r['whole / ours']:.1f}" if "whole / ours" in r else ""
        mine = f"{times['ours, with the prompt']['median']:.1f}"
        rows.append([r["workload"], spread(r["ours / ideal"]), mine, whole, gain])
    text = (
        "Ideal: the bare passes of the blocks on a warm cache, with one head product over the "
        "masked positions; the first pass, which holds the prompt, is left out of both. Milliseconds a "
        "token count the prompt. Whole canvas: the same decode, forwarding all positions in every "
        "pass."
    )
    head = ["workload", "ours / ideal (target ≤ 1.10)", "ours, ms a token"]
    head += ["whole canvas, ms a token", "whole / ours (target ≥ 5)"]
    return f"## Block-causal models (exact cache)\n\n{text}\n\n" + table(head, rows)


def memory(section: dict[str, Any]) -> str:
    rows = [
        [
            r["workload"],
            *(f"{r['MB'][who]:.0f}" for who in ("ours", "learned", "reference")),
            f"{r['ours / reference']:.3f}",
        ]
        for r in section["results"]
    ]
    text = "MB of the process' largest resident size over what was resident with the weights loaded, each in a process of its own."
    return f"## Peak memory\n\n{text}\n\n" + table(
        ["workload", "ours", "ours, learned", "reference", "ours / reference (target ≤ 0.25)"], rows
    )


def growth(section: dict[str, Any], directory: Path) -> str:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    rows = []
    for axis, (name, points) in zip(axes, section["results"].items(), strict=True):
        for who, style in (("ours", "o-"), ("ideal", "s--"), ("backbone", "^:")):
            axis.plot(
                [p[name] for p in points],
                [p["seconds"][who]["median"] for p in points],
                style,
                label=who,
            )
        axis.set(
            xscale="log",
            yscale="log",
            xlabel=name,
            ylabel="CPU seconds for 4 steps",
            title=f"growth with {name}",
        )
        axis.legend()
        for a, b in pairwise(points):
            steps = {
                who: b["seconds"][who]["median"] / a["seconds"][who]["median"]
                for who in ("ours", "ideal", "backbone")
            }
            excess = steps["ours"] / steps["backbone" if name != "vocabulary" else "ideal"] - 1
            rows.append(
                [
                    f"{name} {a[name]} → {b[name]}",
                    *(f"{steps[who]:.2f}" for who in steps),
                    f"{100 * excess:+.0f} %",
                ]
            )
    figure.savefig(directory / "growth.png", dpi=120)
    plt.close(figure)
    text = "Width 256, 4 layers, full diffusion, 4 steps. The excess is over the backbone's own growth; for the vocabulary, which the backbone never"
    text += " sees, over the ideal's."
    head = ["step", "ours ×", "ideal ×", "backbone ×", "excess (target ≤ 20 %)"]
    return f"## Growth\n\n{text}\n\n![growth](results/performance/growth.png)\n\n" + table(
        head, rows
    )


def processes(section: dict[str, Any]) -> str:
    found = section["results"]
    rates = ", ".join(f"{n}: {spread(value)}" for n, value in found["rollouts a second"].items())
    return (
        "## Two processes\n\n`accelerate launch`, one thread each, GRPO rollouts of "
        "embedded/chain, wall clock. Rollouts a second by number of processes: "
        f"{rates}. Two against one: **{spread(found['two / one'])}** (target ≥ 1.8; both cores "
        "must be free for it)."
    )


def figures(section: dict[str, Any], directory: Path) -> str:
    """Stacked bars of the time split."""
    results = section["results"]
    figure, axis = plt.subplots(figsize=(9, 0.4 * len(results) + 1), constrained_layout=True)
    left = [0.0] * len(results)
    for part in ("backbone", "head", "policy", "bookkeeping", "idle"):
        shares = [100 * r["split"][part] for r in results]
        axis.barh([r["workload"] for r in results], shares, left=left, label=part)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axis.invert_yaxis()
    axis.set(xlabel="% of our decoder's time", xlim=(0, 100))
    axis.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(directory / "split.png", dpi=120)
    plt.close(figure)
    return "![split](results/performance/split.png)"


def wrap_prose(text: str) -> str:
    """The same Markdown with lines of at most 118 characters, tables and figures left alone."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(("|", "!", "#")) or not line:
            lines.append(line)
            continue
        indent = "  " if line.startswith(("* ", "  ")) else ""
        starts = line.startswith("* ") or not lines or not lines[-1] or lines[-1].startswith("|")
        if not starts:  # goes on with the sentence of the line before
            line = f"{lines.pop()} {line.strip()}"
            indent = "  " if line.startswith(("* ", "  ")) else ""
        lines += textwrap.wrap(
            line, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines) + "\n"


def write_report(results: dict[str, Any], docs: Path) -> str:
    """Writes performance.md and the figures; returns the text."""
    directory = docs / "results" / "performance"
    writers = {
        "decoding": decoding,
        "grpo": grpo,
        "cache": cache,
        "blocks": blocks,
        "memory": memory,
        "processes": processes,
    }
    parts = [INTRODUCTION]
    for name, section in results.items():
        parts.append(growth(section, directory) if name == "growth" else writers[name](section))
        if name == "decoding":
            parts.append(figures(section, directory))
        parts.append(made(section))
    text = wrap_prose("\n\n".join(parts))
    write_text(docs / "performance.md", text)
    return text
