#!/usr/bin/env bash
# Where training begins: from scratch, steered by an expert, or warm, after eight rounds of imitation. Full diffusion, one policy for every α from 0.3 to
# 10; the expert is semi-autoregressive (blocks of 16), where the heuristics are good. Each has half of the rounds of conditioned.sh, whose policies
# (220 rounds from scratch) they are compared with. Three seeds, 1,000 test prompts. Forty minutes on two cores.
# What is small ends in $out/report (docs/results/warmstart).
set -euo pipefail
out=${1:-runs/warmstart}
source "$(dirname "$0")/common.sh"
twice=${2:-$here/../docs/results/conditioned} # of conditioned.sh: policy-s0 to s2

for seed in 0 1 2; do
  common="--rounds 110 --alpha-range 0.3 10 --alpha 3 --seed $seed"
  echo "train warm-s$seed $common --imitate entropy:0.3@block_length=16 --imitation-rounds 8 --entropy-bonus 0.003"
  echo "train steered-s$seed $common --experts threshold:0.9@block_length=16"
  echo "train scratch-s$seed $common"
done | abreast

for kind in warm steered scratch; do
  for seed in 0 1 2; do
    samplers=
    for alpha in 0.3 0.6 1 1.8 3 5.6 10; do samplers="$samplers $out/$kind-s$seed/last@alpha=$alpha"; done
    for beta in 2 4; do samplers="$samplers $out/$kind-s$seed/last@alpha=10,beta=$beta"; done
    echo "evaluate policy-$kind-s$seed --block-lengths 48 --samplers $samplers"
  done
done | abreast

unmask plot --results "$out"/policy-warm-s?/ "$out"/policy-steered-s?/ "$twice"/policy-s?/ --out "$out/report/pareto.png"
report "$out"/policy-*/ "$out"/*-s?/
