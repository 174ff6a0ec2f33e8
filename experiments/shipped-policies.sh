#!/usr/bin/env bash
# The policies that ship with the package, one for each embedded model: trained, put into src/unmask/policies/embedded, and measured beside
# heuristics on 1,000 test prompts (word problems: 200); the figures go into the model cards. Run it in a checkout without changes, so that
# each card names its commit. Some minutes each on one core; sudoku 15 to 20, word problems an hour. What is small ends in $out/report (docs/results/shipped).
# POLICIES="chain sudoku" makes these alone.
set -euo pipefail
out=${1:-runs/shipped}
source "$(dirname "$0")/common.sh"
policies=${POLICIES:-chain chain-dream chain-blocks sudoku sudoku-dream word-problems}

# The recipes are those of the scripts named beside them, with one seed; docs/results-recipes.md has three seeds of each.
warm="--imitation-rounds 8 --imitate"
range="--rounds 110 --alpha-range 0.3 10 --alpha 3 --no-hidden --no-joint --eval-temperature 1 --prompts 16 --lr 1e-3"
joint="--alpha 3 --joint --hidden --rounds 160 --lr 3e-4 --entropy-bonus 0.002 --prompts 24 --eval-temperature 0.5 --eval-prompts 512"
recipe() { # name: the options of its training
  case $1 in
    chain) echo "$range --seed 0 $warm entropy:0.3@block_length=16" ;; # warmstart.sh
    chain-blocks) echo "--rounds 120 --alpha 1 --seed 0" ;;            # chain-blocks.sh
    sudoku) echo "--task sudoku $joint --seed 0 $warm entropy:0.5" ;;  # sudoku.sh, warm-hidden
    # No other script has tried these two.
    chain-dream) echo "$range --seed 0 $warm entropy:0.3@block_length=16" ;;
    sudoku-dream) echo "--task sudoku $joint --seed 0 $warm entropy:0.5" ;;
    word-problems) echo "--task word-problems:unseen --alpha-range 0.1 40 --seed 0" ;; # one-policy.sh
  esac
}
measure() { # name: the options of its evaluation, but for the samplers
  case $1 in
    sudoku*) echo "--task sudoku --block-lengths 36" ;;
    word-problems) echo "--task word-problems --block-lengths 128 --prompts 200" ;;
    chain-blocks) ;;
    *) echo "--block-lengths 48" ;;
  esac
}
variants() { # name: its samplers
  case $(recipe "$1") in
    *"--alpha-range 0.1 40"*) printf " embedded/$1@alpha=%s" 0.1 1.5 6 15 40 ;;
    *--alpha-range*) printf " embedded/$1@alpha=%s" 0.3 1 3 10 ;;
    *) printf " embedded/$1%s" "" @beta=0.7 @beta=1.5 ;;
  esac
}
ship() { # name: puts it into the package, measures it there
  local model=embedded/$1
  python "$here/ship.py" "$model" "$out/$1/best"
  evaluate "of-$1" --model "$model" $(measure "$1") --samplers $(variants "$1") threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.3 entropy:0.5 entropy:1
  python "$here/ship.py" "$model" "$out/$1/best" "$out/of-$1"
}
export -f recipe measure variants ship
export warm range joint

# All are trained before the first is shipped, which changes the checkout.
for name in $policies; do echo "train $name --model embedded/$name $(recipe "$name")"; done | abreast
for name in $policies; do echo "set -e; ship $name"; done | abreast
for name in $policies; do report "$out/$name" "$out/of-$name"; done
