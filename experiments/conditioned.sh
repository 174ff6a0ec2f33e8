#!/usr/bin/env bash
# One policy for every α from 0.3 to 10, full diffusion, three seeds: its front along α, and whether a target NFE is met, on 1,000 test prompts.
# Two runs at a time, one core each: about 25 minutes. Finished parts are kept. What is small ends in $out/report (docs/results/conditioned).
set -euo pipefail
out=${1:-runs/conditioned}
export OMP_NUM_THREADS=1 out
mkdir -p "$out/report"

train() { # name, options: trains, resumes or skips
  local name=$1
  shift
  if [ -d "$out/$name" ]; then unmask train --resume "$out/$name"; else unmask train --out "$out/$name" --rounds 220 --mixed-precision "$@"; fi >>"$out/$name.log" 2>&1
}
evaluate() { # name, sampler settings …: those that the policy refuses (a target NFE outside its range) are left out by the caller
  local name=$1
  shift
  [ -f "$out/policy-$name/summary.json" ] || { rm -rf "${out:?}/policy-$name" && unmask evaluate --out "$out/policy-$name" --prompts 1000 --block-lengths 48 --samplers "$@" >"$out/policy-$name.log" 2>&1; }
}
export -f train evaluate

for seed in 0 1 2; do
  echo "train s$seed --alpha-range 0.3 10 --alpha 3 --seed $seed"
done | xargs -d '\n' -P 2 -I{} bash -c '{}'

for seed in 0 1 2; do
  samplers=
  for alpha in 0.3 0.6 1 1.8 3 5.6 10; do samplers="$samplers $out/s$seed/last@alpha=$alpha"; done
  targets=$(python -c "import json; ns = [e['nfe'] for e in json.load(open('$out/s$seed/last/config.json'))['metadata']['pareto']]; lo, hi = min(ns), max(ns)
print(*(round(lo + (hi - lo) * i / 4, 2) for i in (1, 2, 3)))")
  for nfe in $targets; do samplers="$samplers $out/s$seed/last@nfe=$nfe"; done
  echo "evaluate s$seed $samplers"
done | xargs -d '\n' -P 2 -I{} bash -c '{}'

unmask plot --results "$out"/policy-s?/ --out "$out/report/pareto.png"
for directory in "$out"/policy-s?/ "$out"/s?/; do
  name=$(basename "$directory")
  mkdir -p "$out/report/$name"
  for file in summary.json run.json metrics.jsonl; do
    if [ -f "$directory/$file" ]; then cp "$directory/$file" "$out/report/$name"; fi
  done
done
