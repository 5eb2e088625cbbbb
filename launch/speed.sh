#!/usr/bin/env bash
# Measures all that README's table of speeds says, one after another, and goes on where it was stopped. It wants the
# machine alone for hours, by what its parts have taken some six on two cores. A text and a JSON file for each are left
# in DIR.
#
#   bash launch/speed.sh TRAIN_CSV DIR [NAME...]
set -euo pipefail
if [[ $# -lt 2 ]]; then
  echo "usage: bash launch/speed.sh TRAIN_CSV DIR [NAME...]" >&2
  exit 2
fi
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
wanted=("${@:3}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/supervise.sh
. launch/supervise.sh

known=()

measure() {
  local name=$1
  shift
  known+=("$name")
  if [[ $is_listing == true || (${#wanted[@]} -gt 0 && " ${wanted[*]} " != *" $name "*) || -f $out/$name.json ]]; then
    return 0
  fi
  echo "== $name: bench $*"
  "$python" -m pref_dist bench "$@" --out "$out/$name.part.json" | tee "$out/$name.txt"
  mv "$out/$name.part.json" "$out/$name.json"
}

measure_all() {
  local peers=(--peers "seed,best") ours_bf16=(--set train.precision=bf16) shape cap
  measure evaluate evaluate --data "$data" --rows 256 --int8
  measure train train --data "$data" --steps 24 --rows-per-step 8,32,64 "${peers[@]}"
  measure train_bf16 train --data "$data" --steps 24 --precision bf16 "${peers[@]}"
  measure train_ours_bf16 train --data "$data" --steps 24 "${ours_bf16[@]}" "${peers[@]}"
  for shape in deberta-v3-small deberta-v3-xsmall; do
    for cap in 512 1024; do
      measure "${shape}_$cap" train --data "$data" --shape "$shape" --max-tokens "$cap" --steps 4 "${peers[@]}"
      measure "${shape}_${cap}_ours_bf16" train --data "$data" --shape "$shape" --max-tokens "$cap" --steps 4 \
        "${peers[@]}" "${ours_bf16[@]}"
    done
  done
  measure scaling scaling --data "$data"
  measure cache cache --data "$data"
  measure plan plan
  measure growth_rows growth --over rows
  for shape in minilm-l6 deberta-v3-xsmall; do
    measure "growth_$shape" growth --over tokens --shape "$shape" --each model.attention=fast,transformers --steps 2
  done
}

is_listing=true
measure_all
for name in ${wanted[@]+"${wanted[@]}"}; do
  if [[ " ${known[*]} " != *" $name "* ]]; then
    echo "speed.sh: there is no measurement '$name'. There are: ${known[*]}" >&2
    exit 2
  fi
done
is_listing=false
measure_all
