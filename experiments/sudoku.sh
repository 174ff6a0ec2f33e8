#!/usr/bin/env bash
# The puzzle, where order is everything: full diffusion, α = 1, with and without the dense reward, three seeds each; and these policies on
# the chain task (domain transfer). Then two more recipes: α falling from 3 to 0.5 with the dense reward, with and without the frozen
# model's hidden states; and a warm start. An hour and a half on two cores. What is small ends in $out/report (docs/results/sudoku).
set -euo pipefail
out=${1:-runs/sudoku}
source "$(dirname "$0")/common.sh"

for seed in 0 1 2; do
  for dense in 0 2; do
    echo "train sudoku-d$dense-s$seed --model embedded/sudoku --task sudoku --rounds 100 --alpha 1 --dense $dense --seed $seed"
  done
done | abreast
for seed in 0 1 2; do
  common="--model embedded/sudoku --task sudoku --rounds 150 --alpha 0.5 --alpha-start 3 --dense 2 --seed $seed"
  echo "train falling-s$seed $common"
  echo "train falling-hidden-s$seed $common --hidden"
done | abreast

for seed in 0 1 2; do # a warm start, and what the entropy bound goes by as an input
  warm="--model embedded/sudoku --task sudoku --alpha 3 --seed $seed --joint --imitate entropy:0.5 --imitation-rounds 8 --rounds 160 --lr 3e-4"
  warm="$warm --entropy-bonus 0.002 --prompts 24 --eval-temperature 0.5 --eval-prompts 512"
  echo "train warm-hidden-s$seed $warm --hidden"
done | abreast

heuristics="confidence:1 confidence:2 confidence:4 confidence:6 threshold:0.95 threshold:0.9 threshold:0.8 threshold:0.7 threshold:0.5 factor:0.5 factor:1"
heuristics="$heuristics entropy:0.1 entropy:0.3 entropy:0.5 entropy:1 entropy:2 margin:2 margin:4 random:1 random:4"
{
  echo "evaluate heuristics --model embedded/sudoku --task sudoku --block-lengths 36 --samplers $heuristics"
  echo "evaluate heuristics-between --model embedded/sudoku --task sudoku --block-lengths 36 --samplers entropy:0.6 entropy:0.7 entropy:0.8 entropy:0.9"
  for dense in 0 2; do
    samplers=
    for beta in 0.5 0.7 1 1.5; do samplers="$samplers $(printf "$out/sudoku-d$dense-s%s/last@beta=$beta " 0 1 2)"; done
    samplers="$samplers $(printf "$out/sudoku-d$dense-s%s/last@temperature=0.5 " 0 1 2)"
    echo "evaluate policy-d$dense --model embedded/sudoku --task sudoku --block-lengths 36 --samplers $samplers"
    echo "evaluate to-chain-d$dense --block-lengths 48 --samplers $(printf "$out/sudoku-d$dense-s%s/last " 0 1 2)"
  done
  for kind in falling falling-hidden warm-hidden; do
    samplers=
    ends="last@beta=0.7 last last@temperature=0.5 last@temperature=0.25"
    case $kind in warm*) ends="last@temperature=1 last last@beta=0.7 last@temperature=0.25" ;; esac # saved with 0.5
    for end in $ends; do samplers="$samplers $(printf "$out/$kind-s%s/$end " 0 1 2)"; done
    echo "evaluate policy-$kind --model embedded/sudoku --task sudoku --block-lengths 36 --samplers $samplers"
  done
} | abreast

unmask plot --results "$out"/heuristics*/ "$out"/policy-*/ --out "$out/report/pareto.png"
report "$out"/heuristics*/ "$out"/policy-*/ "$out"/to-chain-*/ "$out"/sudoku-*/ "$out"/falling-*/ "$out"/warm-*/
