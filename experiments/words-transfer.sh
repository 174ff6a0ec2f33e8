#!/usr/bin/env bash
# Does a policy of word problems serve problems of other templates, and another domain? In blocks, as `--alpha-range` trains: one policy of 17 templates on
# the six others, beside those of one-policy.sh, which know all; and policies without hidden states, which another model can use: from word problems
# to chain (one) and from chain to word problems (three seeds). α grows with L: the same share of the reward for a pass.
# Three hours on one core (an estimate: not run yet). Finished parts are kept. What is small ends in $out/report.
set -euo pipefail
out=${1:-runs/words-transfer}
source "$(dirname "$0")/common.sh"
one=${2:-runs/one-policy} # of one-policy.sh

words="--model embedded/word-problems" chain="--model embedded/chain --task chain"
{
  echo "train templates-s0 $words --task word-problems:templates --block-length 32 --alpha-range 0.1 40 --seed 0"
  echo "train words-s0 $words --task word-problems:unseen --block-length 32 --alpha-range 0.1 40 --no-hidden --seed 0"
  for seed in 0 1 2; do echo "train chain-s$seed $chain --block-length 16 --alpha-range 0.05 16 --no-hidden --seed $seed"; done
} | abreast

along() { # policy, αs
  printf " $1@alpha=%s" "${@:2}"
}
all=$(for seed in 0 1 2; do along "$one/words-semi-s$seed/last" 0.1 1.5 10 40; done)
heuristics="threshold:0.9 threshold:0.7 entropy:0.3 entropy:0.7 entropy:1"
from_chain=$(for seed in 0 1 2; do along "$out/chain-s$seed/last" 0.05 0.6 4 16; done)
from_words=$(along "$out/words-s0/last" 0.1 1.5 10 40)
{
  echo "evaluate other-templates $words --task word-problems:templates --block-lengths 32 --samplers $(along "$out/templates-s0/last" 0.1 1.5 10 40) $all $heuristics"
  echo "evaluate on-words $words --task word-problems --prompts 500 --block-lengths 32 --samplers $from_words $from_chain"
  echo "evaluate on-chain $chain --prompts 500 --block-lengths 16 --samplers $from_chain $from_words"
} | abreast
report "$out"/other-templates "$out"/on-words "$out"/on-chain "$out"/templates-s0 "$out"/words-s0 "$out"/chain-s?
