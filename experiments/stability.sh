#!/usr/bin/env bash
# Training curves by α (Figs. 3, 14) and large α over five seeds (Fig. 15): full diffusion, the trainer's defaults. At α = 10 also what might make it
# stable: α rising from 1, an entropy bonus, a smaller step. About an hour on two cores. What is small ends in $out/report (docs/results/stability).
set -euo pipefail
out=${1:-runs/stability}
source "$(dirname "$0")/common.sh"

{
  for seed in 0 1 2 3 4; do
    echo "train a10-s$seed --rounds 80 --alpha 10 --seed $seed"
    echo "train a10-rising-s$seed --rounds 80 --alpha 10 --alpha-start 1 --seed $seed"
    echo "train a10-bonus-s$seed --rounds 80 --alpha 10 --entropy-bonus 0.003 --seed $seed"
    echo "train a10-small-s$seed --rounds 80 --alpha 10 --lr 3e-4 --seed $seed"
  done
  for alpha in 3 1 0.3; do
    for seed in 0 1 2; do echo "train a$alpha-s$seed --rounds 80 --alpha $alpha --seed $seed"; done
  done
} | abreast

for kind in a10 a10-rising a10-bonus a10-small; do
  echo "evaluate policy-$kind --block-lengths 48 --samplers $(printf "$out/$kind-s%s/last " 0 1 2 3 4)"
done | abreast
for kind in a3 a1 a0.3; do echo "evaluate policy-$kind --block-lengths 48 --samplers $(printf "$out/$kind-s%s/last " 0 1 2)"; done | abreast

report "$out"/policy-*/ "$out"/a*-s?/
