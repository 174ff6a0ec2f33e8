#!/usr/bin/env bash
# Policies of the paper's network (log-odds, no context) for both settings, two values of α and three training seeds; every sampler on 1,000 held-out prompts; figure and table.
# Two runs at a time, one core each: about an hour and a half on two cores. Finished parts are kept, interrupted trainings are resumed.
# What is small ends in $out/report, which docs/results/chain is a copy of.
set -euo pipefail
out=${1:-runs/slice}
source "$(dirname "$0")/common.sh"

{
  for alpha in 3 1; do
    for seed in 0 1 2; do
      echo "train full-a$alpha-s$seed --rounds 200 --no-context --alpha $alpha --seed $seed"
      echo "train semi-a$alpha-s$seed --rounds 200 --no-context --alpha $alpha --seed $seed --block-length 16"
    done
  done
  echo "train full-a3-s0-probability --rounds 200 --no-context --alpha 3 --seed 0 --transform probability" # the paper's input, for comparison
} | abreast

heuristics="confidence:1 confidence:2 confidence:4 confidence:6 confidence:8 confidence:12 threshold:0.95 threshold:0.9 threshold:0.8 threshold:0.7 threshold:0.6"
heuristics="$heuristics threshold:0.5 threshold:0.4 threshold:0.3 factor:0.5 factor:1 factor:2 entropy:0.1 entropy:0.3 entropy:0.5 entropy:0.7 entropy:1"
heuristics="$heuristics entropy:1.5 entropy:2 margin:2 margin:4 margin:8 random:1 random:4 random:8"
{
  for setting in full semi; do
    block_length=$([ $setting = full ] && echo 48 || echo 16)
    for run in "$out"/$setting-a*; do
      [ -d "$run/last" ] || continue
      samplers=
      for beta in 0.5 0.7 1 1.5 2; do samplers="$samplers $run/last@beta=$beta"; done
      echo "evaluate policy-$(basename "$run") --block-lengths $block_length --samplers$samplers"
    done
    echo "evaluate heuristics-$setting --block-lengths $block_length --samplers $heuristics"
  done
} | abreast

# Lower policy temperatures: the paper's 0.5 for short blocks, and what they do in full diffusion.
evaluate policy-full-tau --block-lengths 48 --samplers $(printf '%s/last@temperature=0.5 ' "$out"/full-a?-s?) $(printf '%s/last@temperature=0.25 ' "$out"/full-a?-s?)
evaluate policy-semi-tau0.5 --block-lengths 16 --samplers $(printf '%s/last@temperature=0.5 ' "$out"/semi-a?-s?)

unmask plot --results "$out"/heuristics-*/ "$out"/policy-*-s[012]/ --out "$out/report/pareto.png"
python "$here/matched.py" "$out" >"$out/report/matched.md"
python "$here/first_uncertain.py" "$out/report/first_uncertain.json" >/dev/null
report "$out"/*-*/
