#!/usr/bin/env bash
# Policies learnt from stored traces against heuristics and GRPO: chain, sudoku and word problems, full diffusion and semi-AR.
#   bash experiments/traces.sh [OUT] [SETTINGS] [RESULTS]
# SETTINGS: some of "full semi" (chain), "sudoku-full sudoku-semi words-full words-semi"; all by default. RESULTS: where the policies of GRPO are, for the
# figures (docs/results).
# Traces of 1,000 training problems by two heuristics (in full diffusion with verdicts on one more reveal; again with the worked answers), each label with
# three seeds, then every policy on 1,000 test prompts (word problems: 300). About 35 minutes on one core for a setting of chain (sudoku and words-full were not run); all parts are kept, so it
# may be interrupted. What is small ends in $out/report, which docs/results/traces is a copy of.
set -euo pipefail
out=${1:-runs/traces}
source "$(dirname "$0")/common.sh"
settings=${2:-full semi sudoku-full sudoku-semi words-full words-semi}
results=${3:-$here/../docs/results}
[ -d "$results" ] || { echo "$results is no directory; give the settings in quotes, as one word" >&2 && exit 2; }

record() { # name, options: records, goes on or skips
  local name=$1
  shift
  unmask record --out "$out/$name" --resume --prompts 1000 --samplers threshold:0.9 entropy:0.1 "$@" >>"$out/$name.log" 2>&1 || failed "$name"
}
learn() { # name, traces, label, seed
  train "$1" --from-traces "$out/$2" --label "$3" --seed "$4" --wrong-weight 10 --rounds 6 --eval-temperature 0.25 --eval-prompts 32
}
measure() { # name, options: thresholds of the learnt chance by β at τ_π = 0.25, and the draw at τ_π = 1
  local name=$1 samplers= beta
  shift
  for beta in 1 10 100 1000; do samplers="$samplers $out/$name/best@beta=$beta"; done
  evaluate "policy-$name" "$@" --samplers $samplers "$out/$name/best@temperature=1"
}
export -f record learn measure

for setting in $settings; do
  # rejoins is for full diffusion alone here: trying reveals doubles what recording takes.
  case $setting in
    *full) judge="--judge 0.25" labels="survives rejoins truth-margin" ;;
    *semi) judge= labels="survives truth-margin" ;;
  esac
  case $setting in
    full) problem= at="--block-lengths 48" blocks= ;;
    semi) problem= at="--block-lengths 16" blocks="--block-length 16" ;;
    sudoku-full) problem="--model embedded/sudoku --task sudoku" at="--block-lengths 36" blocks= ;;
    sudoku-semi) problem="--model embedded/sudoku --task sudoku" at="--block-lengths 18" blocks="--block-length 18" ;;
    words-full) problem="--model embedded/word-problems --task word-problems" at="--block-lengths 128 --prompts 300" blocks= ;;
    words-semi) problem="--model embedded/word-problems --task word-problems" at="--block-lengths 32 --prompts 300" blocks="--block-length 32" ;;
  esac
  unseen=$problem
  case $setting in words*) unseen="$problem:unseen" ;; esac # problems that the model did not learn from
  record "$setting-plain" $unseen $blocks $judge
  record "$setting-truth" $unseen $blocks --truth
  for seed in 0 1 2; do
    for label in $labels; do
      traces=$([ "$label" = truth-margin ] && echo truth || echo plain)
      learn "$setting-$label-s$seed" "$setting-$traces" "$label" "$seed"
      measure "$setting-$label-s$seed" $problem $at
    done
  done
  heuristics="threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.6 threshold:0.5 threshold:0.4 threshold:0.3"
  evaluate "heuristics-$setting" $problem $at --samplers $heuristics entropy:0.1 entropy:0.3 entropy:0.5 entropy:1 entropy:2

  for label in $labels; do
    unmask compare-fronts "$out/policy-$setting-$label-s?" "$out/heuristics-$setting" --out "$out/report/$setting-$label-gaps.json"
  done >"$out/report/$setting-gaps.txt"
  for kind in plain truth; do cp "$out/$setting-$kind/manifest.json" "$out/report/$setting-$kind.json"; done
  case $setting in
    full | semi) learned=$(ls -d "$results/chain/policy-$setting-a3-s"?) ;;
    *) learned=$(ls -d "$results/one-policy/policy-$setting-s"? 2>/dev/null || true) ;;
  esac
  unmask plot --results "$out/heuristics-$setting" "$out"/policy-"$setting"-*-s?/ $learned --out "$out/report/$setting.png"
  report "$out"/policy-"$setting"-*-s?/ "$out/heuristics-$setting" "$out"/"$setting"-*-s?
done
