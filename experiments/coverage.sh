#!/usr/bin/env bash
# Do confident orders, written or learned, cost coverage? pass@k for k = 1, 4, 16 at sampling temperature 0.8: random order and heuristics beside
# the policies of one-policy.sh (three seeds), chain and word problems, full diffusion and in blocks. An hour on one core. Finished parts are kept.
# What is small ends in $out/report. docs/results/coverage is a copy of it without word problems in full diffusion, which were not run yet.
set -euo pipefail
out=${1:-runs/coverage}
source "$(dirname "$0")/common.sh"
one=${2:-runs/one-policy} # of one-policy.sh
needs one-policy.sh "$one"/{chain,words}-{full,semi}-s{0,1,2}/best

draws="--temperature 0.8 --seeds $(seq -s " " 0 15) --pass-k 1 4 16"
policies() { # setting, αs
  local setting=$1 seed alpha
  shift
  for alpha in "$@"; do for seed in 0 1 2; do printf " $one/$setting-s$seed/best@alpha=$alpha"; done; done
}
{
  chain="--model embedded/chain --task chain --prompts 200 $draws"
  echo "evaluate chain-full $chain --block-lengths 48 --samplers random:4 confidence:4 threshold:0.9 entropy:0.3 $(policies chain-full 0.3 16)"
  echo "evaluate chain-semi $chain --block-lengths 16 --samplers random:4 confidence:4 threshold:0.9 entropy:0.3 $(policies chain-semi 0.3 16)"
  words="--model embedded/word-problems --task word-problems --prompts 64 $draws"
  echo "evaluate words-full $words --block-lengths 128 --samplers random:8 threshold:0.9 entropy:0.5 $(policies words-full 6)"
  echo "evaluate words-semi $words --block-lengths 32 --samplers random:8 confidence:8 threshold:0.9 entropy:0.5 $(policies words-semi 1.5 40)"
} | abreast
report "$out"/chain-full "$out"/chain-semi "$out"/words-full "$out"/words-semi
