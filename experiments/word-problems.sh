#!/usr/bin/env bash
# The small model of word problems in English, in the stages that made the one that ships: its schedule was changed while it was trained,
# and single lines came in at step 7,000, when sums were learned too slowly. An hour and a half on one busy core. A run that was killed
# goes on with the stage it was in. Then the model is evaluated on 200 test prompts.
# To train it for longer: unmask pretrain --resume with more --steps, as in the last stage.
set -euo pipefail
out=${1:-runs/word-problems}
source "$(dirname "$0")/common.sh"

stage() { # steps, cooldown, lines, step to stop behind
  local log="$out/model/loss.jsonl" done=0 resume=
  if [ -f "$log" ]; then
    done=$(tail -n 1 "$log" | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    resume=--resume
  fi
  if [ "$done" -ge "$4" ]; then return; fi
  unmask pretrain --task word-problems --vocabulary 2048 --whole-numbers 100 --number-waves 0.3 --buffer-lengths 48 192 \
    --width 160 --heads 5 --batch-size 16 --save-every 250 --compile --out "$out/model" $resume \
    --steps "$1" --cooldown "$2" --result-lines "$3" --until "$4" >>"$out/model.log" 2>&1
}
stage 20000 0.6 0 4250
stage 10500 0.55 0 7000
stage 11500 0.57 32 8000
stage 14000 0.66 32 11750
stage 18000 0.7 48 14250
stage 20000 0.75 48 16000
stage 19000 0.58 48 19000

heuristics="confidence:1 confidence:2 confidence:4 threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.5 confidence:32"
for length in 128 192; do
  echo "evaluate heuristics-$length --model $out/model --task word-problems --prompts 200 --max-new-tokens $length --block-lengths 32 $length --samplers $heuristics"
done | abreast
report "$out"/heuristics-*/ "$out/model"
