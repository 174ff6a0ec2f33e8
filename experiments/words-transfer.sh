#!/usr/bin/env bash
# Does a policy of word problems serve another model, problems of other templates, and another domain? In blocks, as `--alpha-range` trains, without
# hidden states, which another model has not: one policy on a second model of the same problems (Dream's format, another seed and tokenizer; a
# download-free recipe); one of 17 templates on the six others, beside one that knows all; that one on chain, and policies of chain on word problems
# (SEEDS="0 1 2" by default; "" leaves them out). α grows with L: the same share of the reward for a pass.
#   bash experiments/words-transfer.sh [OUT] [PARTS…]
# PARTS: some of model, templates, domain; all by default (never run at once). ROUNDS and PROMPTS (a round) are 100 and 32 by default: an hour to an
# hour and a half for a policy of word problems on one core, four in fp32. The second model takes two hours. Finished parts are kept.
# What is small ends in $out/report.
set -euo pipefail
out=${1:-runs/words-transfer}
source "$(dirname "$0")/common.sh"
parts=${*:2}
parts=${parts:-model templates domain}
for part in $parts; do
  case $part in
    model | domain | templates) ;;
    *) echo "$part is no part; give some of model, domain, templates" >&2 && exit 2 ;;
  esac
done

words="--model embedded/word-problems" chain="--model embedded/chain --task chain" second="--model $out/second"
second_model() { # trains it, goes on or skips
  local resume= log="$out/second/loss.jsonl"
  if [ -f "$out/second/recipe.json" ]; then resume=--resume; fi
  if [ -f "$log" ] && tail -n 1 "$log" | grep -q '"step": 11000'; then return; fi
  unmask pretrain --task word-problems --family dream --seed 1 --vocabulary 2048 --whole-numbers 200 --number-waves 0.3 --buffer-lengths 48 192 \
    --width 192 --heads 6 --batch-size 16 --save-every 250 --compile --result-lines 32 --steps 11000 --out "$out/second" $resume >>"$out/second.log" 2>&1 || failed second
}
export -f second_model
along() { # policy, αs
  printf " $1@alpha=%s" "${@:2}"
}
from_words="0.1 0.3 0.6 1.5 10 40"
heuristics="threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.3 entropy:0.5 entropy:0.7 entropy:1 entropy:1.5 entropy:2"

rounds="--rounds ${ROUNDS:-100} --prompts ${PROMPTS:-32}"
on_words="$words --block-length 32 --alpha-range 0.1 40 --no-hidden --seed 0 $rounds"
case $parts in *model*) train+=("train no-hidden-s0 $on_words --task word-problems:unseen") ;; esac
# Both learn on problems that the model has seen, so that they differ in the templates alone.
case $parts in *templates*) train+=("train templates-s0 $on_words --task word-problems:templates") ;; esac
case $parts in *templates* | *domain*) train+=("train all-s0 $on_words --task word-problems") ;; esac
case $parts in *domain*)
  for seed in ${SEEDS-0 1 2}; do train+=("train chain-s$seed $chain --block-length 16 --alpha-range 0.05 16 --no-hidden --seed $seed $rounds"); done ;;
esac
case $parts in *model*) train+=("second_model") ;; esac
printf '%s\n' "${train[@]}" | abreast

beside() { # name, heuristics' name: their comparison
  unmask compare-fronts "$out/$1" "$out/$2" --out "$out/report/$1-against-$2.json"
  report "$out/$1" "$out/$2"
}
fewer="threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.5 entropy:1 entropy:2"
case $parts in *model*)
  in_blocks="--task word-problems --prompts 500 --block-lengths 32 --samplers"
  evaluate heuristics-second $second $in_blocks $heuristics
  evaluate policy-second $second $in_blocks $(along "$out/no-hidden-s0/best" $from_words)
  evaluate policy-home $words $in_blocks $(along "$out/no-hidden-s0/best" $from_words)
  beside policy-second heuristics-second
  report "$out/policy-home" "$out/no-hidden-s0" "$out/second"
  ;;
esac
case $parts in *templates*)
  others="$words --task word-problems:templates --prompts 500 --block-lengths 32 --samplers"
  for problems in templates all; do evaluate $problems-others $others $(along "$out/$problems-s0/best" 0.1 1.5 10 40); done
  evaluate heuristics-others $others $fewer
  beside templates-others all-others
  beside templates-others heuristics-others
  report "$out/templates-s0" "$out/all-s0"
  ;;
esac
case $parts in *domain*)
  evaluate all-chain $chain --prompts 500 --block-lengths 16 --samplers $(along "$out/all-s0/best" $from_words)
  evaluate heuristics-chain $chain --prompts 500 --block-lengths 16 --samplers $fewer
  beside all-chain heuristics-chain
  evaluate heuristics-words $words --task word-problems --prompts 500 --block-lengths 32 --samplers $fewer
  for seed in ${SEEDS-0 1 2}; do
    policy=$(along "$out/chain-s$seed/best" 0.05 0.6 4 16)
    evaluate chain-s$seed-words $words --task word-problems --prompts 500 --block-lengths 32 --samplers $policy
    evaluate chain-s$seed-chain $chain --prompts 500 --block-lengths 16 --samplers $policy
    beside chain-s$seed-words heuristics-words
    report "$out/chain-s$seed-chain" "$out/chain-s$seed"
  done
  report "$out/all-s0"
  ;;
esac
