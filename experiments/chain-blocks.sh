#!/usr/bin/env bash
# The block-causal embedded model (b = 16), policies trained on it with three seeds and two values of alpha, and every sampler on 1,000 held-out
# prompts; figure and table. Two runs at a time, one core each. Finished parts are kept, interrupted trainings are resumed.
set -euo pipefail
out=${1:-runs/chain-blocks}
source "$(dirname "$0")/common.sh"
model=${MODEL:-embedded/chain-blocks}

# How the embedded model was made (MODEL=$out/model uses a new one):
# unmask pretrain --task chain --attention-block 16 --steps 8000 --compile --out "$out/model"

# The default recipe; and, as an ablation, policies that do not read their neighbours' confidences, which take longer.
{
  for alpha in 3 1; do
    for seed in 0 1 2; do echo "train blocks-a$alpha-s$seed --model $model --rounds 120 --alpha $alpha --seed $seed"; done
  done
  for seed in 0 1 2; do echo "train lone-a3-s$seed --model $model --rounds 200 --no-context --alpha 3 --seed $seed"; done
} | abreast

heuristics="confidence:1 confidence:2 confidence:4 confidence:6 confidence:8 confidence:12 confidence:16 threshold:0.95 threshold:0.9 threshold:0.8 threshold:0.7"
heuristics="$heuristics threshold:0.6 threshold:0.5 threshold:0.4 threshold:0.3 factor:0.5 factor:1 factor:2 entropy:0.1 entropy:0.3 entropy:0.5 entropy:0.7 entropy:1"
heuristics="$heuristics entropy:1.5 entropy:2 margin:2 margin:4 margin:8 random:1 random:4 random:8"
{
  for run in "$out"/blocks-a* "$out"/lone-a*; do
    [ -d "$run/last" ] || continue
    samplers=
    for beta in 0.5 0.7 1 1.5 2; do samplers="$samplers $run/last@beta=$beta"; done
    echo "evaluate policy-$(basename "$run") --model $model --samplers$samplers"
  done
  echo "evaluate heuristics-blocks --model $model --samplers $heuristics"
} | abreast

unmask plot --results "$out"/heuristics-*/ "$out"/policy-*-s[012]/ --out "$out/report/pareto.png"
python "$here/matched.py" "$out" >"$out/report/matched.md"
report "$out"/*-*/
