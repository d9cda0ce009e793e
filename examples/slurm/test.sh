#!/bin/bash
# A study as an array of two tasks on a Slurm of this machine alone, merged, against the same
# study in one process; then a task that is told to stop and goes back into the queue. Needs
# root and Debian's slurm-wlm and munge; `make test-slurm` runs it. Usage: test.sh ALIGNEDFUSION
set -eu
program=$(realpath "$1")
dir=$(mktemp -d "${TMPDIR:-/tmp}/alignedfusion-slurm.XXXXXX")
export SLURM_CONF=$dir/slurm.conf
cleanup() {
	for pid in "$dir"/*.pid; do
		[ ! -e "$pid" ] || kill "$(cat "$pid")" || true
	done
	sleep 1
	rm -rf "$dir"
}
trap cleanup EXIT

# Daemons with files of their own: the machine's Slurm and munge are left alone.
chmod 755 "$dir"
install -d -o munge -g munge -m 700 "$dir/munge"
install -d -o munge -g munge -m 755 "$dir/run"
(umask 077 && head -c 128 /dev/urandom > "$dir/munge/key" && chown munge:munge "$dir/munge/key")
runuser -u munge -- munged --key-file="$dir/munge/key" --socket="$dir/run/socket" \
	--pid-file="$dir/run/munged.pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
ln -s run/munged.pid "$dir/munged.pid"
mkdir "$dir/state" "$dir/spool"
node=$(hostname -s)
cat > "$SLURM_CONF" <<END
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
AuthType=auth/munge
AuthInfo=socket=$dir/run/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
JobRequeue=1
SchedulerParameters=sched_interval=1
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
slurmctld
slurmd
until sinfo -h -o %T | grep -q idle; do sleep 1; done

# wait_for JOB waits until no task of a job is left. A busy controller does not answer, which is no
# answer. Slurm lets a requeued task wait two minutes.
wait_for() {
	local left=unknown
	while [ -n "$left" ]; do
		sleep 1
		left=$(squeue -h -j "$1" -o '%T %r' 2>&1) || case $left in *"Invalid job id"*) left='' ;; esac
		case $left in *BeginTime*) scontrol update "JobId=$1" StartTime=now || true ;; esac # it may have begun
	done
}

cd "$dir"
"$program" data synth --layout table --out data --patients 60 --size 32 --seed 2
study=(study missing --data table:data/data.csv --methods naive-bayes,logistic-attributes --baseline naive-bayes
	--seeds 2 --rates 0,0.5 --bootstrap 50 --threads 1)
"$program" "${study[@]}" --out one > one.txt
"$program" "${study[@]}" --out two --submit slurm --tasks 2 --dry-run > two.sh
job=$(sbatch --parsable --mem=0 two.sh)
wait_for "$job"
tail -n 1 slurm-"$job"_*.out
"$program" merge two two.shard-*-of-2 > two.txt
cmp one.txt two.txt
cmp one/table.csv two/table.csv
echo "an array of two tasks and merge: the table of the single study"

# A task that ends with 75 is run again; one that ends with 3 is not.
cat > work.sh <<'END'
#!/bin/sh
echo begun >> "$1"
trap 'exit 75' TERM
[ "$(wc -l < "$1")" -gt 1 ] || { kill -TERM $$; sleep 1; }
exit "$2"
END
chmod +x work.sh
for code in 0 3; do
	sed "s|^.* --shard=auto/2 &|./work.sh again$code $code \&|; s|--array=0-1|--array=0|" two.sh > again.sh
	job=$(sbatch --parsable --mem=0 again.sh)
	wait_for "$job"
	[ "$(wc -l < again$code)" = 2 ] || { echo "the task that ends with $code ran $(wc -l < again$code) times, want 2" >&2; cat slurm-"$job"_*.out slurmctld.log >&2; exit 1; }
done
echo "a task that was stopped went back into the queue once"

# A step of two tasks is one training: that of --nproc 2.
training=(train --task classify --data table:data/data.csv --fusion none --epochs 1 --set data.size=32 --set train.batch_size=4 --threads 1)
"$program" "${training[@]}" --nproc 2 --out nproc > /dev/null
srun --mem=0 --ntasks 2 "$program" "${training[@]}" --out srun > /dev/null
losses() { grep -o '"loss":[^,]*' "$1/metrics.jsonl"; }
cmp <(losses nproc) <(losses srun)
echo "a step of two tasks: the training of --nproc 2"
