package cli

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

// goldenRuns calls a test in a copy of the runs that each release has made.
func goldenRuns(t *testing.T, test func(t *testing.T, dir, release string)) {
	const golden = "../workflow/testdata/golden"
	releases, err := filepath.Glob(golden + "/[0-9]*")
	if err != nil || len(releases) == 0 {
		t.Fatalf("no releases in %s: %v", golden, err)
	}
	for _, release := range releases {
		release := filepath.Base(release)
		t.Run(release, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
				t.Fatal(err)
			}
			test(t, dir, release)
		})
	}
}

func TestRunsOfEarlierReleasesPredictTheSame(t *testing.T) {
	goldenRuns(t, func(t *testing.T, dir, release string) {
		mustRun(t, dir, "predict", "--run", release+"/detect", "--data", "boxes:boxes", "--split", "test", "--out", "again.csv", "--allow-changed")
		was, err := os.ReadFile(filepath.Join(dir, release, "detect.csv"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(filepath.Join(dir, "again.csv"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(was), string(again)); diff != "" {
			t.Errorf("predictions of %s (-then +now):\n%s", release, diff)
		}
	})
}

func TestRunsOfEarlierReleasesCompareTheSame(t *testing.T) {
	type systems struct {
		Systems []struct {
			Name          string
			Cases         int
			Accuracy, ECE struct{ Value float64 }
			Balanced      struct{ Value float64 } `json:"balanced_accuracy"`
			AUROC         struct{ Value float64 } `json:"macro_auroc"`
		}
	}
	goldenRuns(t, func(t *testing.T, dir, release string) {
		was, err := os.ReadFile(filepath.Join(dir, release, "compare.json"))
		if err != nil {
			t.Fatal(err)
		}
		cmd, stderr := program(t, dir, "compare", "--json", "--split", "test", release+"/itfusion", release+"/none")
		again, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
		var wanted, got systems
		if err := errors.Join(json.Unmarshal(was, &wanted), json.Unmarshal(again, &got)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, got); diff != "" || len(wanted.Systems) != 2 {
			t.Errorf("comparison of %s (-then +now):\n%s", release, diff)
		}
	})
}

func TestConfigsOfEarlierReleasesTrainTheSame(t *testing.T) {
	goldenRuns(t, func(t *testing.T, dir, release string) {
		mustRun(t, dir, "train", "--config", release+"/detect/config.yaml", "--data", "boxes:boxes", "--out", "again")
		was, err := runs.ReadMetrics(filepath.Join(dir, release, "detect"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := runs.ReadMetrics(filepath.Join(dir, "again"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lossesOf(was), lossesOf(again)); diff != "" {
			t.Errorf("losses of %s (-then +now):\n%s", release, diff)
		}
	})
}

func lossesOf(records []runs.Record) (losses []float64) {
	for _, r := range records {
		if r.Kind == "step" {
			losses = append(losses, *r.Loss)
		}
	}
	return losses
}
