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
usage="bash launch/single.sh VERB [ARGUMENTS]"
[ $# -gt 0 ] || misuse "VERB is missing"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(threads_for 1)}
# What a job's script exported for several ranks is not about this process.
unset MASTER_ADDR MASTER_PORT
settings=()
case $1 in train | evaluate | predict | blend | doctor) settings=(--set parallel.backend=single --set parallel.world_size=1) ;; esac
# With a terminal the program keeps it (pdb), and sees Ctrl-C itself.
if [ -t 0 ]; then keep_terminal=yes; fi
supervise "$1" 1 "$python" -m pref_dist "$1" "${settings[@]}" "${@:2}"
