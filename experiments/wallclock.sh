#!/usr/bin/env bash
# Accuracy against wall clock (the paper's Fig. 12): heuristics and trained policies (three seeds) in both settings, one process on one core. Ten
# minutes. What is small ends in $out/report, which docs/results/wallclock is a copy of.
set -euo pipefail
out=${1:-runs/wallclock}
source "$(dirname "$0")/common.sh"
slice=${2:-runs/slice}       # of vertical-slice.sh: full-a3-s0 to s2
warm=${3:-runs/warmstart}    # of warmstart.sh: warm-s0 to s2
annealed=${4:-runs/annealed} # of annealed.sh: semi-s0 to s2
needs "vertical-slice.sh, warmstart.sh and annealed.sh" "$slice"/full-a3-s{0,1,2} "$warm"/warm-s{0,1,2} "$annealed"/semi-s{0,1,2}

heuristics="confidence:1 confidence:2 confidence:4 threshold:0.95 threshold:0.9 threshold:0.7 threshold:0.5 entropy:0.1 entropy:0.5 entropy:1"
policies=
for beta in 0.7 1 2; do policies="$policies $(printf " $slice/full-a3-s%s/last@beta=$beta" 0 1 2)"; done
for alpha in 0.3 3 10; do policies="$policies $(printf " $warm/warm-s%s/last@alpha=$alpha" 0 1 2)"; done
evaluate full --prompts 512 --block-lengths 48 --samplers $heuristics $policies
evaluate semi --prompts 512 --block-lengths 16 --samplers $heuristics $(printf " $annealed/semi-s%s/last" 0 1 2)
for setting in full semi; do
  unmask plot --results "$out/$setting" --against seconds --out "$out/report/$setting.png"
done
report "$out/full" "$out/semi" "$slice"/full-a3-s[012]/ "$annealed"/semi-s[012]/ "$warm"/warm-s[012]/
