#!/usr/bin/env bash
# The paper's own configuration (`--preset paper`) on chain, full diffusion: do its findings appear with it? Its main run (α = 3), the additive
# reward, α = 10, and hidden states as inputs, 150 rounds of 16 prompts each, three seeds; each on 1,000 test prompts at τ_π = 1, the paper's.
# Two and a quarter hours of one core, on a busy machine. Finished parts are kept. What is small ends in $out/report, which docs/results/paper is a copy of.
set -euo pipefail
out=${1:-runs/paper}
source "$(dirname "$0")/common.sh"

declare -A changed=(
  [main]="--alpha 3" [additive]="--alpha 3 --reward additive" [large]="--alpha 10" [hidden]="--alpha 3 --hidden"
)
cases="main additive large hidden"
for seed in 0 1 2; do
  for case in $cases; do echo "train $case-s$seed --preset paper ${changed[$case]} --rounds 150 --seed $seed"; done
done | abreast
for case in $cases; do
  echo "evaluate policy-$case --block-lengths 48 --samplers $out/$case-s0/last $out/$case-s1/last $out/$case-s2/last"
done | abreast
for case in $cases; do report "$out/policy-$case" "$out/$case"-s?/; done
