#!/usr/bin/env bash
# Policies for both settings at three training seeds, and every sampler on 1,000 held-out prompts.
# Two runs at a time, one core each; an estimated two hours on two cores. Finished parts are kept, interrupted trainings are resumed.
# Not run yet as a whole: see docs/results.md for the one seed that is there.
set -euo pipefail
out=${1:-runs/slice}
export OMP_NUM_THREADS=1
mkdir -p "$out"

train() { # name, options: trains, resumes or skips
  local name=$1
  shift
  if [ -d "$out/$name" ]; then unmask train --resume "$out/$name"; else unmask train --out "$out/$name" --mixed-precision "$@"; fi >>"$out/$name.log" 2>&1
}
evaluate() { # name, options
  local name=$1
  shift
  [ -f "$out/$name/summary.json" ] || { rm -rf "${out:?}/$name" && unmask evaluate --out "$out/$name" --prompts 1000 "$@" >"$out/$name.log" 2>&1; }
}
export -f train evaluate
export out

knobs() { for setting in "$@"; do printf '%s@%s ' "$policy" "$setting"; done; }
export -f knobs

{
  for seed in 0 1 2; do
    echo "train full-a1-s$seed --alpha 1 --seed $seed"
    echo "train semi-a6-s$seed --alpha 6 --block-length 16 --seed $seed"
  done
  for seed in 0 1 2; do echo "train full-a3-s$seed --alpha 3 --seed $seed"; done
} | xargs -d '\n' -P 2 -I{} bash -c '{}'

heuristics="confidence:1 confidence:2 confidence:4 confidence:8 threshold:0.99 threshold:0.95 threshold:0.9 threshold:0.8 threshold:0.7 threshold:0.6"
heuristics="$heuristics threshold:0.5 threshold:0.4 threshold:0.3 factor:0.5 factor:1 factor:2 entropy:0.1 entropy:0.5 entropy:1 entropy:2"
heuristics="$heuristics margin:2 margin:4 random:1 random:4"
{
  echo "evaluate heuristics-full --samplers $heuristics"
  echo "evaluate heuristics-semi --block-lengths 16 --samplers $heuristics"
  for seed in 0 1 2; do
    for alpha in 1 3; do
      policy=$out/full-a$alpha-s$seed/last
      echo "evaluate policy-full-a$alpha-s$seed --samplers $(knobs temperature=0.5 temperature=1 temperature=0.5,beta=0.7)"
    done
    policy=$out/semi-a6-s$seed/last
    echo "evaluate policy-semi-a6-s$seed --block-lengths 16 --samplers $(knobs temperature=0.5 temperature=1 temperature=0.5,beta=0.7)"
  done
} | xargs -d '\n' -P 2 -I{} bash -c '{}'

for setting in full semi; do
  unmask plot --results "$out/heuristics-$setting" "$out"/policy-$setting-*/ --out "$out/pareto-$setting.png"
done
