#!/bin/bash
# One training in four processes on two nodes. Memory and time are guesses; runs/ and the
# data lie on a file system that all nodes see.
#SBATCH --job-name=alignedfusion-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@300
#SBATCH --requeue
set -u
run=runs/itfusion
options=(--task detect --data deeplesion:ct --fusion itfusion --seed 1 --threads "$SLURM_CPUS_PER_TASK" --out "$run")
[ ! -d "$run/checkpoints" ] || options=(--resume --out "$run")

# Slurm sends SIGUSR1 to every task five minutes before the end: all finish the step, write a
# checkpoint and end with code 75. --kill-on-bad-exit is left out: they end by themselves.
srun alignedfusion train "${options[@]}"
code=$?
[ "$code" != 75 ] || scontrol requeue "$SLURM_JOB_ID"
exit "$code"
