#!/usr/bin/env bash
# The paper's ablations (Figs. 9, 20), expert steering, the warm start and the dense reward: full diffusion, α = 3, three seeds each; every variant is `base` (the paper's
# network with log-odds inputs) but for the options that it names. `half` and `warm` have half of the rounds: is imitation worth the other half?
# About an hour and a half on two cores. What is small ends in $out/report (docs/results/ablations).
set -euo pipefail
out=${1:-runs/ablations}
source "$(dirname "$0")/common.sh"

kinds="base additive dpls steered half warm dense hidden top5"
for kind in $kinds; do
  case $kind in
    base) options="--no-context" ;;
    additive) options="--no-context --reward additive" ;;
    dpls) options="--no-context --action plackett-luce --initial-bias -2" ;;
    steered) options="--no-context --experts threshold:0.9" ;;
    half) options="--no-context --rounds 50" ;;
    warm) options="--no-context --rounds 50 --imitate entropy:1 --imitation-rounds 8" ;;
    dense) options="--no-context --dense 2" ;;
    hidden) options="--no-context --hidden" ;;
    top5) options="--no-context --inputs 5" ;;
  esac
  for seed in 0 1 2; do echo "train $kind-s$seed --alpha 3 --rounds 100 --seed $seed $options"; done
done | abreast

for kind in $kinds; do
  echo "evaluate policy-$kind --block-lengths 48 --samplers $(printf "$out/$kind-s%s/last " 0 1 2) $(printf "$out/$kind-s%s/last@temperature=0.5 " 0 1 2)"
done | abreast

report "$out"/policy-*/ "$out"/*-s?/
