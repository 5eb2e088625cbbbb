#!/usr/bin/env bash
# Runs one verb on several ranks of this machine.
#
#   bash launch/node.sh BACKEND N|auto VERB [ARGUMENTS]
#   bash launch/node.sh zero2 8 train RUN.yaml
#   bash launch/node.sh ddp auto predict RUN_DIR --data test.csv --out submission.csv
#
# BACKEND: ddp, zero1, zero2, zero3, zero3_offload. auto: as many ranks as GPUs, else cores (at most 4).
# TERM, USR1 and Ctrl-C save the run at its next step and end with 75.
set -euo pipefail
# shellcheck source=launch/supervise.sh
. "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
[ $# -ge 3 ] || die "usage: bash launch/node.sh BACKEND N|auto VERB [ARGUMENTS]"
backend=$1
ranks=$(resolve_ranks "$2")
shift 2

if [ "$ranks" = 1 ] && [ "$backend" = ddp ]; then
  exec bash "$root/launch/single.sh" "$@"
fi
check_backend "$backend"
accelerate_launch "$backend"
supervise "${launch[@]}" --num_processes "$ranks" --num_machines 1 --machine_rank 0 \
  --main_process_port "${MASTER_PORT:-$(free_port)}" \
  --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$(threads_for "$ranks")}" \
  -m pref_dist "$@" --set parallel.backend="$backend" --set parallel.world_size="$ranks"
