#!/usr/bin/env bash
# A real SLURM of one node, without systemd: start.sh FOLDER; then export SLURM_CONF=FOLDER/slurm.conf.
# Everything is in FOLDER and on the loopback interface; the daemons' process ids are in FOLDER/*.pid.
# Needs Debian's slurmctld, slurmd, slurm-client and munge, and root. Installs nothing.
set -eu
D=${1:?folder}
mkdir -p "$D/ctld" "$D/d"
chmod 755 "$D"
H=$(hostname -s)
CPUS=$(nproc)
[ "$CPUS" -ge 2 ] || CPUS=2
read -r CONTROLLER NODE < <(python3 -c '
import socket
both = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in both))')

(umask 077; head -c 128 /dev/urandom > "$D/munge.key")
munged --force --socket="$D/munge.socket" --key-file="$D/munge.key" --pid-file="$D/munged.pid" \
  --log-file="$D/munged.log" --seed-file="$D/munged.seed" --num-threads=2

cat > "$D/slurm.conf" <<C
ClusterName=one
SlurmctldHost=$H(127.0.0.1)
SlurmctldPort=$CONTROLLER
SlurmdPort=$NODE
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$D/ctld
SlurmdSpoolDir=$D/d
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
SlurmctldLogFile=$D/slurmctld.log
SlurmdLogFile=$D/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
JobRequeue=1
KillWait=30
MinJobAge=300
SchedulerParameters=sched_interval=5,batch_sched_delay=0,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=$H NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=8000 State=UNKNOWN
PartitionName=cpu Nodes=$H Default=YES MaxTime=60 State=UP OverSubscribe=NO
C
export SLURM_CONF="$D/slurm.conf"
slurmctld -c
slurmd -c
for _ in $(seq 60); do
  sinfo --noheader --format=%t 2>/dev/null | grep -qx idle && exit 0
  sleep 0.5
done
echo "SLURM did not start:" >&2
tail -n 5 "$D"/*.log >&2
exit 1
