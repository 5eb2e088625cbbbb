# shellcheck shell=bash
# Sourced first thing by the job scripts of this folder and by those that `pref-dist slurm submit` writes: what a job
# does on N nodes x G GPUs, how it stops in time, and when it is put back into the queue.
#
#   prepare_job RUN.yaml [OPTIONS]                           on one node, in one process
#   train_job BACKEND RANKS RUN.yaml [OPTIONS]               RANKS of each node, or auto: its GPUs
#   evaluate_job BACKEND RANKS RUN_DIR [OPTIONS]             of folds: one after another
#   predict_job BACKEND RANKS RUN_DIR DATA OUT.csv [OPTIONS] of folds: a blend of them
#
# Each ends the script. Exit codes: 0 done, 75 stopped by a stop file in the run folder, else that of the rank that
# failed first (pref_dist/errors.py). A job that Slurm takes its nodes from, or whose time ends, saves, and is put
# back into the queue. So is one that was signalled by hand: scancel --batch --signal=USR1 JOB. To end a job for good:
# a file `stop` in the run folder (saved), or scancel JOB (not).

# A job may be preempted while its modules are loading, too. While ranks run, supervise has the signals.
asked_early=no was_asked=no
trap 'asked_early=yes' USR1 TERM
job_folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The last task of an array has the array's own number, which would name all of them.
job=${SLURM_JOB_ID:?this script runs under sbatch}
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
script_name="job $job"
# What --signal in the scripts asks for, and Slurm looks at signals that are due every 30 s only.
signal_seconds=150

