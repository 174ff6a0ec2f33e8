#!/usr/bin/env bash
# The paper's figures that need no further training, from trained policies, three seeds in each setting: orders and token grids (Figs. 5, 7,
# 22, 24, 27-33), knobs (6, 16), transfer (8, 17, 18), zeroed inputs (9, 20), non-greedy decoding (19). About half an hour on two cores.
# Finished parts are kept. What is small ends in $out/report, which docs/results/figures is a copy of.
set -euo pipefail
out=${1:-runs/figures}
source "$(dirname "$0")/common.sh"
slice=${2:-runs/slice}       # of vertical-slice.sh: full-a3-s0 to s2
annealed=${3:-runs/annealed} # of annealed.sh: semi-s0 to s2

with() { # setting, decode-time settings: the three seeds' policies
  local run=$annealed/semi-s
  if [ "$1" = full ]; then run=$slice/full-a3-s; fi
  printf " $run%s/last$2" 0 1 2
}
declare -A bl=([full]=48 [semi]=16)
{
  for setting in full semi; do
    heuristics="confidence:1 threshold:0.9 entropy:0.3"
    echo "evaluate order-$setting --traces --prompts 256 --block-lengths ${bl[$setting]} --samplers $heuristics $(with $setting "")"
    knobs=
    for beta in 0.3 0.5 0.7 1 1.5 2 3; do knobs="$knobs $(with $setting "@beta=$beta")"; done
    for tau in 0.25 0.5 1 2; do knobs="$knobs $(with $setting "@temperature=$tau")"; done
    echo "evaluate knobs-$setting --prompts 256 --block-lengths ${bl[$setting]} --samplers $knobs"
    echo "evaluate zeroed-$setting --prompts 256 --block-lengths ${bl[$setting]} --samplers $(with $setting "") $(with $setting @zero=time) $(with $setting @zero=mask) $(with $setting @zero=time+mask)"
    rivals="confidence:1 confidence:4 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.3 entropy:1"
    echo "evaluate to-dream-$setting --model embedded/chain-dream --prompts 500 --block-lengths ${bl[$setting]} --samplers $rivals $(with $setting "")"
    echo "evaluate to-length-96-$setting --max-new-tokens 96 --prompts 256 --block-lengths $([ $setting = full ] && echo 96 || echo 16) --samplers $rivals $(with $setting "")"
    echo "evaluate to-sudoku-$setting --model embedded/sudoku --task sudoku --prompts 256 --block-lengths $([ $setting = full ] && echo 36 || echo 18) --samplers $rivals $(with $setting "")"
    echo "evaluate sampled-$setting --temperature 0.8 --seeds 0 1 2 3 4 5 6 7 --pass-k 1 2 4 8 --prompts 128 --block-lengths ${bl[$setting]} --samplers threshold:0.9 threshold:0.5 $(with $setting "")"
  done
} | abreast

for setting in full semi; do
  rm -rf "$out/report/order-$setting"
  unmask analyze --results "$out/order-$setting" --out "$out/report/order-$setting"
  for name in knobs to-dream to-length-96 to-sudoku; do
    unmask plot --results "$out/$name-$setting" --out "$out/report/$name-$setting.png"
  done
done
report "$out"/*-full/ "$out"/*-semi/
