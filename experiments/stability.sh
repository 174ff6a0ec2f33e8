#!/usr/bin/env bash
# Large α over five seeds (Fig. 15), full diffusion, the trainer's defaults: α = 10 as it is, and with what might make it stable: α rising from 1, an entropy
# bonus, a smaller step. (Curves for α = 0.3, 1 and 3, of Figs. 3 and 14, are those of the separate policies of conditioned.sh.) Forty minutes on two cores.
# What is small ends in $out/report (docs/results/stability).
set -euo pipefail
out=${1:-runs/stability}
source "$(dirname "$0")/common.sh"

for seed in 0 1 2 3 4; do
  echo "train a10-s$seed --rounds 50 --alpha 10 --seed $seed"
  echo "train a10-rising-s$seed --rounds 50 --alpha 10 --alpha-start 1 --seed $seed"
  echo "train a10-bonus-s$seed --rounds 50 --alpha 10 --entropy-bonus 0.003 --seed $seed"
  echo "train a10-small-s$seed --rounds 50 --alpha 10 --lr 3e-4 --seed $seed"
done | abreast

for kind in a10 a10-rising a10-bonus a10-small; do
  echo "evaluate policy-$kind --block-lengths 48 --samplers $(printf "$out/$kind-s%s/last " 0 1 2 3 4)"
done | abreast

report "$out"/policy-*/ "$out"/a*-s?/
