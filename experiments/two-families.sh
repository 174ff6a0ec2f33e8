#!/usr/bin/env bash
# The whole path of a user with a GPU, on a CPU: a LLaDA-format and a Dream-format checkpoint, a policy trained for about two minutes on the
# first, evaluated on both beside a heuristic, and asked from the command line. Some five minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-runs/two-families}
export OMP_NUM_THREADS=1
python "$here/real_formats.py" "$out"
start=$SECONDS
unmask train --model "$out/llada" --task chain --alpha 3 --rounds 55 --mixed-precision --out "$out/policy"
echo "trained in $((SECONDS - start)) s"
for model in llada dream; do
  unmask evaluate --model "$out/$model" --task chain --prompts 500 --out "$out/on-$model" \
    --samplers "$out/policy/last" threshold:0.9 threshold:0.6 threshold:0.5 threshold:0.4 entropy:1 confidence:8 &
done
wait
for model in llada dream; do
  unmask generate --model "$out/$model" --policy "$out/policy/last" --max-new-tokens 48 "7 a +5 b *3 ="
done
