"""How often each template of the word problems occurs in tests and in validation, and how many
passes the shipped policy takes on it.

    python experiments/templates.py OUT.json [--passes]

Shares are of 1,000 test problems of `word-problems` and of 1,024 validation problems of
`word-problems:unseen`. `--passes` decodes the test problems in blocks of 32 at α = 2, with one
sampling seed; this takes five minutes on one core without bfloat16. docs/results/word-problems has
templates.json and templates-before.json, which is of the package at commit 47865e5 (PYTHONPATH).
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import unmask
from unmask.files import write_json
from unmask.provenance import provenance

POLICY = "embedded/word-problems@alpha=2"


def shares(examples):
    counts = Counter(example.data[0] for example in examples)
    return {str(template): counts[template] / len(examples) for template in sorted(counts)}


def passes_by_template(examples):
    model, policy = unmask.load_model("embedded/word-problems"), unmask.load_policy(POLICY)
    prompts = [example.prompt for example in examples]
    nfe = unmask.generate(model, prompts, policy, max_new_tokens=128, block_length=32, seed=0).nfe
    found = defaultdict(list)
    for example, passes in zip(examples, nfe.tolist(), strict=True):
        found[example.data[0]].append(passes)
    means = {str(template): sum(each) / len(each) for template, each in sorted(found.items())}
    return {"policy": POLICY, "nfe": float(nfe.double().mean()), "nfe_by_template": means}


def main():
    tests = unmask.load_task("word-problems").examples("test", 1000)
    validation = unmask.load_task("word-problems:unseen").examples("validation", 1024)
    result = {"tests": shares(tests), "validation": shares(validation), **provenance()}
    if "--passes" in sys.argv:
        result |= passes_by_template(tests)
    write_json(Path(sys.argv[1]), result)


main()
