package shard

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

func TestEveryItemIsInOneShard(t *testing.T) {
	for n := range 20 {
		for count := 1; count <= 7; count++ {
			next := 0
			for index := 1; index <= count; index++ {
				first, end := Spec{index, count}.Range(n)
				if first != next || end-first < n/count || end-first > n/count+1 {
					t.Errorf("shard %d/%d of %d items: %d to %d after %d", index, count, n, first, end, next)
				}
				next = end
			}
			if next != n {
				t.Errorf("%d shards end at %d of %d", count, next, n)
			}
		}
	}
}

func TestShardComesFromTheTask(t *testing.T) {
	slurm := func(id, first, count string) map[string]string {
		return map[string]string{"SLURM_ARRAY_TASK_ID": id, "SLURM_ARRAY_TASK_MIN": first, "SLURM_ARRAY_TASK_COUNT": count}
	}
	pod := map[string]string{"JOB_COMPLETION_INDEX": "3"}
	for _, c := range []struct {
		text string
		env  map[string]string
		want Spec // zero: refused
	}{
		{"2/4", nil, Spec{2, 4}},
		{"2/4", slurm("0", "0", "9"), Spec{2, 4}}, // what is given wins
		{"auto", slurm("0", "0", "4"), Spec{1, 4}},
		{"auto", slurm("13", "10", "4"), Spec{4, 4}},
		{"auto/8", slurm("5", "5", "1"), Spec{6, 8}}, // one task again
		{"auto/4", pod, Spec{4, 4}},
		{"auto", slurm("7", "1", "3"), Spec{}}, // --array=1,3,7
		{"auto", pod, Spec{}},
		{"auto/3", pod, Spec{}},
		{"auto", nil, Spec{}},
		{"auto/4", map[string]string{"SLURM_ARRAY_TASK_ID": "1", "JOB_COMPLETION_INDEX": "3"}, Spec{}},
		{"2/4", map[string]string{"SLURM_ARRAY_TASK_ID": "1", "JOB_COMPLETION_INDEX": "3"}, Spec{2, 4}},
		{"auto", slurm("x", "0", "4"), Spec{}},
		{"auto", slurm("1", "", ""), Spec{}},
		{"0/4", nil, Spec{}}, {"5/4", nil, Spec{}}, {"1/0", nil, Spec{}}, {"-1/4", nil, Spec{}}, {"1", nil, Spec{}}, {"a/b", nil, Spec{}}, {"1/2/3", nil, Spec{}}, {"auto/", nil, Spec{}},
	} {
		got, err := Parse(c.text, func(name string) string { return c.env[name] })
		if refused := c.want.Whole(); refused != (fault.Of(err) == fault.Usage) || !refused && got != c.want {
			t.Errorf("--shard %s with %v: %v, %v; want %v", c.text, c.env, got, err, c.want)
		}
	}
	if s, err := Parse("", func(string) string { return "1" }); err != nil || !s.Whole() {
		t.Errorf("without --shard: %v, %v; want the whole", s, err)
	}
}
