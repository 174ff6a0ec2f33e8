"""The model card of a policy directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = """---
library_name: unmask
license: apache-2.0
tags:
- diffusion-language-model
- unmasking-policy
- arxiv:2512.09106
---

# Unmasking policy

Decides which tokens a masked diffusion language model reveals at each forward pass
("Learning Unmasking Policies for Diffusion Language Models", arXiv 2512.09106).
"""

USE = """
## Use
"""

EXAMPLE = """
    import unmask

    model = unmask.load_model({model!r})
    print(unmask.generate(model, ["…"], "{name}", {options}).text)

or `unmask generate --model {model} --policy {name} {words} "…"`."""

TRADE_OFF = """
`{name}@{faster}` is faster and less accurate, `{name}@{slower}` is slower.
"""


def model_card(settings: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """README.md in Markdown: what the policy was trained on, what was measured, how to use it; what
    is not known is left out.

    Args:
        settings: decode-time settings (temperature, beta, fallback).
        metadata: what `deployed_policy` of the trainer gives (`trained`, `length`, `metrics`,
            `commit`, …), or what an import gives; without `trained` nobody knows the model, and
            there is no example. A list `pareto` of {sampler, accuracy, accuracy_low,
            accuracy_high, nfe} becomes a table; so do the `points` of `measured`, which an
            evaluation found on test prompts. `name` is how the policy is loaded.
    """
    trained, metrics = metadata.get("trained") or {}, metadata.get("metrics") or {}
    block_length = trained.get("block_length") or ("full diffusion" if trained else None)
    from_traces = trained.get("from_traces")
    facts = {
        "model": trained.get("model"),
        "task": trained.get("task"),
        "L": metadata.get("length"),
        "block length": block_length,
        "α": served_alphas(trained),
        "traces": from_traces,
        "label": trained.get("label") if from_traces else None,
        "seed": trained.get("seed"),
        "rounds": f"{metrics.get('round', '?')} of {trained['rounds']}"
        if "rounds" in trained
        else None,
        "source": metadata.get("source"),
        "imported from": metadata.get("imported_from"),
        "command": metadata.get("command"),
        "program": metadata.get("argv"),
        "commit": metadata.get("commit"),
        "versions": ", ".join(
            f"{name} {version}" for name, version in (metadata.get("versions") or {}).items()
        )
        or None,
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    rows += [
        f"| decode-time {name} | {value} |"
        for name, value in settings.items()
        if value not in (None, [], ())
    ]
    text = HEADER + "\n## Made from\n\n| | |\n|---|---|\n" + "\n".join(rows) + "\n"
    if "eval_accuracy" in metrics:
        accuracy, nfe = 100 * metrics["eval_accuracy"], metrics["eval_nfe"]
        text += f"\nValidation prompts: {accuracy:.1f} % @ {nfe:.1f} NFE.\n"
    if metadata.get("pareto"):
        text += "\n## Accuracy against NFE\n" + points_table(metadata["pareto"])
    if measured := metadata.get("measured"):
        text += f"\n## Measured on {measured['prompts']} test prompts\n"
        text += points_table(measured["points"]) + f"\n`{measured['command']}`\n"
    low, high = trained.get("alpha_range") or (None, None)
    options = {"max_new_tokens": metadata.get("length", 48)}
    if trained.get("block_length"):
        options["block_length"] = trained["block_length"]
    use = USE + (EXAMPLE if trained else "") + TRADE_OFF
    return text + use.format(
        model=str(trained.get("model", "embedded/chain")),
        options=", ".join(f"{name}={value}" for name, value in options.items()),
        words=" ".join(f"--{x.replace('_', '-')} {value}" for x, value in options.items()),
        name=metadata.get("name", "PATH_OR_HUB_ID"),
        faster="beta=1.5" if high is None else f"alpha={high:g}",
        slower="beta=0.7" if low is None else f"alpha={low:g}",
    )


def points_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of points {sampler, accuracy, accuracy_low, accuracy_high, nfe}."""
    text = "\n| sampler | accuracy % [95 %] | NFE |\n|---|---|---|\n"
    for p in points:
        found = "–"
        if {"accuracy", "accuracy_low", "accuracy_high"} <= set(p):
            low, high = 100 * p["accuracy_low"], 100 * p["accuracy_high"]
            found = f"{100 * p['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
        text += f"| {p.get('sampler', '–')} | {found} | {p['nfe']:.1f} |\n"
    return text


def served_alphas(trained: Mapping[str, Any]) -> Any:
    """The α that a policy was trained for, or the range; None without a reward."""
    if trained.get("alpha_range"):
        low, high = trained["alpha_range"]
        return f"{low:g} to {high:g}"
    return None if trained.get("from_traces") else trained.get("alpha")
