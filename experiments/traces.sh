#!/usr/bin/env bash
# Policies learnt from stored traces against heuristics and GRPO, chain: full diffusion and semi-AR in blocks of 16.
#   bash experiments/traces.sh [OUT] [SETTINGS] [SLICE]
# SETTINGS: "full semi" (default) or one of them. SLICE: results of vertical-slice.sh, for the figure (docs/results/chain).
# Traces of 1,000 training problems by two heuristics (with verdicts on one more reveal, and again with the worked answers), each label with three seeds,
# then every policy and the heuristics on 1,000 test prompts. About 35 minutes on one core for a setting; all parts are kept, so it may be interrupted.
# What is small ends in $out/report, which docs/results/traces is a copy of.
set -euo pipefail
out=${1:-runs/traces}
source "$(dirname "$0")/common.sh"
settings=${2:-full semi}
slice=${3:-$here/../docs/results/chain}

record() { # name, options: records, goes on or skips
  local name=$1
  shift
  unmask record --out "$out/$name" --resume --prompts 1000 --samplers threshold:0.9 entropy:0.1 "$@" >>"$out/$name.log" 2>&1
}
learn() { # name, traces, label, seed
  train "$1" --from-traces "$out/$2" --label "$3" --seed "$4" --wrong-weight 10 --rounds 6 --eval-temperature 0.25 --eval-prompts 32
}
measure() { # name, block length: thresholds of the learnt chance by β at τ_π = 0.25, and the draw at τ_π = 1
  local samplers=
  for beta in 1 10 100 1000; do samplers="$samplers $out/$1/best@beta=$beta"; done
  evaluate "policy-$1" --block-lengths "$2" --samplers $samplers "$out/$1/best@temperature=1"
}
export -f record learn measure

for setting in $settings; do
  case $setting in
    full) block_length=48 blocks= judge="--judge 0.25" labels="survives rejoins truth-margin" ;;
    semi) block_length=16 blocks="--block-length 16" judge= labels="survives truth-margin" ;;
  esac
  record "$setting-plain" $blocks $judge
  record "$setting-truth" $blocks --truth
  for seed in 0 1 2; do
    for label in $labels; do
      traces=$([ "$label" = truth-margin ] && echo truth || echo plain)
      learn "$setting-$label-s$seed" "$setting-$traces" "$label" "$seed"
      measure "$setting-$label-s$seed" "$block_length"
    done
  done
  heuristics="threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.6 threshold:0.5 threshold:0.4 threshold:0.3"
  evaluate "heuristics-$setting" --block-lengths "$block_length" --samplers $heuristics entropy:0.1 entropy:0.3 entropy:0.5 entropy:1 entropy:2
done

for setting in $settings; do
  for label in survives rejoins truth-margin; do
    [ -d "$out/policy-$setting-$label-s0" ] || continue
    unmask compare-fronts "$out/policy-$setting-$label-s?" "$out/heuristics-$setting" --out "$out/report/$setting-$label-gaps.json"
  done
  cp "$out/$setting-plain/manifest.json" "$out/report/$setting-plain.json"
  cp "$out/$setting-truth/manifest.json" "$out/report/$setting-truth.json"
  unmask plot --results "$out/heuristics-$setting" "$out"/policy-"$setting"-*/ "$slice"/policy-"$setting"-a3-s?/ --out "$out/report/$setting.png"
done >"$out/report/gaps.txt"
report "$out"/policy-*/ "$out"/heuristics-*/ $(for setting in $settings; do printf '%s ' "$out/$setting"-*-s?; done)
