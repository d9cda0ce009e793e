package shard

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// Submission is a command that the tasks of a cluster share, a shard each.
type Submission struct {
	// Command are its words, from the program's path on; Out is what it writes, and Dir the
	// folder in which the words hold.
	Command  []string
	Out, Dir string
	// Tasks is the number of shards.
	Tasks int
	// Threads are the processors of a task; 0 means 4. GPU asks for one of those.
	Threads int
	GPU     bool
	// Quoted is a word as a shell reads it back.
	Quoted func(string) string
}

// Clusters are what [Submission.For] writes.
var Clusters = []string{"slurm", "k8s"}

// For writes the script of a Slurm array or the manifest of a Kubernetes Indexed Job.
func (s Submission) For(cluster string) (string, error) {
	s.Threads = cmp.Or(s.Threads, 4)
	switch cluster {
	case "slurm":
		return s.slurm(), nil
	case "k8s":
		return s.job(), nil
	}
	return "", fault.Errorf(fault.Usage, "--submit %q: want one of %s", cluster, strings.Join(Clusters, ", "))
}

// merge is the command that puts the shards together.
func (s Submission) merge() string {
	return fmt.Sprintf("%s merge %s %s.shard-*-of-%d", s.Quoted(s.Command[0]), s.Quoted(s.Out), s.Quoted(s.Out), s.Tasks)
}

func (s Submission) slurm() string {
	gpu := ""
	if s.GPU {
		gpu = "#SBATCH --gres=gpu:1\n"
	}
	var words []string
	for _, w := range s.Command {
		words = append(words, s.Quoted(w))
	}
	return fmt.Sprintf(`#!/bin/bash
#SBATCH --job-name=alignedfusion
#SBATCH --array=0-%d
#SBATCH --cpus-per-task=%d
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
%s
# Memory and time are guesses: write what a task takes. When all tasks are done:
#   %s
cd %s || exit 2
# Slurm tells this script before the time is up. The work stops where it can go on, with
# code %d, and the task goes back into the queue.
pid='' told=''
trap 'told=1; [ -z "$pid" ] || kill -TERM "$pid"' TERM
%s --shard=auto/%d &
pid=$!
[ -z "$told" ] || kill -TERM "$pid"
wait "$pid"
code=$?
[ "$code" -le 128 ] || { wait "$pid"; code=$?; }
[ "$code" != %d ] || scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
exit "$code"
`, s.Tasks-1, s.Threads, gpu, s.merge(), s.Quoted(s.Dir), fault.Requeue, strings.Join(words, " "), s.Tasks, fault.Requeue)
}

func (s Submission) job() string {
	gpu := ""
	if s.GPU {
		gpu = "\n            nvidia.com/gpu: 1"
	}
	return fmt.Sprintf(`# Change image, claim, memory and parallelism to what is there. When the Job is complete:
#   %s
apiVersion: batch/v1
kind: Job
metadata:
  generateName: alignedfusion-
spec:
  completionMode: Indexed
  completions: %d
  parallelism: %d
  backoffLimitPerIndex: 3
  podFailurePolicy:
    rules:
    # What these codes say comes again however often it is tried.
    - action: FailIndex
      onExitCodes: {containerName: work, operator: In, values: %s}
    # The node is drained, or the pod stopped where it can go on: no failure.
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
    - action: Ignore
      onExitCodes: {containerName: work, operator: In, values: [%d]}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 300
      containers:
      - name: work
        image: alignedfusion
        workingDir: %s
        command: %s
        resources:
          requests: {cpu: %d, memory: 16Gi}
          limits:
            memory: 16Gi%s
        volumeMounts:
        - {name: data, mountPath: %s}
      volumes:
      - name: data
        persistentVolumeClaim: {claimName: alignedfusion}
`, s.merge(), s.Tasks, s.Tasks, quote(fault.Hopeless()), fault.Requeue, quote(s.Dir),
		quote(append(s.Command[:len(s.Command):len(s.Command)], fmt.Sprintf("--shard=auto/%d", s.Tasks))), s.Threads, gpu, quote(s.Dir))
}

// quote writes JSON, which is YAML.
func quote(v any) string {
	data, _ := json.Marshal(v) // of texts and numbers, which have one
	return string(data)
}
