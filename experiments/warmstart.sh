#!/usr/bin/env bash
# Where training begins: warm, after eight rounds of imitation, or steered by an expert in every round, in half of the rollouts of the policies of
# conditioned.sh, which begin from scratch. Full diffusion, one policy for every α from 0.3 to 10. The heuristics to learn from are semi-autoregressive
# (blocks of 16), where they are good. Three seeds, 1,000 test prompts; traces of 256 (Fig. 7). Half an hour on two cores.
# What is small ends in $out/report (docs/results/warmstart).
set -euo pipefail
out=${1:-runs/warmstart}
source "$(dirname "$0")/common.sh"
plain="--no-hidden --no-joint --eval-temperature 1" # not the recipe of one-policy.sh
scratch=${2:-$here/../docs/results/conditioned} # of conditioned.sh: policy-s0 to s2
slice=${3:-$here/../docs/results/chain}         # of vertical-slice.sh: the heuristics

{
  for seed in 0 1 2; do
    echo "train warm-s$seed --rounds 110 --alpha-range 0.3 10 --alpha 3 $plain --seed $seed --imitate entropy:0.3@block_length=16 --imitation-rounds 8"
  done
  for seed in 0 1 2; do
    echo "train steered-s$seed --rounds 98 --alpha-range 0.3 10 --alpha 3 $plain --imitate --seed $seed --experts threshold:0.9@block_length=16" # 9 rollouts a prompt
  done
} | abreast

{
  for kind in warm steered; do
    for seed in 0 1 2; do
      samplers=
      for alpha in 0.3 0.6 1 1.8 3 5.6 10; do samplers="$samplers $out/$kind-s$seed/last@alpha=$alpha"; done
      echo "evaluate policy-$kind-s$seed --block-lengths 48 --samplers $samplers"
    done
  done
  rivals="confidence:1 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.3 entropy:1" # transfer (Fig. 8)
  echo "evaluate to-dream --model embedded/chain-dream --prompts 500 --block-lengths 48 --samplers $rivals $(printf " $out/warm-s%s/last@alpha=3" 0 1 2)"
  echo "evaluate order --traces --prompts 256 --block-lengths 48 --samplers threshold:0.9 threshold:0.9@block_length=16 entropy:0.3@block_length=16 $(printf " $out/warm-s%s/last@alpha=3" 0 1 2) $(printf " $out/steered-s%s/last@alpha=3" 0 1 2)"
} | abreast

rm -rf "$out/report/order"
unmask analyze --results "$out/order" --out "$out/report/order"
unmask plot --results "$out"/policy-*/ "$scratch"/policy-s?/ "$slice"/heuristics-*/ --out "$out/report/pareto.png"
report "$out"/policy-*/ "$out/order" "$out/to-dream" "$out"/warm-s?/ "$out"/steered-s?/
