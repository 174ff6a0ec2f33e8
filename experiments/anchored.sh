#!/usr/bin/env bash
# A KL penalty to the policy that the warm start leaves (`--kl-penalty`), on sudoku in full diffusion: policies for a range of α as `unmask train
# --alpha-range` trains them, with the penalty; their fronts beside the entropy bound's. What they are without it is in one-policy.sh. 20 to 35
# minutes a seed on one core. Finished parts are kept. What is small ends in $out/report (docs/results/anchored).
#   bash experiments/anchored.sh [OUT] [SEEDS…]   (0 1 2; docs/results/anchored has 1, and a default run in fp32)
set -euo pipefail
out=${1:-runs/anchored}
seeds=${*:2}
seeds=${seeds:-0 1 2}
source "$(dirname "$0")/common.sh"

at="--model embedded/sudoku --task sudoku"
for seed in $seeds; do
  echo "train sudoku-full-s$seed $at --alpha-range 0.05 12 --kl-penalty 0.01 --seed $seed"
done | abreast
{
  for seed in $seeds; do
    echo "evaluate policy-s$seed $at --block-lengths 36 --samplers $(printf " $out/sudoku-full-s$seed/best@alpha=%s" 0.05 0.3 0.6 1 1.8 3 5.6 10 12)"
  done
  echo "evaluate heuristics $at --block-lengths 36 --samplers $(printf ' entropy:%s' 0.1 0.2 0.3 0.4 0.45 0.5 0.55 0.6 0.65 0.7 0.8 1 1.5 2)"
} | abreast
unmask compare-fronts "$out/policy-s?" "$out/heuristics" --out "$out/report/against-heuristics.json"
report "$out"/policy-s?/ "$out/heuristics" "$out"/sudoku-full-s?/
