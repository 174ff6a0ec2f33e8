#!/usr/bin/env bash
# The small model of word problems in English, in the stages that made the one that ships: each goes on where the one before it ended, with
# another schedule. Four to five hours on one core, and as much again for the heuristics, on 1,000 test prompts each. A run that was killed goes on
# with the stage it was in.
# The weights that ship saw other problems in their first 50,000 steps: numbers up to 200, any number of operations in an equation, and 30
# templates instead of 23. What this script makes is therefore not the same, bit for bit.
set -euo pipefail
out=${1:-runs/word-problems}
source "$(dirname "$0")/common.sh"

stage() { # steps, cooldown, step to stop behind
  local log="$out/model/loss.jsonl" done=0 resume=
  if [ -f "$out/model/recipe.json" ]; then resume=--resume; fi
  if [ -f "$log" ]; then done=$(tail -n 1 "$log" | sed 's/[^0-9]*\([0-9]*\).*/\1/'); fi
  if [ "$done" -ge "$3" ]; then return; fi
  unmask pretrain --task word-problems --vocabulary 2048 --whole-numbers 200 --number-waves 0.3 --buffer-lengths 48 192 \
    --width 192 --heads 6 --batch-size 16 --save-every 250 --compile --out "$out/model" $resume \
    --steps "$1" --cooldown "$2" --result-lines 32 --until "$3" >>"$out/model.log" 2>&1 || failed model
}
stage 20000 0.6 20000
stage 44000 1 44000
stage 90000 1 50000
stage 76000 1 53000
stage 68000 1 68000

heuristics="confidence:2 confidence:4 confidence:8 confidence:16 margin:4 margin:8 random:4"
for value in 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.95; do heuristics="$heuristics threshold:$value"; done
for value in 0.1 0.2 0.3 0.5 0.7 1 1.5 2; do heuristics="$heuristics entropy:$value"; done
for value in 0.5 1 2 4; do heuristics="$heuristics factor:$value"; done
at="--model $out/model --task word-problems"
for blocks in 32 128; do
  echo "evaluate heuristics-$blocks $at --block-lengths $blocks --samplers $heuristics"
  echo "evaluate templates-$blocks $at:templates --block-lengths $blocks --samplers threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.3 entropy:0.5 entropy:1 entropy:1.5"
  echo "evaluate one-at-a-time-$blocks $at --block-lengths $blocks --samplers confidence:1"
done | abreast
evaluate longer $at --max-new-tokens 192 --block-lengths 32 192 --samplers confidence:1 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.3 entropy:0.5 entropy:1 entropy:1.5
report "$out"/heuristics-*/ "$out"/one-at-a-time-*/ "$out"/templates-*/ "$out/longer" "$out/model"
