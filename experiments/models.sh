#!/usr/bin/env bash
# How accurate the embedded models of chain and sudoku are, by heuristics, on 256 test prompts; word-problems.sh measures the model of word problems.
# Some minutes on one core. Finished parts are kept. What is small ends in $out/report, which docs/results/models is a copy of (docs/results-models.md).
set -euo pipefail
out=${1:-runs/models}
source "$(dirname "$0")/common.sh"

chain="--task chain --prompts 256 --block-lengths 48 16 --samplers confidence:1 threshold:0.9 threshold:0.7 threshold:0.5 threshold:0 random:1"
evaluate chain --model embedded/chain $chain
evaluate chain-dream --model embedded/chain-dream $chain
evaluate chain-blocks --model embedded/chain-blocks --task chain --prompts 256 --samplers confidence:1 threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.3 confidence:16
evaluate sudoku --model embedded/sudoku --task sudoku --prompts 256 --block-lengths 18 36 --samplers confidence:1 confidence:36 threshold:0.9 threshold:0.5 random:1
evaluate sudoku-dream --model embedded/sudoku-dream --task sudoku --prompts 256 --block-lengths 36 18 --samplers confidence:1 threshold:0.9 threshold:0.7 entropy:0.3 confidence:36 random:1
report "$out"/chain "$out"/chain-dream "$out"/chain-blocks "$out"/sudoku "$out"/sudoku-dream
