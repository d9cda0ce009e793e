package shard

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func submission() Submission {
	return Submission{Command: []string{"alignedfusion", "study", "missing", "--data=table:skin/my data.csv", "--out=s"}, Out: "s", Dir: "/data", Tasks: 8,
		Quoted: func(w string) string {
			if strings.Contains(w, " ") {
				return "'" + w + "'"
			}
			return w
		}}
}

var update = flag.Bool("update", false, "write the examples anew")

// The examples are what the program prints.
func TestExamplesAreWhatIsPrinted(t *testing.T) {
	s := submission()
	s.Command = []string{"alignedfusion", "study", "missing", "--data=table:skin/data.csv", "--out=studies/skin"}
	s.Out = "studies/skin"
	for cluster, path := range map[string]string{"slurm": "../../examples/slurm/study.sh", "k8s": "../../examples/kubernetes/study-job.yaml"} {
		want, err := s.For(cluster)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != want {
			t.Errorf("%s is out of date (%v): go test ./host/shard -update", path, err)
		}
	}
}

// job are the fields of batch/v1 that the manifest uses; what is not among them is refused.
type job struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct {
		GenerateName string `yaml:"generateName"`
	}
	Spec struct {
		CompletionMode       string `yaml:"completionMode"`
		Completions          int
		Parallelism          int
		BackoffLimitPerIndex int `yaml:"backoffLimitPerIndex"`
		PodFailurePolicy     struct {
			Rules []struct {
				Action      string
				OnExitCodes *struct {
					ContainerName, Operator string
					Values                  []int
				} `yaml:"onExitCodes"`
				OnPodConditions []struct{ Type, Status string } `yaml:"onPodConditions"`
			}
		} `yaml:"podFailurePolicy"`
		Template struct {
			Spec struct {
				RestartPolicy                 string `yaml:"restartPolicy"`
				TerminationGracePeriodSeconds int    `yaml:"terminationGracePeriodSeconds"`
				Containers                    []struct {
					Name, Image string
					WorkingDir  string `yaml:"workingDir"`
					Command     []string
					Resources   struct{ Requests, Limits map[string]string }
					Mounts      []struct {
						Name      string
						MountPath string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name  string
					Claim struct {
						ClaimName string `yaml:"claimName"`
					} `yaml:"persistentVolumeClaim"`
				}
			}
		}
	}
}

// The rules of an Indexed Job: restartPolicy Never with a podFailurePolicy, FailIndex with
// backoffLimitPerIndex, exit codes sorted and not 0.
func TestIndexedJobFailsAnIndexWhoseCodeComesAgain(t *testing.T) {
	s := submission()
	s.GPU = true
	text, err := s.For("k8s")
	if err != nil {
		t.Fatal(err)
	}
	// ContainerName and Operator are written containerName and operator.
	var j job
	if err := yaml.UnmarshalWithOptions([]byte(strings.ReplaceAll(text, "containerName", "containername")), &j, yaml.Strict()); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	spec, pod := j.Spec, j.Spec.Template.Spec
	if j.APIVersion != "batch/v1" || j.Kind != "Job" || spec.CompletionMode != "Indexed" || spec.Completions != 8 || spec.BackoffLimitPerIndex < 1 ||
		pod.RestartPolicy != "Never" || pod.TerminationGracePeriodSeconds < 60 || len(pod.Containers) != 1 {
		t.Errorf("%+v", j)
	}
	rules := spec.PodFailurePolicy.Rules
	if len(rules) != 3 || rules[0].Action != "FailIndex" || !slices.Equal(rules[0].OnExitCodes.Values, []int{2, 3, 7}) || rules[2].Action != "Ignore" || !slices.Equal(rules[2].OnExitCodes.Values, []int{75}) {
		t.Errorf("%+v", rules)
	}
	c := pod.Containers[0]
	if want := append(s.Command, "--shard=auto/8"); !slices.Equal(c.Command, want) || c.WorkingDir != "/data" || c.Mounts[0].MountPath != "/data" || c.Resources.Limits["nvidia.com/gpu"] != "1" {
		t.Errorf("%+v", c)
	}
	if c.Mounts[0].Name != pod.Volumes[0].Name || rules[0].OnExitCodes.ContainerName != c.Name {
		t.Error("a name leads to nothing")
	}
}

// The script passes codes on, lets the program finish its step when Slurm tells it, and goes
// back into the queue on 75 alone.
func TestArrayScriptRequeuesOnItsCodeAlone(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"scontrol": "#!/bin/sh\necho \"$@\" >> requeued\n",
		"work":     "#!/bin/sh\n[ \"$1 $2\" = \"my word --shard=auto/8\" ] || exit 9\ntrap 'exit 75' TERM\n[ \"$CODE\" != told ] || { kill -TERM $PPID; sleep 5 > /dev/null 2>&1 & wait; }\nexit \"$CODE\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s := submission()
	s.Command, s.Dir = []string{"./work", "my word"}, dir
	text, err := s.For("slurm")
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[string]int{"0": 0, "3": 3, "75": 75, "143": 143, "told": 75} {
		_ = os.Remove(filepath.Join(dir, "requeued"))
		cmd := exec.Command(bash, "-c", text)
		cmd.Env = append(os.Environ(), "CODE="+code, "PATH="+dir+":"+os.Getenv("PATH"), "SLURM_ARRAY_JOB_ID=12", "SLURM_ARRAY_TASK_ID=3")
		out, _ := cmd.CombinedOutput()
		requeued, _ := os.ReadFile(filepath.Join(dir, "requeued"))
		if got := cmd.ProcessState.ExitCode(); got != want || (string(requeued) == "requeue 12_3\n") != (want == 75) {
			t.Errorf("work ends with %s: the script with %d, want %d; requeued %q\n%s", code, got, want, requeued, out)
		}
	}
	if _, err := s.For("pbs"); err == nil {
		t.Error("a cluster nobody knows was accepted")
	}
}
