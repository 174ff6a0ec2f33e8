#!/usr/bin/env bash
# The paper's ablations (Figs. 9, 20) and steering, in full diffusion at α = 3, three seeds each, against full-a3-s0 to s2 of vertical-slice.sh: the same
# settings but for the one named. JOBS runs at a time (2), one core each: about two hours on two cores. Finished parts are kept, interrupted trainings resumed.
# What is small ends in $out/report (docs/results/ablations).
set -euo pipefail
out=${1:-runs/ablations}
export OMP_NUM_THREADS=1 out
mkdir -p "$out/report"

train() { # name, options: trains, resumes or skips
  local name=$1
  shift
  if [ -d "$out/$name" ]; then unmask train --resume "$out/$name"; else unmask train --out "$out/$name" --alpha 3 --rounds 200 --mixed-precision --no-context "$@"; fi >>"$out/$name.log" 2>&1
}
evaluate() { # name, options
  local name=$1
  shift
  [ -f "$out/$name/summary.json" ] || { rm -rf "${out:?}/$name" && unmask evaluate --out "$out/$name" --prompts 1000 --block-lengths 48 "$@" >"$out/$name.log" 2>&1; }
}
export -f train evaluate

for seed in 0 1 2; do
  echo "train additive-s$seed --seed $seed --reward additive"
  echo "train dpls-s$seed --seed $seed --action plackett-luce --initial-bias -2"
  echo "train steered-s$seed --seed $seed --experts threshold:0.9"
  echo "train warm-s$seed --seed $seed --imitate entropy:0.5 --imitation-rounds 10 --lr 5e-4"
  echo "train top5-s$seed --seed $seed --inputs 5"
  echo "train hidden-s$seed --seed $seed --hidden"
  echo "train context-s$seed --seed $seed --context"
  echo "train dense-s$seed --seed $seed --dense 2"
done | xargs -d '\n' -P "${JOBS:-2}" -I{} bash -c '{}'

for kind in additive dpls steered warm top5 hidden context dense; do
  echo "evaluate policy-$kind --samplers $out/$kind-s0/last $out/$kind-s1/last $out/$kind-s2/last"
done | xargs -d '\n' -P "${JOBS:-2}" -I{} bash -c '{}'

for directory in "$out"/policy-*/ "$out"/*-s?/; do
  name=$(basename "$directory")
  mkdir -p "$out/report/$name"
  for file in summary.json run.json metrics.jsonl; do
    if [ -f "$directory/$file" ]; then cp "$directory/$file" "$out/report/$name"; fi
  done
done
