"""Results as a table: which prompts does a fast sampler get wrong that a slow one gets right?"""

import json
import tempfile
from pathlib import Path

import pandas

import unmask

model, task = unmask.load_model("embedded/chain"), unmask.load_task("chain")
with tempfile.TemporaryDirectory() as directory:
    out = Path(directory) / "results"
    unmask.evaluate(model, task, ["threshold:0.9", "threshold:0.5"], prompts=64, out=out)
    lines = (out / "results.jsonl").read_text(encoding="utf-8").split("\n")
table = pandas.DataFrame([json.loads(line) for line in lines if line])
print(table.groupby("sampler")[["correct", "nfe"]].mean().round(3))
wide = table.pivot(index="prompt", columns="sampler", values="correct")
lost = wide[(wide["threshold:0.9"] == 1) & (wide["threshold:0.5"] == 0)]
print(f"{len(lost)} of {len(wide)} prompts are lost by going fast, for example:")
print("\n".join(lost.index[:3]))
