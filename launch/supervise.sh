# shellcheck shell=bash
# Sourced by single.sh, node.sh, nodes.sh and slurm/job.sh: finds Python, starts the ranks, turns
# signals into a stop file, and returns the exit code that counts.
#
# torchrun kills its children 30 s after a TERM, dies of USR1, and turns every failure into 1. So signals
# end here: they make a file `stop`, the ranks see it, agree at the next step, save, and leave. Each rank
# writes the code that it means into exit_codes/; 75 is "stopped, start the same command again to go on".

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${PREF_DIST_PYTHON:-}" ]; then
  python=$PREF_DIST_PYTHON
elif [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
else
  python=python3
fi
PATH=$(dirname "$(command -v "$python" || echo /usr/bin/python3)"):$PATH # DeepSpeed looks for ninja there
# The code beside these scripts is the code that runs, in whatever folder they are started.
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
export PATH PYTHONPATH

# Slurm calls its copy of a script slurm_script.
# It never ends the script: of `... 2>&1 | tee log` Ctrl-C ends tee first.
say() {
  (
    trap '' PIPE
    echo "${script_name:-$(basename "$0")}: $*" >&2
  ) || true
}

# misuse MESSAGE: the scripts set `usage`.
misuse() {
  say "$1"
  echo "usage: ${usage:?}" >&2
  exit 2
}

num_gpus() {
  local listed visible
  listed=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ') || listed=0
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    visible=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^[0-9GM]') || visible=0
    listed=$((visible < listed ? visible : listed))
  fi
  echo "$listed"
}

# Cores that this process may use. nproc itself would answer with OMP_NUM_THREADS where that is set.
num_cores() {
  env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc
}

# Ranks of one machine for "auto": its GPUs, else its cores, at most 4.
resolve_ranks() {
  local ranks=$1
  if [ "$ranks" = auto ]; then
    ranks=$(num_gpus)
    [ "$ranks" -gt 0 ] || ranks=$(num_cores)
    if [ "$(num_gpus)" = 0 ] && [ "$ranks" -gt 4 ]; then ranks=4; fi
  fi
  [[ $ranks =~ ^[1-9][0-9]*$ ]] || misuse "the number of ranks is a number or auto, not '$ranks'"
  echo "$ranks"
}

threads_for() {
  local threads=$(($(num_cores) / $1))
  echo $((threads > 0 ? threads : 1))
}

check_backend() {
  case $1 in ddp | zero0 | zero1 | zero2 | zero2_offload | zero3 | zero3_offload | fsdp2) ;;
  *) misuse "BACKEND is ddp, zero0, zero1, zero2, zero2_offload, zero3, zero3_offload or fsdp2, not '$1'" ;;
  esac
}

check_verb() {
  case $1 in train | evaluate | predict | blend | doctor) ;;
  *) misuse "VERB is train, evaluate, predict, blend or doctor (--ranks), not '$1' (others need one process: bash launch/single.sh)" ;;
  esac
}

# Whether there is no sign of a GPU, not even one that nvidia-smi does not know (AMD's, or WSL's).
has_no_gpu() {
  [ "$(num_gpus)" = 0 ] && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null && [ ! -e /dev/kfd ] && [ ! -e /dev/dxg ]
}

# accelerate_launch BACKEND NUM_RANKS: the command that starts so many ranks of this machine; the caller adds the rest.
accelerate_launch() {
  # torchrun would take 1 where DeepSpeed runs, whatever Accelerate is told, and warn of it in six lines.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(threads_for "$2")}
  # Else DeepSpeed, which Accelerate imports before it starts the ranks, warns on stdout that it sees no GPU.
  if [[ $1 == zero* ]] && has_no_gpu; then export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}; fi
  launch=("$python" -m accelerate.commands.launch --config_file "$root/configs/accelerate/$1.yaml")
  [[ $1 != zero* ]] || launch+=(--deepspeed_config_file "$root/configs/deepspeed/$1.json")
}

