package thirdparty

import (
	"encoding/csv"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// What earlier releases trained predicts the same with today's plugins, up to the rounding
// of another machine or libtorch.
func TestRunsOfEarlierReleasesPredictTheSame(t *testing.T) {
	t.Parallel()
	needGotch(t)
	plugins, err := ourPlugins()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join(root, "host/workflow/testdata/golden")
	releases, err := filepath.Glob(golden + "/[0-9]*")
	if err != nil || len(releases) == 0 {
		t.Fatalf("no releases in %s: %v", golden, err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(golden)); err != nil {
		t.Fatal(err)
	}
	for _, release := range releases {
		for _, run := range []string{"itfusion", "none"} {
			run := filepath.Join(filepath.Base(release), run)
			t.Run(run, func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command("alignedfusion", "predict", "--allow-changed", "--plugin-dir", plugins, "--threads", "1", "--run", run, "--data", "table:table/data.csv", "--split", "test", "--out", run+"-again.csv")
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				samePredictions(t, filepath.Join(dir, run+".csv"), filepath.Join(dir, run+"-again.csv"))
			})
		}
	}
}

// samePredictions compares two tables of probabilities.
func samePredictions(t *testing.T, wasPath, againPath string) {
	t.Helper()
	was, again := records(t, wasPath), records(t, againPath)
	if len(was) < 2 || len(was) != len(again) {
		t.Fatalf("%d lines then, %d now", len(was), len(again))
	}
	for row := range was {
		for column, then := range was[row] {
			now := again[row][column]
			a, err := strconv.ParseFloat(then, 64)
			b, errNow := strconv.ParseFloat(now, 64)
			same := then == now
			if err == nil && errNow == nil {
				same = math.Abs(a-b) <= 1e-5
			}
			if !same {
				t.Errorf("row %d, column %s: %s then, %s now", row, was[0][column], then, now)
			}
		}
	}
}

func records(t *testing.T, path string) [][]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
