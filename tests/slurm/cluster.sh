#!/usr/bin/env bash
# A throw-away Slurm of virtual nodes on this one machine: its own munged, a slurmctld and a slurmd a node, without
# systemd or cgroups, on loopback addresses only. Needs root, slurm-wlm and munge (Debian).
#
#   bash tests/slurm/cluster.sh start FOLDER [PORT]     # . FOLDER/env.sh afterwards
#   bash tests/slurm/cluster.sh stop FOLDER             # ends what start has started, and deletes FOLDER
#
# All of it lies in FOLDER. A second start brings back the nodes that are missing. Nodes: nPORTx1 to nPORTx6, each
# with 2 pretend CPUs and GPUs. Partitions: gpu (nodes 1, 2, default); spot and urgent (node 3), where jobs of
# spot give way to those of urgent; frail (nodes 4 to 6), for tests that kill a node.
# shellcheck disable=SC2016 # other shells expand what stands in single quotes
set -euo pipefail
usage() {
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}
[ $# -ge 2 ] || usage
verb=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd) conf=$2/etc/slurm.conf
num_nodes=6
num_cpus=2 num_gpus=2 memory_mb=8000

say() {
  echo "cluster.sh: $*" >&2
}

give_up() {
  say "$*"
  tail -n 15 "$folder"/log/*.log >&2 || true
  exit 1
}

# runs FILE PROGRAM: the process whose id is in FILE is that program, and no zombie or another one with its number.
runs() {
  local pid
  [ -s "$1" ] && pid=$(cat "$1") && [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2"* ]] &&
    ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null
}

# wait_for SECONDS COMMAND...
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

nodes() {
  for ((i = 1; i <= num_nodes; i++)); do echo "n${port}x$i"; done
}

start_munged() {
  if [ ! -s "$folder/munge/key" ]; then (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key"); fi
  if ! runs "$folder/munge/pid" munged; then
    rm -f "$folder"/munge/{socket,socket.lock,pid}
    munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
      --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --num-threads=2 </dev/null >/dev/null 2>&1 || give_up "munged does not start"
  fi
  wait_for 10 bash -c "munge -S '$folder/munge/socket' -n | unmunge -S '$folder/munge/socket'" || give_up "munged does not answer"
}

# Nodes meet by name, as those of a real cluster do, so each gets a loopback address and a name for it.
name_nodes() {
  local i=0 node
  for node in $(nodes); do
    i=$((i + 1))
    grep -qw "$node" /etc/hosts || flock /etc/hosts bash -c 'echo "$1" >>/etc/hosts' hosts "127.0.$((port % 200 + 20)).$i $node"
  done
  getent hosts "$(hostname -s)" >/dev/null || give_up "the name of this machine, $(hostname -s), is not in /etc/hosts"
}

write_config() {
  local host i=0 node gpu
  host=$(hostname -s)
  for ((gpu = 0; gpu < num_gpus; gpu++)); do
    # Another name for /dev/null.
    [ -e "$folder/gpu/gpu$gpu" ] || mknod "$folder/gpu/gpu$gpu" c 1 3 2>/dev/null || : >"$folder/gpu/gpu$gpu"
  done
  echo "NodeName=n${port}x[1-$num_nodes] Name=gpu File=$folder/gpu/gpu[0-$((num_gpus - 1))]" >"$folder/etc/gres.conf"
  cat >"$conf" <<CONF
ClusterName=test$port
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire, 120 s where it is not set.
AuthInfo=socket=$folder/munge/socket,cred_expire=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/pid/slurmctld.pid
SlurmdPidFile=$folder/pid/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$folder/log/finished_jobs
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=5,batch_sched_delay=0,sched_min_interval=200000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
# Failures show within a test's patience.
KillWait=5
SlurmdTimeout=15
SlurmctldTimeout=10
InactiveLimit=0
MessageTimeout=10
CompleteWait=0
MinJobAge=3600
OverTimeLimit=0
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
CONF
  for node in $(nodes); do
    i=$((i + 1))
    echo "NodeName=$node NodeHostname=$host NodeAddr=$node Port=$((port + i)) CPUs=$num_cpus RealMemory=$memory_mb Gres=gpu:$num_gpus State=UNKNOWN"
  done >>"$conf"
  local all="MaxTime=INFINITE DefaultTime=10 State=UP OverSubscribe=NO"
  cat >>"$conf" <<CONF
PartitionName=gpu Nodes=n${port}x[1-2] $all Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=spot Nodes=n${port}x3 $all PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=urgent Nodes=n${port}x3 $all PriorityTier=10 PreemptMode=OFF
PartitionName=frail Nodes=n${port}x[4-6] $all PriorityTier=5 PreemptMode=OFF
CONF
}

# A daemon must not hold on to the pipe that its starter reads, nor know of a job that its starter may be in.
launch() {
  env -u SLURM_JOB_ID -u SLURM_JOBID setsid "$@" </dev/null >>"$folder/log/console.log" 2>&1
}

start_node() {
  local node=$1
  ! runs "$folder/pid/slurmd.$node.pid" slurmd || return 0
  rm -f "$folder/pid/slurmd.$node.pid"
  mkdir -p "$folder/spool.$node"
  # Each node under its own host name, where this machine lets us.
  if unshare --uts true 2>/dev/null; then
    launch unshare --uts bash -c 'hostname "$1" && exec slurmd -f "$2" -N "$1"' node "$node" "$conf"
  else
    launch slurmd -f "$conf" -N "$node"
  fi || give_up "slurmd of $node does not start"
}

are_ready() {
  # %T carries a trailing * for a node that has not answered yet, so the pattern is anchored.
  [ "$(sinfo -h -N -o '%N %T' | sort -u | grep -cE ' (idle|mixed|allocated|completing)$')" -ge "$num_nodes" ]
}

start() {
  local node
  [ "$(id -u)" = 0 ] || give_up "it needs root"
  umask 022
  mkdir -p "$folder"/{etc,log,pid,state,gpu,munge}
  chmod 755 "$folder" "$folder/munge"
  start_munged
  name_nodes
  [ -s "$conf" ] || write_config
  echo "export SLURM_CONF=$(printf %q "$conf")" >"$folder/env.sh"
  if ! runs "$folder/pid/slurmctld.pid" slurmctld; then launch slurmctld -f "$conf" || give_up "slurmctld does not start"; fi
  wait_for 20 bash -c 'scontrol ping | grep -q "is UP"' || give_up "slurmctld does not answer"
  for node in $(nodes); do start_node "$node"; done
  if ! wait_for 10 are_ready; then
    scontrol update nodename="n${port}x[1-$num_nodes]" state=resume 2>/dev/null || true # DOWN by a test
    wait_for 20 are_ready || give_up "not all nodes are up: $(sinfo -h -N -o '%N=%T' | sort -u | tr '\n' ' ')"
  fi
}

# end FILE PROGRAM: that process, gently at first.
end() {
  local pid
  runs "$1" "$2" || return 0
  pid=$(cat "$1")
  kill "$pid" 2>/dev/null || true
  wait_for 10 bash -c "! [ -d /proc/$pid ] || grep -q '^State:[[:space:]]*Z' /proc/$pid/status" || kill -KILL "$pid" || true
}

stop() {
  local pid node
  if runs "$folder/pid/slurmctld.pid" slurmctld; then
    squeue -h -o %A | sort -u | xargs -r scancel || true
    wait_for 10 bash -c '[ -z "$(squeue -h)" ]' || true
  fi
  for node in $(nodes); do end "$folder/pid/slurmd.$node.pid" slurmd; done
  end "$folder/pid/slurmctld.pid" slurmctld
  end "$folder/munge/pid" munged
  # Step managers that have outlived their slurmd: those that stand in our folder.
  for pid in $(pgrep -x slurmstepd || true); do
    case $(readlink "/proc/$pid/cwd" || true) in "$folder"/*) kill -KILL "$pid" || true ;; esac
  done
  # In place, because a container mounts this file.
  flock /etc/hosts bash -c 'left=$(grep -v " n$1x[0-9]*\$" /etc/hosts) && printf "%s\n" "$left" >/etc/hosts' hosts "$port"
  rm -rf "$folder"
}

conf=$folder/etc/slurm.conf
export SLURM_CONF=$conf
# A second start keeps the port of the first.
port=$(sed -n 's/^SlurmctldPort=//p' "$conf" 2>/dev/null || true)
port=${port:-${3:-17100}}
case $verb in
start) start ;;
stop) stop ;;
*) usage ;;
esac
