#!/usr/bin/env bash
# One network from many teachers: imitation alone, of heuristics with a grid and of learned policies at several α (one-policy.sh, three seeds), the best
# teacher at each α. Is its front the upper envelope of the pool? Chain, full diffusion and blocks of 16, three seeds, 1,000 test prompts. About an
# hour on one core (an estimate: not run yet). Finished parts are kept. What is small ends in $out/report.
set -euo pipefail
out=${1:-runs/teachers}
source "$(dirname "$0")/common.sh"
one=${2:-runs/one-policy} # of one-policy.sh
needs one-policy.sh "$one"/chain-{full,semi}-s{0,1,2}/best

learned() { # setting: the policies at several α
  local seed alpha
  for seed in 0 1 2; do for alpha in 0.05 1 3 10; do printf " $one/chain-$1-s$seed/best@alpha=$alpha"; done; done
}
for setting in full semi; do
  blocks=$([ "$setting" = semi ] && echo "--block-length 16" || true)
  for seed in 0 1 2; do
    echo "train $setting-s$seed $blocks --alpha-range 0.05 16 --seed $seed --rounds 40 --imitation-rounds 40 --imitate entropy:0.05..2:6 threshold:0.4..0.95:4 $(learned $setting)"
  done
done | abreast
for setting in full semi; do
  at="--block-lengths $([ "$setting" = semi ] && echo 16 || echo 48)"
  for seed in 0 1 2; do
    echo "evaluate policy-$setting-s$seed $at --samplers $(printf " $out/$setting-s$seed/best@alpha=%s" 0.05 0.3 1 1.8 3 5.6 10 16)"
  done
  # The heuristics of the grids, which `evaluate` does not spell out.
  echo "evaluate pool-$setting $at --samplers entropy:0.05 entropy:0.104564 entropy:0.218672 entropy:0.457305 entropy:0.956352 entropy:2 threshold:0.4 threshold:0.533682 threshold:0.712042 threshold:0.95 $(learned $setting)"
done | abreast
for setting in full semi; do
  unmask compare-fronts "$out/policy-$setting-s?" "$out/pool-$setting" --out "$out/report/$setting-against-pool.json"
  report "$out"/policy-$setting-s?/ "$out/pool-$setting" "$out/$setting"-s?/
done
