#!/usr/bin/env bash
# Semi-autoregressive policies for the accurate end: α falls from 3 to 0.5, with the dense reward; the policy reads the smallest confidence on either side (the
# trainer's default). Three seeds, evaluated on the prompts of vertical-slice.sh, whose heuristics they are compared with. Two runs at a time, one
# core each: about 20 minutes. Finished parts are kept. What is small ends in $out/report, which docs/results/annealed is a copy of.
set -euo pipefail
out=${1:-runs/annealed}
source "$(dirname "$0")/common.sh"
slice=${2:-$here/../docs/results/chain}

for seed in 0 2 1; do
  echo "train semi-s$seed --alpha-start 3 --alpha 0.5 --dense 2 --seed $seed --rounds 120 --block-length 16 --eval-temperature 0.5"
done | abreast

for seed in 0 2 1; do
  samplers=
  for beta in 0.5 0.7 1 1.5 2; do samplers="$samplers $out/semi-s$seed/last@beta=$beta"; done
  echo "evaluate policy-semi-s$seed --block-lengths 16 --samplers$samplers"
done | abreast

rm -rf "$out/heuristics-semi"
cp -r "$slice/heuristics-semi" "$out"
unmask plot --results "$out"/heuristics-semi "$out"/policy-*-s[012]/ --out "$out/report/pareto.png"
python "$here/matched.py" "$out" >"$out/report/matched.md"
report "$out"/*semi-s?/
