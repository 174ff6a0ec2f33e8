#!/usr/bin/env bash
# Semi-autoregressive policies for the accurate end: α falls from 3 to 0.5, with the dense reward; the policy reads the smallest confidence on either side (the
# trainer's default). Three seeds, evaluated on the prompts of vertical-slice.sh, whose heuristics they are compared with. Two runs at a time, one
# core each: about 20 minutes. Finished parts are kept. What is small ends in $out/report, which docs/results/annealed is a copy of.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-runs/annealed}
slice=${2:-$here/../docs/results/chain}
export OMP_NUM_THREADS=1 out
mkdir -p "$out"

train() { # name, options: trains, resumes or skips
  local name=$1
  shift
  if [ -d "$out/$name" ]; then unmask train --resume "$out/$name"; else unmask train --out "$out/$name" --rounds 120 --mixed-precision "$@"; fi >>"$out/$name.log" 2>&1
}
evaluate() { # name, options
  local name=$1
  shift
  [ -f "$out/$name/summary.json" ] || { rm -rf "${out:?}/$name" && unmask evaluate --out "$out/$name" --prompts 1000 "$@" >"$out/$name.log" 2>&1; }
}
export -f train evaluate

for seed in 0 2 1; do
  echo "train semi-s$seed --alpha-start 3 --alpha 0.5 --dense 2 --seed $seed --block-length 16 --eval-temperature 0.5"
done | xargs -d '\n' -P 2 -I{} bash -c '{}'

for seed in 0 2 1; do
  samplers=
  for beta in 0.5 0.7 1 1.5 2; do samplers="$samplers $out/semi-s$seed/last@beta=$beta"; done
  echo "evaluate policy-semi-s$seed --block-lengths 16 --samplers$samplers"
done | xargs -d '\n' -P 2 -I{} bash -c '{}'

mkdir -p "$out/report"
rm -rf "$out/heuristics-semi"
cp -r "$slice/heuristics-semi" "$out"
unmask plot --results "$out"/heuristics-semi "$out"/policy-*-s[012]/ --out "$out/report/pareto.png"
python "$here/matched.py" "$out" >"$out/report/matched.md"
for directory in "$out"/*semi-s?/; do
  name=$(basename "$directory")
  mkdir -p "$out/report/$name"
  for file in summary.json run.json metrics.jsonl; do
    if [ -f "$directory/$file" ]; then cp "$directory/$file" "$out/report/$name"; fi
  done
done
