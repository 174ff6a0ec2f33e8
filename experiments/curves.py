"""Training curves from checked-in logs: `python experiments/curves.py` draws
docs/results/stability/curves.png (Figs. 3, 14, 15)."""

import json
from pathlib import Path

import matplotlib
from results import read_logs

matplotlib.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[1] / "docs/results"
PANELS = {f"α = {a}": (f"conditioned/separate-a{a}-s", 3) for a in ("0.3", "1", "3")}
PANELS |= {
    f"α = 10{more}": (f"stability/a10{kind}-s", 5)
    for kind, more in (
        ("", ""),
        ("-rising", ", from 1"),
        ("-bonus", ", bonus"),
        ("-small", ", lr 3e-4"),
    )
}

figure, axes = plt.subplots(
    3, len(PANELS), figsize=(3 * len(PANELS), 8), sharex="col", layout="constrained"
)
for column, (title, (prefix, seeds)) in enumerate(PANELS.items()):
    experiment, _, run = prefix.partition("/")
    logs = read_logs(RESULTS / experiment)
    for seed in range(seeds):
        log = logs[f"{run}{seed}/metrics.jsonl"]
        lines = [json.loads(line) for line in log.decode().splitlines()]
        for axis, name in zip(axes[:, column], ("reward", "accuracy", "nfe"), strict=True):
            axis.plot(
                [line["round"] for line in lines],
                [line[name] for line in lines],
                lw=1,
                label=f"seed {seed}",
            )
            axis.set_ylabel(name if not column else "")
            axis.set_ylim(0, 30 if name == "nfe" else 1)
    axes[0, column].set_title(title)
    axes[-1, column].set_xlabel("round")
axes[0, -1].legend(fontsize=7)
figure.savefig(RESULTS / "stability/curves.png", dpi=110)
