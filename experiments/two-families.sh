#!/usr/bin/env bash
# The whole path of a user with a GPU, on a CPU: a LLaDA-format and a Dream-format checkpoint, a policy trained for about two minutes on the
# first, evaluated on both beside heuristics, and asked from the command line. Some five minutes on two cores. What is small ends in $out/report.
set -euo pipefail
out=${1:-runs/two-families}
source "$(dirname "$0")/common.sh"
models=$out/models
if [ ! -d "$models" ]; then # made under another name, so that half of them are never taken
  rm -rf "$models.part"
  python "$here/real_formats.py" "$models.part"
  mv "$models.part" "$models"
fi
start=$SECONDS
train policy --model "$models/llada" --task chain --alpha 3 --rounds 55
echo "trained in $((SECONDS - start)) s"
for model in llada dream; do
  echo "evaluate on-$model --model $models/$model --task chain --prompts 500 --samplers $out/policy/last threshold:0.9 threshold:0.6 threshold:0.5 threshold:0.4 entropy:1 confidence:8"
done | abreast
report "$out/on-llada" "$out/on-dream" "$out/policy"
for model in llada dream; do
  unmask generate --model "$models/$model" --policy "$out/policy/last" --max-new-tokens 48 "7 a +5 b *3 ="
done
