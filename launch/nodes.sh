#!/usr/bin/env bash
# Runs one verb on several machines: start it once on each, with that machine's number.
#
#   bash launch/nodes.sh BACKEND NUM_NODES NODE_RANK RANKS_PER_NODE ADDRESS PORT VERB [ARGUMENTS]
#   bash launch/nodes.sh zero2 2 0 8 10.0.0.1 29500 train RUN.yaml     # on the first machine, 10.0.0.1
#   bash launch/nodes.sh zero2 2 1 8 10.0.0.1 29500 train RUN.yaml     # on the second
#
# The run folder and the data must be at the same paths on all of them. Under Slurm: slurm/train.sbatch.
# A signal to one of them stops the run on all. Exit codes: as node.sh, of the ranks of this machine.
# PREF_DIST_RENDEZVOUS_SECONDS (600): how long a machine waits for the others before it gives up. Later waits
# are bounded by parallel.timeout_seconds.
set -euo pipefail
# shellcheck source=launch/supervise.sh
. "$(dirname "${BASH_SOURCE[0]}")/supervise.sh"
usage="bash launch/nodes.sh BACKEND NUM_NODES NODE_RANK RANKS_PER_NODE ADDRESS PORT VERB [ARGUMENTS]"
[ $# -ge 7 ] || misuse "seven arguments are needed, not $#"
backend=$1 nodes=$2 node=$3 address=$5 port=$6
check_backend "$backend"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || misuse "NUM_NODES is a number, not '$nodes'"
[[ $node =~ ^(0|[1-9][0-9]*)$ && $node -lt $nodes ]] || misuse "NODE_RANK is 0 to $((nodes - 1)), not '$node'"
[[ $port =~ ^[1-9][0-9]*$ && $port -le 65535 ]] || misuse "PORT is 1 to 65535, not '$port'"
check_verb "$7"
per_node=$(resolve_ranks "$4")
shift 6
seconds=${PREF_DIST_RENDEZVOUS_SECONDS:-600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || misuse "PREF_DIST_RENDEZVOUS_SECONDS is a number of seconds, not '$seconds'"

ranks=$((nodes * per_node))
if [ "$ranks" = 1 ] && [ "$backend" = ddp ]; then
  exec bash "$root/launch/single.sh" "$@"
fi
accelerate_launch "$backend" "$per_node"
# shellcheck disable=SC2034 # supervise says it
no_rank_hint="All $nodes machines must come to $address:$port within $seconds s (PREF_DIST_RENDEZVOUS_SECONDS)."
supervise "$1" "$per_node" "${launch[@]}" --num_processes "$ranks" --num_machines "$nodes" --machine_rank "$node" \
  --main_process_ip "$address" --main_process_port "$port" --rdzv_conf "timeout=$seconds" \
  --num_cpu_threads_per_process "$OMP_NUM_THREADS" \
  -m pref_dist "$1" --set parallel.backend="$backend" --set parallel.world_size="$ranks" "${@:2}"