# supervise VERB NUM_RANKS COMMAND...: runs COMMAND, which starts so many ranks of VERB; returns the code that
# they mean. With keep_terminal=yes the command keeps the terminal, and Ctrl-C is its own matter (pdb).
supervise() {
  supervised_verb=$1
  case " $* " in *" --dry-run "*) supervised_verb=dry-run ;; esac # nothing to save
  local num_ranks=$2 own_dir="" code seen
  shift 2
  if [ -z "${PREF_DIST_LAUNCH_DIR:-}" ]; then
    own_dir=$(mktemp -d)
    export PREF_DIST_LAUNCH_DIR=$own_dir
  fi
  # By this every process of the launch is found, even one whose parent is gone.
  export PREF_DIST_LAUNCH_MARK=$$-$RANDOM-$RANDOM
  num_signals=0 num_interrupts=0
  trap 'on_signal "signal SIGHUP"' HUP
  trap 'on_signal "signal SIGTERM"' TERM
  trap 'on_signal "signal SIGUSR1"' USR1
  trap on_interrupt INT
  # A shell's background command ignores INT; `trap -` takes that back.
  if [ "${keep_terminal:-no}" = yes ]; then
    (trap - INT && exec "$@") <&0 &
  else
    # A session of its own: Ctrl-C in a terminal must reach this script alone.
    (trap - INT && exec setsid "$@") </dev/null &
  fi
  child=$!
  while :; do
    seen=$num_signals code=0
    wait "$child" || code=$?
    # After a signal it was `wait` that ended, not the command.
    [ "$num_signals" != "$seen" ] || break
  done
  trap '' HUP INT TERM USR1
  # torchrun may have been killed before its ranks.
  [ "$code" = 0 ] || kill_launch
  if [ "$code" != 0 ] && [ ! -e "$PREF_DIST_LAUNCH_DIR/exit_codes" ]; then
    say "no rank came so far as to say how it ended (exit code $code).${no_rank_hint:+ $no_rank_hint}"
  fi
  code=$(meant_exit_code "$num_ranks" "$code")
  [ "$num_ranks" = 1 ] || say_who_failed_first
  [ -z "$own_dir" ] || rm -rf "$own_dir"
  return "$code"
}

# on_signal REASON. Schedulers send TERM and USR1 as often as they like, so only the first one means something.
on_signal() {
  num_signals=$((num_signals + 1))
  if [ "$supervised_verb" = train ]; then
    ask_to_stop "$1"
  else
    touch "$PREF_DIST_LAUNCH_DIR/stop" || true # for slurm/job.sh: it was not a rank that failed
    kill_launch                                # nothing to save
  fi
}

on_interrupt() {
  num_interrupts=$((num_interrupts + 1))
  if [ "${keep_terminal:-no}" = yes ]; then
    num_signals=$((num_signals + 1)) # the command has seen it too
  elif [ "$num_interrupts" -gt 1 ]; then
    num_signals=$((num_signals + 1))
    kill_launch
  else
    on_signal Ctrl-C
  fi
}

# ask_to_stop REASON: the run says it when it has stopped.
ask_to_stop() {
  local stop=$PREF_DIST_LAUNCH_DIR/stop own
  [ ! -e "$stop" ] || return 0
  # The launchers of a Slurm job share the folder and are signalled at once; a trap that fails would end the script.
  own=$stop.$(uname -n).$$
  { echo "$1" >"$own" && mv -f "$own" "$stop"; } 2>/dev/null || touch "$stop" || true
  say "asked to stop: the run is saved at its next step (Ctrl-C twice: leaves at once)"
}

kill_launch() {
  local file
  kill -KILL "$child" 2>/dev/null || true
  while read -r file; do
    kill -KILL "${file//[!0-9]/}" 2>/dev/null || true
  done < <(grep -lszxF "PREF_DIST_LAUNCH_MARK=$PREF_DIST_LAUNCH_MARK" /proc/[0-9]*/environ)
}

# The file of the rank that failed first (the others may only have missed it), or nothing.
first_failure() {
  local file first=""
  for file in "$PREF_DIST_LAUNCH_DIR"/exit_codes/rank_*; do
    [ -s "$file" ] || continue
    case $(cat "$file") in
    0 | 75) ;;
    *) if [ -z "$first" ] || [ "$file" -ot "$first" ]; then first=$file; fi ;;
    esac
  done
  echo "$first"
}

say_who_failed_first() {
  local first
  first=$(first_failure)
  [ -n "$first" ] || return 0
  say "rank ${first##*_} failed first, with exit code $(cat "$first")"
  # Once more, because torchrun has put forty lines below it.
  cat "$PREF_DIST_LAUNCH_DIR/errors/rank_${first##*_}" >&2 2>/dev/null || true
}

# meant_exit_code NUM_RANKS CODE: the code of the rank that failed first; 75 if the ranks stopped on request; else
# CODE, the launcher's own.
meant_exit_code() {
  local first num_stopped
  first=$(first_failure)
  num_stopped=$(grep -lsx 75 "$PREF_DIST_LAUNCH_DIR"/exit_codes/rank_* | wc -l) || num_stopped=0
  if [ -n "$first" ]; then
    cat "$first"
  # A launcher that was itself signalled ends with its own code although all ranks have saved.
  elif [ "$num_stopped" -ge "$1" ] || { [ "$num_stopped" -gt 0 ] && [ "$2" = 0 ]; }; then
    echo 75
  else
    echo "$2"
  fi
}
