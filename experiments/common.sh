# Sourced by the scripts here, after they set `out`. Finished parts are kept, interrupted trainings resumed; what is small ends in $out/report.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export out here OMP_NUM_THREADS=1
mkdir -p "$out/report"

train() { # name, options: trains, resumes or skips
  local name=$1
  shift
  if [ -f "$out/$name/run.json" ]; then unmask train --resume "$out/$name"; else unmask train --out "$out/$name" --mixed-precision "$@"; fi >>"$out/$name.log" 2>&1
}
evaluate() { # name, options; 1,000 test prompts unless the options say otherwise
  local name=$1
  shift
  [ -f "$out/$name/summary.json" ] || { rm -rf "${out:?}/$name" && unmask evaluate --out "$out/$name" --prompts 1000 "$@" >"$out/$name.log" 2>&1; }
}
export -f train evaluate

abreast() { # runs the lines of its input, JOBS at a time (2), one core each
  xargs -d '\n' -P "${JOBS:-2}" -I{} bash -c '{}'
}
report() { # directories: copies what is small; in docs/results, `make results` packs the logs and writes the tables
  local directory name file
  for directory in "$@"; do
    name=$(basename "$directory")
    mkdir -p "$out/report/$name"
    for file in summary.json run.json metrics.jsonl sampling.json; do
      if [ -f "$directory/$file" ]; then cp "$directory/$file" "$out/report/$name"; fi
    done
  done
}
