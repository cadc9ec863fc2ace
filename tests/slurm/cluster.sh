#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, for trying things out; as root, without systemd and cgroups:
#   tests/slurm/cluster.sh up DIR      # then: export SLURM_CONF=DIR/slurm.conf
#   tests/slurm/cluster.sh down DIR
# It needs slurm and munge: apt-get install --no-install-recommends slurm-wlm munge
set -euo pipefail
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
host=$(hostname -s)

down() {
    export SLURM_CONF="$dir/slurm.conf"
    timeout 5 scancel --quiet --user=root 2>/dev/null || true
    for _ in $(seq 60); do
        [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break
        sleep 0.2
    done
    for name in n1 n2 slurmctld munge/munged; do
        [ -f "$dir/$name.pid" ] && kill "$(cat "$dir/$name.pid")" 2>/dev/null || true
    done
    for _ in $(seq 100); do
        running=0
        for name in n1 n2 slurmctld munge/munged; do
            [ -f "$dir/$name.pid" ] && kill -0 "$(cat "$dir/$name.pid")" 2>/dev/null && running=1
        done
        [ "$running" = 0 ] && return 0
        sleep 0.1
    done
}

up() {
    mkdir -p "$dir"/{munge,state,spool-n1,spool-n2,log}
    chmod 755 "$dir" "$dir/munge"
    [ -f "$dir/munge/key" ] || (umask 377 && head -c 1024 /dev/urandom > "$dir/munge/key")
    cat > "$dir/slurm.conf" <<CONF
ClusterName=onemachine
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmctldPort=26817
SlurmdPidFile=$dir/%n.pid
SlurmdLogFile=$dir/log/%n.log
SlurmdSpoolDir=$dir/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=26818 CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=26819 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
    export SLURM_CONF="$dir/slurm.conf"
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/munged.pid" \
        --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
    slurmctld -c
    slurmd -N n1
    slurmd -N n2
    for _ in $(seq 100); do
        [ "$(sinfo -h -N -p debug -t idle -o %N | wc -l)" = 2 ] && return 0
        sleep 0.2
    done
    sinfo >&2
    down
    return 1
}

"$command"
