#!/usr/bin/env bash
# Runs one verb on several ranks of this machine.
#
#   bash launch/node.sh BACKEND N|auto VERB [ARGUMENTS]
#   bash launch/node.sh zero2 8 train RUN.yaml
#   bash launch/node.sh ddp auto predict RUN_DIR --data test.csv --out submission.csv
#
# BACKEND: ddp, zero0, zero1, zero2, zero2_offload, zero3, zero3_offload, fsdp2.
# auto: as many ranks as GPUs, else cores (at most 4).
# TERM, USR1, HUP and Ctrl-C save a training run at its next step and end with 75; a second Ctrl-C ends at once.
# Exit codes: 0 done, 75 stopped on request (start again to go on), else that of the rank that failed first.
set -euo pipefail
# shellcheck source=launch/supervise.sh
. "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
usage="bash launch/node.sh BACKEND N|auto VERB [ARGUMENTS]"
[ $# -ge 3 ] || misuse "BACKEND, N and VERB are needed"
backend=$1
check_backend "$backend"
check_verb "$3"
ranks=$(resolve_ranks "$2")
shift 2

if [ "$ranks" = 1 ] && [ "$backend" = ddp ]; then
  exec bash "$root/launch/single.sh" "$@"
fi
accelerate_launch "$backend" "$ranks"
# Port 0: a free one.
supervise "$1" "$ranks" "${launch[@]}" --num_processes "$ranks" --num_machines 1 --machine_rank 0 --main_process_port 0 \
  --num_cpu_threads_per_process "$OMP_NUM_THREADS" \
  -m pref_dist "$1" --set parallel.backend="$backend" --set parallel.world_size="$ranks" "${@:2}"
