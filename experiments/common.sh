# Sourced by the scripts here, after they set `out`. Finished parts are kept, interrupted ones resumed, and parts that were made with other options
# refused (not those that were made when a default was another); what is small ends in $out/report.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export out here OMP_NUM_THREADS=1
mkdir -p "$out/report"

train() { # name, options: trains, resumes or skips
  local name=$1 where=--out
  shift
  # Resuming would refuse other values of the options given now, and not that one given before is missing.
  if [ -f "$out/$name.options" ] && [ "$(cat "$out/$name.options")" != "$*" ]; then
    echo "$out/$name was made with the options $(cat "$out/$name.options"); delete it and $name.options, or give another directory" >&2
    return 1
  fi
  printf '%s\n' "$*" >"$out/$name.options"
  if [ -f "$out/$name/run.json" ]; then where=--resume; fi
  unmask train "$where" "$out/$name" --mixed-precision "$@" >>"$out/$name.log" 2>&1 || failed "$name"
}
evaluate() { # name, options: evaluates, resumes or skips; 1,000 test prompts unless the options say otherwise
  local name=$1
  shift
  unmask evaluate --resume --out "$out/$name" --prompts 1000 "$@" >>"$out/$name.log" 2>&1 || failed "$name"
}
failed() { # name: says where to look
  echo "$1 failed; $out/$1.log says why" >&2
  return 1
}
export -f train evaluate failed

needs() { # script, directories that it makes: refuses to begin without them
  local directory
  for directory in "${@:2}"; do
    [ -d "$directory" ] || { echo "$directory is missing; run $1 first" >&2 && exit 2; }
  done
}

abreast() { # runs the lines of its input, JOBS at a time (2), one core each
  xargs -d '\n' -P "${JOBS:-2}" -I{} bash -c '{}'
}
report() { # directories: copies what is small. Copied into an emptied directory of docs/results, `make results` packs the logs and writes the tables
  local directory name file
  for directory in "$@"; do
    name=$(basename "$directory")
    mkdir -p "$out/report/$name"
    for file in summary.json run.json metrics.jsonl sampling.json recipe.json loss.jsonl; do
      if [ -f "$directory/$file" ]; then cp "$directory/$file" "$out/report/$name"; fi
    done
  done
}
