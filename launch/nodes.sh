#!/usr/bin/env bash
# Runs one verb on several machines: start it once on each, with that machine's number.
#
#   bash launch/nodes.sh BACKEND NUM_NODES NODE_RANK RANKS_PER_NODE ADDRESS PORT VERB [ARGUMENTS]
#   bash launch/nodes.sh zero2 2 0 8 10.0.0.1 29500 train RUN.yaml     # on the first machine, 10.0.0.1
#   bash launch/nodes.sh zero2 2 1 8 10.0.0.1 29500 train RUN.yaml     # on the second
#
# The run folder and the data must be at the same paths on all of them. Under Slurm: slurm/train.sbatch.
set -euo pipefail
# shellcheck source=launch/supervise.sh
. "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
[ $# -ge 7 ] || die "usage: bash launch/nodes.sh BACKEND NUM_NODES NODE_RANK RANKS_PER_NODE ADDRESS PORT VERB [ARGUMENTS]"
backend=$1 nodes=$2 node=$3 address=$5 port=$6
per_node=$(resolve_ranks "$4")
shift 6
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "NUM_NODES must be a number, not '$nodes'"
[[ $node =~ ^[0-9]+$ && $node -lt $nodes ]] || die "NODE_RANK must be 0 to $((nodes - 1)), not '$node'"

check_backend "$backend"
accelerate_launch "$backend"
ranks=$((nodes * per_node))
supervise "${launch[@]}" --num_processes "$ranks" --num_machines "$nodes" --machine_rank "$node" \
  --main_process_ip "$address" --main_process_port "$port" \
  --num_cpu_threads_per_process "${OMP_NUM_THREADS:-$(threads_for "$per_node")}" \
  -m pref_dist "$@" --set parallel.backend="$backend" --set parallel.world_size="$ranks"
