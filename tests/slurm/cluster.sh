#!/usr/bin/env bash
# A real SLURM of two virtual nodes on this machine, for the tests; as root, with Debian's slurm-wlm and munge.
#   tests/slurm/cluster.sh start FOLDER    starts munged, slurmctld and two slurmd; FOLDER/slurm.conf is for SLURM_CONF
#   tests/slurm/cluster.sh stop FOLDER     ends them, by their pid files
# It has no accounting database: states are asked of `scontrol`. Ports: 16817, 17001, 17002.
set -euo pipefail
folder=$(realpath -m "$2")
munge=$folder/munge
export SLURM_CONF=$folder/slurm.conf

start() {
    mkdir -p "$folder"/{state,spool-n1,spool-n2,log} "$munge"
    dd if=/dev/urandom bs=1 count=1024 of="$munge/munge.key" status=none
    chmod 400 "$munge/munge.key"
    chmod 755 "$folder" "$munge"
    munged --key-file="$munge/munge.key" --socket="$munge/munge.socket" --pid-file="$munge/munged.pid" \
        --log-file="$munge/munged.log" --seed-file="$munge/seed" --force
    local host
    host=$(hostname)
    cat > "$SLURM_CONF" <<CONF
ClusterName=ctl
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
KillWait=5
JobRequeue=1
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdSpoolDir=$folder/spool-%n
StateSaveLocation=$folder/state
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
SlurmctldPort=16817
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=60 State=UP OverSubscribe=YES
CONF
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N n1
    slurmd -f "$SLURM_CONF" -N n2
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = 2 ]; then
            sinfo
            return
        fi
        sleep 0.5
    done
    echo "the nodes did not come up; see $folder/log" >&2
    exit 1
}

stop() {
    scancel --full --partition=debug 2> /dev/null || true
    for file in "$folder"/slurmctld.pid "$folder"/slurmd-n1.pid "$folder"/slurmd-n2.pid "$munge"/munged.pid; do
        if [ -f "$file" ]; then
            kill "$(cat "$file")" 2> /dev/null || true
        fi
    done
}

"$1"
