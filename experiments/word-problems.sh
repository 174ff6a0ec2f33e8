#!/usr/bin/env bash
# The small model of word problems in English: pre-trained on one core (STEPS more for a longer run; a run that was killed goes on), then
# evaluated one token at a time, by threshold and all at once, semi-autoregressively and in full diffusion, on 256 test prompts.
# The model that ships was made by the first command (src/unmask/models/embedded/word-problems/recipe.json).
set -euo pipefail
out=${1:-runs/word-problems}
source "$(dirname "$0")/common.sh"

resume=
if [ -f "$out/model/checkpoint.safetensors" ]; then resume=--resume; fi
unmask pretrain --task word-problems --vocabulary 2048 --whole-numbers 100 --number-waves 0.3 --buffer-lengths 48 192 \
  --width 160 --heads 5 --batch-size 16 --steps "${STEPS:-12500}" --cooldown "${COOLDOWN:-0.42}" \
  --save-every 250 --compile --out "$out/model" $resume >>"$out/model.log" 2>&1

heuristics="confidence:1 confidence:2 confidence:4 threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.5 confidence:32"
for length in 128 192; do
  echo "evaluate heuristics-$length --model $out/model --task word-problems --prompts 256 --max-new-tokens $length --block-lengths 32 $length --samplers $heuristics"
done | abreast
report "$out"/heuristics-*/ "$out/model"
