#!/usr/bin/env bash
# Policies with α = 1 that read the smallest confidence on either side (the trainer's default), three seeds, both settings, on the prompts of
# vertical-slice.sh, whose heuristics they are compared with. Two runs at a time, one core each: about 40 minutes. Finished parts are kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-runs/context}
slice=${2:-$here/../docs/results/chain}
export OMP_NUM_THREADS=1 out
mkdir -p "$out"

train() { # name, options: trains, resumes or skips
  local name=$1
  shift
  if [ -d "$out/$name" ]; then unmask train --resume "$out/$name"; else unmask train --out "$out/$name" --rounds 150 --mixed-precision "$@"; fi >>"$out/$name.log" 2>&1
}
evaluate() { # name, options
  local name=$1
  shift
  [ -f "$out/$name/summary.json" ] || { rm -rf "${out:?}/$name" && unmask evaluate --out "$out/$name" --prompts 1000 "$@" >"$out/$name.log" 2>&1; }
}
export -f train evaluate

for seed in 0 1 2; do
  echo "train full-a1-s$seed --alpha 1 --seed $seed"
  echo "train semi-a1-s$seed --alpha 1 --seed $seed --block-length 16 --eval-temperature 0.5"
done | xargs -d '\n' -P 2 -I{} bash -c '{}'

for setting in full semi; do
  for seed in 0 1 2; do
    samplers=
    for beta in 0.5 1 1.5 2; do samplers="$samplers $out/$setting-a1-s$seed/last@beta=$beta"; done
    echo "evaluate policy-$setting-a1-s$seed --block-lengths $([ $setting = full ] && echo 48 || echo 16) --samplers$samplers"
  done
done | xargs -d '\n' -P 2 -I{} bash -c '{}'

mkdir -p "$out/report"
for directory in "$slice"/heuristics-*/; do cp -r "$directory" "$out"; done
unmask plot --results "$out"/heuristics-*/ "$out"/policy-*-s[012]/ --out "$out/report/pareto.png"
python "$here/matched.py" "$out" >"$out/report/matched.md"
for directory in "$out"/*-a1-*/; do
  name=$(basename "$directory")
  mkdir -p "$out/report/$name"
  for file in summary.json run.json metrics.jsonl; do
    if [ -f "$directory/$file" ]; then cp "$directory/$file" "$out/report/$name"; fi
  done
done
