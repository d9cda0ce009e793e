#!/bin/bash
#SBATCH --job-name=alignedfusion
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue

# Memory and time are guesses: write what a task takes. When all tasks are done:
#   alignedfusion merge studies/skin studies/skin.shard-*-of-8
cd /data || exit 2
# Slurm tells this script before the time is up. The work stops where it can go on, with
# code 75, and the task goes back into the queue.
pid='' told=''
trap 'told=1; [ -z "$pid" ] || kill -TERM "$pid"' TERM
alignedfusion study missing --data=table:skin/data.csv --out=studies/skin --shard=auto/8 &
pid=$!
[ -z "$told" ] || kill -TERM "$pid"
wait "$pid"
code=$?
[ "$code" -le 128 ] || { wait "$pid"; code=$?; }
[ "$code" != 75 ] || scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
exit "$code"