prepare_job() {
  local code=0
  find_program
  usage="sbatch [OPTIONS] slurm/prepare.sbatch RUN.yaml [prepare options]"
  [ $# -ge 1 ] || misuse "RUN.yaml is needed"
  "$python" -m pref_dist prepare "$@" || code=$?
  say "exit code $code"
  exit "$code"
}

train_job() {
  find_program
  usage="sbatch [OPTIONS] slurm/train.sbatch BACKEND RANKS RUN.yaml [train options]"
  [ $# -ge 3 ] || misuse "BACKEND, RANKS and RUN.yaml are needed"
  describe_job "$1" "$2"
  shift 2
  # A job that was put back goes on; --fresh was for its first start.
  if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then drop_option --fresh "$@"; else arguments=("$@"); fi
  # Says no if the tries before have led nowhere, and where the run folder is.
  local code=0
  run_folder=$("$python" -m pref_dist slurm begin "${arguments[@]}") || code=$?
  if [ "$code" != 0 ]; then
    say "exit code $code"
    exit "$code"
  fi
  run_ranks train "${arguments[@]}" || code=$?
  end_job "$code"
}

evaluate_job() {
  local code=0 fold
  find_program
  usage="sbatch [OPTIONS] slurm/evaluate.sbatch BACKEND RANKS RUN_DIR [evaluate options]"
  [ $# -ge 3 ] || misuse "BACKEND, RANKS and RUN_DIR are needed"
  describe_job "$1" "$2"
  find_run_folder "$3"
  shift 3
  if [ -e "$run_folder/folds.json" ]; then
    for fold in "$run_folder"/fold_*; do
      [ "$code" != 0 ] || run_ranks evaluate "$fold" "$@" || code=$?
    done
  else
    run_ranks evaluate "$run_folder" "$@" || code=$?
  fi
  end_job "$code"
}

predict_job() {
  local code=0 data out
  find_program
  usage="sbatch [OPTIONS] slurm/predict.sbatch BACKEND RANKS RUN_DIR DATA OUT.csv [predict options]"
  [ $# -ge 5 ] || misuse "BACKEND, RANKS, RUN_DIR, DATA and OUT.csv are needed"
  describe_job "$1" "$2"
  find_run_folder "$3"
  data=$4 out=$5
  shift 5
  if [ -e "$run_folder/folds.json" ]; then
    run_ranks blend "$run_folder" --data "$data" --out "$run_folder/blend" "$@" || code=$?
    [ "$code" != 0 ] || cp -- "$run_folder/blend/submission.csv" "$out" || code=$?
    [ "$code" != 0 ] || say "the submission: $out"
  else
    run_ranks predict "$run_folder" --data "$data" --out "$out" "$@" || code=$?
  fi
  end_job "$code"
}

find_run_folder() {
  [ -d "$1" ] || misuse "there is no run folder $1"
  run_folder=$(cd "$1" && pwd)
}

# Python and the launchers; not earlier, because a site's setup may choose Python.
find_program() {
  # shellcheck source=launch/supervise.sh
  . "$job_folder/../launch/supervise.sh"
  # Compute nodes seldom reach a hub, and a rank would wait for it; 0 lets them try.
  export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
  # Kernels that Triton compiles: on the node's own disk, since many file servers lack the locks that it needs. Token
  # caches (PREF_DIST_CACHE_DIR, data.cache_dir) must be where all nodes see them: prepare builds them for the others.
  export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/pref_dist_$(id -u)/triton}
  # NCCL and gloo find the network by themselves. Where they choose a wrong one, name it in the site's setup:
  # NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME (an interface of `ip address`, such as ib0), NCCL_IB_HCA (such as mlx5).
  # NCCL_DEBUG=INFO says what was chosen; NCCL_IB_DISABLE=1 shows whether InfiniBand is to blame.
  export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
}

# describe_job BACKEND RANKS: the meeting point, and each rank's share of the cores.
describe_job() {
  local threads
  check_backend "$1"
  backend=$1 ranks=$2 nodes=$SLURM_JOB_NUM_NODES
  [ "$ranks" != auto ] || ranks=${SLURM_GPUS_ON_NODE:-1}
  [[ $ranks =~ ^[1-9][0-9]*$ ]] || misuse "RANKS is a number or auto, not '$ranks'"
  # One task a node; launch/nodes.sh starts the node's ranks.
  [ "${SLURM_NTASKS:-$nodes}" -eq "$nodes" ] || misuse "$SLURM_NTASKS tasks on $nodes nodes; it needs --ntasks-per-node=1"
  address=${PREF_DIST_ADDRESS:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
  # Jobs that share a node need different ports, below those that the system gives away.
  port=${PREF_DIST_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
  # Since 22.05 srun does not take the cores of the job by itself.
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
  threads=$((SRUN_CPUS_PER_TASK / ranks))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
  find_end_time
}

# When Slurm will take the nodes away: a training run stops and saves in time for it. Older versions leave it to squeue.
find_end_time() {
  local end=${SLURM_JOB_END_TIME:-}
  [ -n "$end" ] || end=$(date -d "$(SLURM_TIME_FORMAT=standard squeue -h -j "$job" -o %e)" +%s 2>/dev/null) || end=""
  [ -z "$end" ] || export PREF_DIST_END_TIME=$end
}

# run_ranks VERB ARGUMENTS...: on all nodes; the exit code that counts.
run_ranks() {
  verb=$1
  if [ "$asked_early" = yes ]; then
    was_asked=yes
    return 75
  fi
  # A folder that all nodes see: a stop file goes in, every rank's exit code comes out.
  export PREF_DIST_LAUNCH_DIR=$run_folder/slurm/launch_$SLURM_JOB_ID
  rm -rf "$PREF_DIST_LAUNCH_DIR"
  mkdir -p "$PREF_DIST_LAUNCH_DIR" || return 1
  note_history started "$verb"
  say "$backend, $nodes nodes x $ranks ranks, meeting at $address:$port: $verb"
  local code=0
  # SLURM_NODEID is another one on each node, so it is expanded there. A rank that fails ends its node's launcher;
  # the others follow when they miss it, and none is killed while it saves (--kill-on-bad-exit=0). With the number of
  # nodes said outright srun fails where it would else start fewer tasks, and those would wait for the others.
  # shellcheck disable=SC2016
  supervise "$verb" $((nodes * ranks)) \
    srun --kill-on-bad-exit=0 --nodes="$nodes" --ntasks="$nodes" bash -c 'node=$SLURM_NODEID; exec bash "$1/../launch/nodes.sh" "$2" "$3" "$node" "${@:4}"' launch \
    "$job_folder" "$backend" "$nodes" "$ranks" "$address" "$port" "$@" || code=$?
  trap 'asked_early=yes' USR1 TERM
  # Whoever was signalled, on whatever node, or saw the end of the time come, has left this file.
  if [ -e "$PREF_DIST_LAUNCH_DIR/stop" ]; then was_asked=yes; fi
  rm -rf "$PREF_DIST_LAUNCH_DIR"
  return "$code"
}

# end_job CODE: back into the queue if it was the cluster that wanted an end, else the code.
end_job() {
  local how
  if [ "$1" != 0 ] && [ "$was_asked" = yes ] && may_requeue; then
    note_history requeued
    # The request ends this script, by a TERM.
    trap '' TERM
    if scontrol requeue "$job"; then
      if [ "$verb" = train ]; then how="goes on from where it has saved"; else how="starts anew"; fi
      say "back into the queue: it $how"
      exit 0
    fi
    say "could not be put back into the queue (--requeue is needed); submit it again, and it goes on"
  fi
  note_history ended "$1"
  say "exit code $1"
  exit "$1"
}

may_requeue() {
  local state
  # RUNNING also while a preempted job has its grace. One that was cancelled, or has had its time, is not asked for.
  state=$(scontrol show job "$job" --oneliner | grep -o ' JobState=[A-Z_]*')
  if [ "${state#*=}" != RUNNING ]; then
    say "is being ended by Slurm (${state#*=}), and so not put back into the queue by itself"
    return 1
  fi
  # Only a training run has anything to go on from: the others would not get any further the next time.
  if [ "$verb" != train ] && [ "$(date +%s)" -ge $((${PREF_DIST_END_TIME:-9999999999} - signal_seconds)) ]; then
    say "its time limit is too short for $verb; submit it again with a longer --time or on more GPUs"
    return 1
  fi
}

# note_history EVENT [WHAT]: a line for `pref-dist slurm status`, for clusters that soon forget their jobs.
note_history() {
  mkdir -p "$run_folder/slurm"
  printf '{"time": %s, "job": %s, "task": %s, "event": "%s", "what": "%s", "restarts": %s}\n' \
    "$(date +%s)" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}" "${SLURM_ARRAY_TASK_ID:-null}" "$1" "${2:-}" \
    "${SLURM_RESTART_COUNT:-0}" >>"$run_folder/slurm/history.jsonl"
}

# drop_option OPTION ARGUMENTS...: `arguments` without it.
drop_option() {
  local option=$1 word
  shift
  arguments=()
  for word in "$@"; do
    [ "$word" = "$option" ] || arguments+=("$word")
  done
}
