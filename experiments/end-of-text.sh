#!/usr/bin/env bash
# What does the end of the text cost? Word problems in English, in buffers of L = 128 and 192, in blocks of 32 and in full diffusion: passes until the
# text is there beside all passes (`unmask analyze`), and what `--stop-at-eos` saves. 300 test problems, heuristics and the shipped policy.
# A quarter of an hour on one core (an estimate: not run yet). Finished parts are kept. What is small ends in $out/report.
set -euo pipefail
out=${1:-runs/end-of-text}
source "$(dirname "$0")/common.sh"

at="--model embedded/word-problems --task word-problems --prompts 300 --traces --samplers threshold:0.9 entropy:0.3 embedded/word-problems@alpha=1.5"
for length in 128 192; do
  for blocks in 32 $length; do
    where="$at --max-new-tokens $length --block-lengths $blocks"
    echo "evaluate to-the-end-$length-$blocks $where"
    echo "evaluate stopped-$length-$blocks $where --stop-at-eos"
  done
done | abreast
for kind in to-the-end stopped; do
  for length in 128 192; do
    rm -rf "$out/report/$kind-$length"
    unmask analyze --results "$out/$kind-$length-32" "$out/$kind-$length-$length" --out "$out/report/$kind-$length"
  done
done
report "$out"/to-the-end-*/ "$out"/stopped-*/
