#!/usr/bin/env bash
# The paper's figures on word problems in English, from the policies of one-policy.sh (three seeds): orders and token grids (Figs. 5, 7, 22, 24,
# 27-33), how texts end (closings.py), a longer buffer (18), and accuracy against wall clock (12). Half an hour on one core. Finished parts are kept. What is small ends in
# $out/report; docs/results/word-problems holds what was run of it, with the `last` policies; this script takes `best`.
set -euo pipefail
out=${1:-runs/words-figures}
source "$(dirname "$0")/common.sh"
one=${2:-runs/one-policy} # of one-policy.sh
needs one-policy.sh "$one"/words-full-s{0,1,2}/best "$one"/words-semi-s{0,1,2}/best

at="--model embedded/word-problems --task word-problems"
policies() { # setting, decode-time settings: the three seeds
  printf " $one/words-$1-s%s/best$2" 0 1 2
}
{
  echo "evaluate order-full $at --traces --prompts 64 --block-lengths 128 --samplers threshold:0.9 entropy:0.5 $(policies full @alpha=1.5)"
  echo "evaluate order-semi $at --traces --prompts 64 --block-lengths 32 --samplers threshold:0.9 entropy:0.5 $(policies semi @alpha=1.5)"
  echo "evaluate closings-semi $at --traces --prompts 500 --block-lengths 32 --samplers threshold:0.9 entropy:0.5 entropy:1 $(policies semi @alpha=6) $(policies semi @alpha=40)"
  echo "evaluate longer-full $at --max-new-tokens 192 --prompts 300 --block-lengths 192 --samplers $(policies full @alpha=1.5)"
  echo "evaluate longer-semi $at --max-new-tokens 192 --prompts 300 --block-lengths 32 --samplers $(policies semi @alpha=1.5)"
} | abreast
for setting in full semi; do
  rm -rf "$out/report/order-$setting"
  unmask analyze --results "$out/order-$setting" --out "$out/report/order-$setting"
done
python "$here/closings.py" "$out/report/closings-semi.json" "$out/closings-semi"
evaluate wallclock $at --prompts 200 --block-lengths 128 --samplers threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.5 entropy:1 $(policies full @alpha=0.1) $(policies full @alpha=6) $(policies full @alpha=40)
unmask plot --results "$out/wallclock" --against seconds --out "$out/report/wallclock.png"
report "$out"/longer-full "$out"/longer-semi "$out"/order-full "$out"/order-semi "$out"/wallclock
