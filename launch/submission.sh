#!/usr/bin/env bash
# From labelled rows to a submission for others: installs, trains a recipe on all GPUs or cores, predicts. Stopped or
# killed, the same command goes on.
#
#   bash launch/submission.sh TRAIN TEST OUT_DIR [RUN.yaml] [--folds N] [--set SECTION.KEY=VALUE ...]
#   bash launch/submission.sh train.csv test.csv runs/mine configs/deberta_v3_base.yaml --folds 5
#
# TERM, USR1, HUP and Ctrl-C save the training at its next step and end with 75; the same command goes on.
# RUN.yaml: configs/minilm_demo.yaml where none is named. --folds N: N models, each on all rows but a part of its own,
# blended with a temperature that is fitted on these parts; 3 where it is left out. --folds 1: one run, its best step
# chosen on a tenth of the rows or on data.valid. An OUT_DIR with a single run goes on as that where --folds is left out.
# Leaves OUT_DIR/submission.csv. Exit codes: as node.sh.
set -euo pipefail
usage="bash launch/submission.sh TRAIN TEST OUT_DIR [RUN.yaml] [--folds N] [--set SECTION.KEY=VALUE ...]"
here=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=launch/supervise.sh
. "$here/supervise.sh"
[ $# -ge 3 ] || misuse "TRAIN, TEST and OUT_DIR are needed"
train=$1 test=$2 out=$3 recipe=$root/configs/minilm_demo.yaml
shift 3
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  recipe=$1
  shift
fi
num_folds="" settings=()
while [ $# -gt 0 ]; do
  if [ "$1" = --folds ]; then
    [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || misuse "--folds needs a number"
    num_folds=$2
    shift 2
  else
    settings+=("$1")
    shift
  fi
done
if [ -z "${PREF_DIST_PYTHON:-}" ]; then bash "$here/install.sh"; fi

# carry_out COMMAND...: what this script is told to end, it tells the command, which knows how, and waits for it.
carry_out() {
  local code seen
  num_signals=0
  trap 'num_signals=$((num_signals + 1)); kill -TERM "$child" 2>/dev/null || true' TERM USR1 HUP
  trap 'num_signals=$((num_signals + 1))' INT # which a terminal sends to the command, too
  # A background command ignores Ctrl-C; `trap -` takes that back.
  (trap - INT && exec "$@") &
  child=$!
  while :; do
    seen=$num_signals code=0
    wait "$child" || code=$?
    # After a signal it was `wait` that ended, not the command.
    [ "$num_signals" != "$seen" ] || break
  done
  trap - TERM USR1 HUP INT
  return "$code"
}

# Where --folds is left out, what an earlier command began goes on; another number than three is said by --folds alone.
if [ -z "$num_folds" ] && [ -f "$out/config.yaml" ]; then
  num_folds=1
  say "$out holds a single run, which goes on. Three folds, blended, are the default: name another OUT_DIR for them."
elif [ -z "$num_folds" ] && [ -f "$out/folds.json" ]; then
  num_folds=$(tr -d ' \n' <"$out/folds.json" | sed -n 's/.*"num_folds":\([0-9]*\).*/\1/p')
elif [ -z "$num_folds" ] && { grep -qsE '^[^#]*num_folds' -- "$recipe" || [[ " ${settings[*]-} " == *data.num_folds=* ]]; }; then
  misuse "how many folds is said by --folds N, not by data.num_folds in RUN.yaml or --set (--folds 1: one run)"
fi
num_folds=${num_folds:-3}

training=(train "$recipe" --set run.dir="$out" --set data.train="$train" --set data.test="$test")
[ ${#settings[@]} = 0 ] || training+=("${settings[@]}")
if [ "$num_folds" = 1 ]; then
  carry_out bash "$here/node.sh" ddp auto "${training[@]}"
  carry_out bash "$here/node.sh" ddp auto predict "$out" --data "$test" --out "$out/submission.csv"
else
  carry_out bash "$here/node.sh" ddp auto "${training[@]}" --folds --set data.num_folds="$num_folds"
  carry_out bash "$here/node.sh" ddp auto blend "$out" --data "$test" --out "$out/blend"
  cp -- "$out/blend/submission.csv" "$out/submission.csv"
fi
echo "submission: $out/submission.csv"
