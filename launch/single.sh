#!/usr/bin/env bash
# Runs one verb in one process on one device: debug mode, pdb, a laptop.
#
#   bash launch/single.sh train RUN.yaml --debug
#   bash launch/single.sh predict RUN_DIR --data test.csv --out submission.csv
#
# Exit codes: 0 done, 75 stopped on request (start again to go on), else the error's own.
set -euo pipefail
# shellcheck source=launch/supervise.sh
. "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
[ $# -gt 0 ] || die "usage: bash launch/single.sh VERB [ARGUMENTS]"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(threads_for 1)}
settings=()
case $1 in train | evaluate | predict) settings=(--set parallel.backend=single --set parallel.world_size=1) ;; esac
# With a terminal the program keeps it (pdb), and Python itself sees the signals.
if [ -t 0 ]; then
  PREF_DIST_LAUNCH_DIR=$(mktemp -d)
  export PREF_DIST_LAUNCH_DIR
  trap 'rm -rf "$PREF_DIST_LAUNCH_DIR"' EXIT
  trap ':' INT # the program decides what Ctrl-C means
  code=0
  "$python" -m pref_dist "$@" "${settings[@]}" || code=$?
  exit "$(meant_exit_code "$code")"
fi
supervise "$python" -m pref_dist "$@" "${settings[@]}"
