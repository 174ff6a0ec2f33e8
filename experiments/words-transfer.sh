#!/usr/bin/env bash
# Does a policy of word problems serve another model, problems of other templates, and another domain? In blocks, as `--alpha-range` trains (100
# rounds): policies without hidden states, which another model can use, on a second model of the same problems (Dream's format, another seed and
# tokenizer; a download-free recipe), from word problems to chain (one) and from chain to word problems (three seeds); and one policy of 17 templates on
# the six others, beside one that knows all. α grows with L: the same share of the reward for a pass.
#   bash experiments/words-transfer.sh [OUT] [PARTS…]
# PARTS: some of model, domain, templates; all by default (only "model" was run, with the `last` policy). On one core two hours for the second model,
# an hour to an hour and a half for a policy. Finished parts are kept. What is small ends in $out/report.
set -euo pipefail
out=${1:-runs/words-transfer}
source "$(dirname "$0")/common.sh"
parts=${*:2}
parts=${parts:-model domain templates}
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
from_words=$(along "$out/no-hidden-s0/best" 0.1 0.3 0.6 1.5 10 40)
heuristics="threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.3 entropy:0.5 entropy:0.7 entropy:1 entropy:1.5 entropy:2"

case $parts in *model* | *domain*)
  train=("train no-hidden-s0 $words --task word-problems:unseen --block-length 32 --alpha-range 0.1 40 --no-hidden --seed 0 --rounds 100") ;;
esac
case $parts in *domain*)
  for seed in 0 1 2; do train+=("train chain-s$seed $chain --block-length 16 --alpha-range 0.05 16 --no-hidden --seed $seed --rounds 100"); done ;;
esac
case $parts in *templates*)
  # Both learn on problems that the model has seen, so that they differ in the templates alone.
  for problems in templates all; do
    task=word-problems$([ $problems = all ] || echo :templates)
    train+=("train $problems-s0 $words --task $task --block-length 32 --alpha-range 0.1 40 --seed 0 --rounds 100")
  done
  ;;
esac
case $parts in *model*) train+=("second_model") ;; esac
printf '%s\n' "${train[@]}" | abreast

case $parts in *model*)
  evaluate heuristics-second $second --task word-problems --prompts 500 --block-lengths 32 --samplers $heuristics
  evaluate policy-second $second --task word-problems --prompts 500 --block-lengths 32 --samplers $from_words
  evaluate policy-home $words --task word-problems --prompts 500 --block-lengths 32 --samplers $from_words
  unmask compare-fronts "$out/policy-second" "$out/heuristics-second" --out "$out/report/second-against-heuristics.json"
  report "$out/heuristics-second" "$out/policy-second" "$out/policy-home" "$out/no-hidden-s0" "$out/second"
  ;;
esac
case $parts in *domain*)
  from_chain=$(for seed in 0 1 2; do along "$out/chain-s$seed/best" 0.05 0.6 4 16; done)
  evaluate on-words $words --task word-problems --prompts 500 --block-lengths 32 --samplers $from_words $from_chain
  evaluate on-chain $chain --prompts 500 --block-lengths 16 --samplers $from_chain $from_words
  report "$out/on-words" "$out/on-chain" "$out"/chain-s?
  ;;
esac
case $parts in *templates*)
  policies=$(for problems in templates all; do along "$out/$problems-s0/best" 0.1 1.5 10 40; done)
  evaluate other-templates $words --task word-problems:templates --block-lengths 32 --samplers $policies $heuristics
  report "$out/other-templates" "$out/templates-s0" "$out/all-s0"
  ;;
esac
