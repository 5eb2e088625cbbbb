# shellcheck shell=bash
# Sourced by single.sh, node.sh and nodes.sh: finds Python, starts the ranks, turns signals into a
# stop file, and returns the exit code that counts.
#
# torchrun kills its children 30 s after a TERM and turns every failure into 1. So signals end here:
# they make a file `stop`, the ranks see it, agree at the next step, save, and leave. Each rank writes
# the code that it means into exit_codes/; 75 is "stopped, start the same command again to go on".

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${PREF_DIST_PYTHON:-}" ]; then
  python=$PREF_DIST_PYTHON
elif [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
else
  python=python3
fi
PATH=$(dirname "$(command -v "$python")"):$PATH # DeepSpeed looks for ninja there
export PATH

die() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

num_gpus() {
  command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | wc -l || echo 0
}

# Ranks of one machine for "auto": its GPUs, else its cores, at most 4.
resolve_ranks() {
  [ "$1" != auto ] || set -- "$(gpus=$(num_gpus) cores=$(nproc) && if [ "$gpus" -gt 0 ]; then echo "$gpus"; else echo $((cores < 4 ? cores : 4)); fi)"
  [[ $1 =~ ^[1-9][0-9]*$ ]] || die "the number of ranks must be a number or auto, not '$1'"
  echo "$1"
}

threads_for() {
  local threads=$(($(nproc) / $1))
  echo $((threads > 0 ? threads : 1))
}

free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

check_backend() {
  [ -e "$root/configs/accelerate/$1.yaml" ] && [ "$1" != single ] ||
    die "BACKEND is ddp, zero1, zero2, zero3 or zero3_offload, not '$1'"
}

# The command that starts the ranks of this machine; the caller adds the rest.
accelerate_launch() {
  launch=("$python" -m accelerate.commands.launch --config_file "$root/configs/accelerate/$1.yaml")
  [[ $1 != zero* ]] || launch+=(--deepspeed_config_file "$root/configs/deepspeed/$1.json")
}

# Runs "$@", returns its exit code or the one that a rank left.
supervise() {
  local own_dir="" code=0 child
  if [ -z "${PREF_DIST_LAUNCH_DIR:-}" ]; then
    own_dir=$(mktemp -d)
    export PREF_DIST_LAUNCH_DIR=$own_dir
  fi
  trap 'touch "$PREF_DIST_LAUNCH_DIR/stop"' TERM USR1 INT
  # A session of its own: Ctrl-C in a terminal must reach this script alone.
  setsid "$@" &
  child=$!
  wait "$child" || code=$?
  # A trapped signal ends `wait` early.
  while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
  done
  trap - TERM USR1 INT
  code=$(meant_exit_code "$code")
  [ -z "$own_dir" ] || rm -rf "$own_dir"
  return "$code"
}

# The first code other than 0 that a rank left (the others may only have missed that rank), else the launcher's own.
meant_exit_code() {
  local file first=""
  for file in "$PREF_DIST_LAUNCH_DIR"/exit_codes/rank_*; do
    [ -e "$file" ] && [ "$(cat "$file")" != 0 ] || continue
    if [ -z "$first" ] || [ "$file" -ot "$first" ]; then first=$file; fi
  done
  if [ -n "$first" ]; then cat "$first"; else echo "$1"; fi
}
