"""How often each template of the word problems occurs in tests and in validation, and how many
passes a policy takes on it.

    python experiments/templates.py OUT.json [POLICY BLOCK_LENGTH]

Shares are of 1,000 test problems of `word-problems` and of 1,024 validation problems of
`word-problems:unseen`. With a policy the test problems are decoded with one sampling seed; this
takes five minutes on one core without bfloat16. docs/results/word-problems has templates.json
(embedded/word-problems@alpha=2, 32) and templates-before.json, which is of the package at commit
47865e5 (PYTHONPATH).
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import unmask
from unmask.files import write_json
from unmask.provenance import provenance


def shares(examples):
    counts = Counter(example.data[0] for example in examples)
    return {str(template): counts[template] / len(examples) for template in sorted(counts)}


def passes_by_template(examples, policy, block_length):
    model, sampler = unmask.load_model("embedded/word-problems"), unmask.load_policy(policy)
    prompts = [example.prompt for example in examples]
    options = {"max_new_tokens": 128, "block_length": int(block_length), "seed": 0}
    nfe = unmask.generate(model, prompts, sampler, **options).nfe
    found = defaultdict(list)
    for example, passes in zip(examples, nfe.tolist(), strict=True):
        found[example.data[0]].append(passes)
    means = {str(template): sum(each) / len(each) for template, each in sorted(found.items())}
    return {"policy": policy, "nfe": float(nfe.double().mean()), "nfe_by_template": means}


def main():
    tests = unmask.load_task("word-problems").examples("test", 1000)
    validation = unmask.load_task("word-problems:unseen").examples("validation", 1024)
    result = {"tests": shares(tests), "validation": shares(validation), **provenance()}
    if sys.argv[2:]:
        result |= passes_by_template(tests, *sys.argv[2:])
    write_json(Path(sys.argv[1]), result)


main()
