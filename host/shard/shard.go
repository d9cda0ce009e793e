// Package shard divides a command's work among processes that know nothing of each other:
// tasks of a Slurm array, pods of a Kubernetes Indexed Job. Each does its part and leaves a
// file; the files together are what the command would have made alone.
package shard

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// Auto is the text that takes the shard's number from the environment.
const Auto = "auto"

// Spec is one shard of several.
type Spec struct {
	// Index counts from 1 to Count. The zero Spec is the whole work.
	Index, Count int
}

// Whole reports whether nothing is divided.
func (s Spec) Whole() bool { return s.Count == 0 }

func (s Spec) String() string { return fmt.Sprintf("%d/%d", s.Index, s.Count) }

// Range are the items of n, from first to before end, that are this shard's: neighbours stay
// together, and no two shards differ by more than one item.
func (s Spec) Range(n int) (first, end int) {
	if s.Whole() {
		return 0, n
	}
	return n * (s.Index - 1) / s.Count, n * s.Index / s.Count
}

// Parse reads I/N; auto, which takes both from a Slurm array; or auto/N, which takes the
// number from a Slurm array or a Kubernetes Indexed Job, whose count no pod is told.
// getenv is os.Getenv.
func Parse(text string, getenv func(string) string) (Spec, error) {
	if text == "" {
		return Spec{}, nil
	}
	index, count, counted := strings.Cut(text, "/")
	s := Spec{}
	var err error
	if counted {
		if s.Count, err = strconv.Atoi(count); err != nil || s.Count < 1 {
			return s, refuse(text, "the number behind / is that of all shards, 1 or more")
		}
	}
	switch {
	case index == Auto:
		return fromTask(text, s.Count, getenv)
	case !counted:
		return s, refuse(text, "want I/N such as 1/4, auto, or auto/N")
	}
	if s.Index, err = strconv.Atoi(index); err != nil || s.Index < 1 || s.Index > s.Count {
		return s, refuse(text, "shards count from 1: 1/%d to %d/%d", s.Count, s.Count, s.Count)
	}
	return s, nil
}

func refuse(text, format string, args ...any) error {
	return fault.Errorf(fault.Usage, "--shard %s: %s", text, fmt.Sprintf(format, args...))
}

// fromTask reads the number of the task this process is; count is 0 where Slurm has to say it.
func fromTask(text string, count int, getenv func(string) string) (Spec, error) {
	number := func(name string) (int, error) {
		value := getenv(name)
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return 0, refuse(text, "$%s is %q, want a whole number", name, value)
		}
		return n, nil
	}
	name, ofSlurm, ofJob := "SLURM_ARRAY_TASK_ID", getenv("SLURM_ARRAY_TASK_ID") != "", getenv("JOB_COMPLETION_INDEX") != ""
	switch {
	case ofSlurm && ofJob:
		return Spec{}, refuse(text, "both $SLURM_ARRAY_TASK_ID and $JOB_COMPLETION_INDEX are set, and either could number the tasks; unset one of them or give --shard I/N")
	case ofJob:
		name = "JOB_COMPLETION_INDEX"
	case !ofSlurm:
		return Spec{}, refuse(text, "neither $SLURM_ARRAY_TASK_ID nor $JOB_COMPLETION_INDEX is set: this is no task of a Slurm array and no pod of an Indexed Job; give --shard I/N")
	}
	task, err := number(name)
	switch {
	case err != nil:
		return Spec{}, err
	case count > 0 && task >= count:
		return Spec{}, refuse(text, "$%s is %d, want 0 to %d: number the tasks from 0 (sbatch --array=0-%d, completions: %d)", name, task, count-1, count-1, count)
	case count > 0:
		return Spec{task + 1, count}, nil
	case !ofSlurm:
		return Spec{}, refuse(text, "a pod is not told how many there are: give --shard auto/N with the Job's completions")
	}
	first, err := number("SLURM_ARRAY_TASK_MIN")
	if err != nil {
		return Spec{}, err
	}
	if count, err = number("SLURM_ARRAY_TASK_COUNT"); err != nil {
		return Spec{}, err
	}
	if task < first || task-first >= count {
		return Spec{}, refuse(text, "task %d of an array of %d tasks from %d on: the numbers have gaps; number them one by one (sbatch --array=0-%d), or give --shard auto/N", task, count, first, count-1)
	}
	return Spec{task - first + 1, count}, nil
}
