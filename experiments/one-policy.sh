#!/usr/bin/env bash
# One policy for every α, with what `unmask train --alpha-range` does by itself: chain, sudoku and word problems, full diffusion and in
# blocks, three seeds each; their fronts along α and whether a target NFE is met, on 1,000 test prompts, beside the heuristics' full grids.
# The range of α goes from about L/1000 to L/3: a pass of L then costs between 0.1 % and 28 % of the reward.
# Which front is above the other, and where, is in *-against-heuristics.json, for all seeds together and for each. On two idle cores two hours for
# chain and sudoku, six for word problems. What is small ends in $out/report (docs/results/one-policy).
# Settings to run: one-policy.sh OUT chain-full chain-semi sudoku-full sudoku-semi words-full words-semi
set -euo pipefail
out=${1:-runs/one-policy}
settings=${*:2}
settings=${settings:-chain-full chain-semi sudoku-full sudoku-semi words-full words-semi}
source "$(dirname "$0")/common.sh"

declare -A problem=(
  [chain]="--model embedded/chain --task chain" [sudoku]="--model embedded/sudoku --task sudoku"
  [words]="--model embedded/word-problems --task word-problems"
)
declare -A range=([chain]="0.05 16" [sudoku]="0.05 12" [words]="0.1 40")
declare -A alphas=([chain]="0.05 0.1 0.3 0.6 1 1.8 3 5.6 10 16" [sudoku]="0.05 0.1 0.3 0.6 1 1.8 3 5.6 10 12" [words]="0.1 0.5 1.5 4 6 10 15 20 40")
declare -A blocks=([chain-full]=48 [chain-semi]=16 [sudoku-full]=36 [sudoku-semi]=18 [words-full]=128 [words-semi]=32)
declare -A in_blocks=([chain-semi]="--block-length 16" [sudoku-semi]="--block-length 18" [words-semi]="--block-length 32")

for setting in $settings; do
  task=${setting%-*} training=${problem[${setting%-*}]}
  [ "$task" != words ] || training="$training:unseen" # problems that the model did not learn from
  for seed in 0 1 2; do
    echo "train $setting-s$seed $training ${in_blocks[$setting]:-} --alpha-range ${range[$task]} --seed $seed"
  done
done | abreast

heuristics="confidence:1 confidence:2 confidence:3 confidence:4 confidence:6 confidence:8 margin:2 margin:4 random:1 random:4"
for value in 0.3 0.4 0.5 0.6 0.7 0.8 0.9 0.95; do heuristics="$heuristics threshold:$value"; done
for value in 0.1 0.2 0.3 0.4 0.45 0.5 0.55 0.6 0.62 0.65 0.68 0.7 0.72 0.75 0.8 1 1.5 2 3; do heuristics="$heuristics entropy:$value"; done
for value in 0.3 0.5 1 2 4; do heuristics="$heuristics factor:$value"; done
for setting in $settings; do
  at="${problem[${setting%-*}]} --block-lengths ${blocks[$setting]}"
  for seed in 0 1 2; do
    run="$out/$setting-s$seed" samplers=
    for alpha in ${alphas[${setting%-*}]}; do samplers="$samplers $run/best@alpha=$alpha"; done
    targets=$(python -c "import json; ns = [e['nfe'] for e in json.load(open('$run/best/config.json'))['metadata']['pareto']]; lo, hi = min(ns), max(ns)
print(*(round(lo + (hi - lo) * i / 4, 2) for i in (1, 2, 3)))")
    for nfe in $targets; do samplers="$samplers $run/best@nfe=$nfe"; done
    echo "evaluate policy-$setting-s$seed $at --samplers $samplers"
  done
  echo "evaluate heuristics-$setting $at --samplers $heuristics"
done | abreast

for setting in $settings; do
  unmask plot --results "$out"/policy-$setting-s?/ "$out/heuristics-$setting" --out "$out/report/$setting.png"
  for seeds in "?" 0 1 2; do
    name=$setting-s$seeds
    unmask compare-fronts "$out/policy-$name" "$out/heuristics-$setting" --out "$out/report/${name%-s[?]}-against-heuristics.json"
  done
  report "$out"/policy-$setting-s?/ "$out/heuristics-$setting" "$out"/$setting-s?/
done
case " $settings " in
  *" chain-full "*) # α above those of training
    evaluate beyond-chain-full ${problem[chain]} --block-lengths 48 --samplers $(printf " $out/chain-full-s%s/best@alpha=30" 0 1 2) $(printf " $out/chain-full-s%s/best@alpha=60" 0 1 2)
    report "$out/beyond-chain-full"
    ;;
esac
