#!/usr/bin/env bash
# From labelled rows to a submission for others: installs, trains a recipe on all GPUs or cores, predicts. Stopped or
# killed, the same command goes on.
#
#   bash launch/submission.sh TRAIN TEST OUT_DIR [RUN.yaml] [--set SECTION.KEY=VALUE ...]
#   bash launch/submission.sh train.csv test.csv runs/mine configs/deberta_v3_base.yaml
#
# RUN.yaml: configs/minilm_demo.yaml where none is named. Leaves OUT_DIR/submission.csv. Exit codes: as node.sh.
set -euo pipefail
usage="bash launch/submission.sh TRAIN TEST OUT_DIR [RUN.yaml] [--set SECTION.KEY=VALUE ...]"
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
if [ -z "${PREF_DIST_PYTHON:-}" ]; then bash "$here/install.sh"; fi

bash "$here/node.sh" ddp auto train "$recipe" --set run.dir="$out" --set data.train="$train" --set data.test="$test" "$@"
bash "$here/node.sh" ddp auto predict "$out" --data "$test" --out "$out/submission.csv"
echo "submission: $out/submission.csv"
