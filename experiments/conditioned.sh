#!/usr/bin/env bash
# One policy for every α from 0.3 to 10, full diffusion, three seeds: its front along α, and whether a target NFE is met, on 1,000 test prompts; beside it
# four separate policies with a quarter of its rounds each, so that the whole front has cost the same training.
# An hour on two cores. What is small ends in $out/report (docs/results/conditioned).
set -euo pipefail
out=${1:-runs/conditioned}
source "$(dirname "$0")/common.sh"
plain="--no-hidden --no-joint --eval-temperature 1" # not the recipe of one-policy.sh
slice=${2:-$here/../docs/results/chain} # of vertical-slice.sh: the heuristics

{
  for seed in 0 1 2; do
    echo "train s$seed --rounds 220 --alpha-range 0.3 10 --alpha 3 $plain --imitate --seed $seed"
    for alpha in 0.3 1 3 10; do echo "train separate-a$alpha-s$seed --rounds 55 --alpha $alpha --seed $seed"; done
  done
} | abreast

for seed in 0 1 2; do
  samplers=
  for alpha in 0.3 0.6 1 1.8 3 5.6 10; do samplers="$samplers $out/s$seed/last@alpha=$alpha"; done
  targets=$(python -c "import json; ns = [e['nfe'] for e in json.load(open('$out/s$seed/last/config.json'))['metadata']['pareto']]; lo, hi = min(ns), max(ns)
print(*(round(lo + (hi - lo) * i / 4, 2) for i in (1, 2, 3)))")
  for nfe in $targets; do samplers="$samplers $out/s$seed/last@nfe=$nfe"; done
  echo "evaluate policy-s$seed --block-lengths 48 --samplers $samplers"
  echo "evaluate separate-s$seed --block-lengths 48 --samplers $(printf "$out/separate-a%s-s$seed/last " 0.3 1 3 10)"
done | abreast

unmask plot --results "$out"/policy-s?/ "$out"/separate-s?/ "$slice/heuristics-full" --out "$out/report/pareto.png"
report "$out"/policy-s?/ "$out"/separate-*s?/ "$out"/s?/
