package study

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/host/config"
)

// stubStudy has two cells for each of some models, shared by 8 devices. Making one takes a
// while, and is noted in DIR/log.
func stubStudy(t testing.TB, dir string, models int, takes time.Duration) *Study {
	t.Helper()
	none, err := ParseMethod("naive-bayes")
	if err != nil {
		t.Fatal(err)
	}
	plan := Plan{Blocks: []Block{{Points: Points([]Scenario{{"C-Tr+M-Te", 0, -1}}, []float64{0, 0.5}, []float64{1}), Methods: []Method{none}}}}
	for seed := range models {
		plan.Seeds = append(plan.Seeds, uint64(seed))
	}
	devices := make([]string, 8)
	for i := range devices {
		devices[i] = "cpu"
	}
	s, err := Open(Options{Dir: dir, Plan: plan, Devices: devices, Messages: io.Discard, Identity: Identity{Task: config.Classify, Data: "table:none.csv", Split: "val"}})
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	s.make = func(ctx context.Context, c Cell, _ string, _ io.Writer) (*CellResult, error) {
		if _, err := os.Stat(s.path(cellFile(c.Name()))); err == nil {
			return nil, fmt.Errorf("%s is made again", c.Name())
		}
		time.Sleep(takes)
		_, err := fmt.Fprintln(log, c.Name())
		return stubResult(s, c), errors.Join(err, os.MkdirAll(s.path("cells", c.Name()), 0o777))
	}
	return s
}

func stubResult(s *Study, c Cell) *CellResult {
	return &CellResult{SchemaVersion: Version, Cell: c.Name(), Split: s.Split}
}

// killedStudy is set in the process that TestCellsAreMadeOnceThroughKills kills.
const killedStudy = "ALIGNEDFUSION_TEST_KILLED_STUDY"

// A study of 300 cells that 8 devices share is killed again and again: in the end every
// cell is there, none was begun when it was finished, and no kill cost more than the cells
// under way.
func TestCellsAreMadeOnceThroughKills(t *testing.T) {
	if dir := os.Getenv(killedStudy); dir != "" {
		if err := stubStudy(t, dir, 150, time.Millisecond).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	const kills = 3
	again := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCellsAreMadeOnceThroughKills$")
		cmd.Env = append(os.Environ(), killedStudy+"="+dir)
		return cmd
	}
	for range kills {
		before, cmd := count(t, dir), again()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for wait := 0; count(t, dir) < before+50 && wait < 10000; wait++ {
			time.Sleep(2 * time.Millisecond)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if n := count(t, dir); n >= 300 {
		t.Fatalf("%d cells were made before the last kill: nothing was cut off", n)
	}
	if text, err := again().CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	s := stubStudy(t, dir, 150, 0)
	pending, err := s.Pending()
	if err != nil || len(s.cells) != 300 || len(pending) != 0 {
		t.Errorf("%d of %d cells are not made, %v", len(pending), len(s.cells), err)
	}
	if n := count(t, dir); n < 300 || n > 300+8*kills {
		t.Errorf("%d cells were made for 300, with %d kills of 8 devices", n, kills)
	}
}

// count is the number of cells that were made, finished or not.
func count(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	n := 0
	for _, b := range text {
		if b == '\n' {
			n++
		}
	}
	return n
}

// Two devices never make cells of one model at once, and the first error ends all.
func TestAModelIsOnOneDeviceAndTheFirstErrorEndsAll(t *testing.T) {
	s := stubStudy(t, t.TempDir(), 20, 0)
	var mu sync.Mutex
	busy := map[string]bool{}
	broken := errors.New("broken")
	s.make = func(ctx context.Context, c Cell, _ string, _ io.Writer) (*CellResult, error) {
		mu.Lock()
		if busy[c.Model.Name()] {
			t.Errorf("model %s is made twice at once", c.Model.Name())
		}
		busy[c.Model.Name()] = true
		mu.Unlock()
		if c.Name() == s.cells[30].Name() {
			return nil, broken
		}
		time.Sleep(time.Millisecond)
		mu.Lock()
		busy[c.Model.Name()] = false
		mu.Unlock()
		return stubResult(s, c), os.MkdirAll(s.path("cells", c.Name()), 0o777)
	}
	if err := s.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("%v, want the cell's error", err)
	}
}

// BenchmarkThousandCells measures what a study costs besides its cells, which take 100 ms each.
func BenchmarkThousandCells(b *testing.B) {
	for range b.N {
		started := time.Now()
		if err := stubStudy(b, b.TempDir(), 500, 100*time.Millisecond).Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(100*(time.Since(started).Seconds()/(1000*0.1/8)-1), "overhead-%")
	}
}

// A cell whose result a power cut kept from the disk is made again.
func TestAnEmptyResultIsNone(t *testing.T) {
	s := stubStudy(t, t.TempDir(), 1, 0)
	c := s.cells[0]
	if err := os.MkdirAll(s.path("cells", c.Name()), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(cellFile(c.Name())), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if r, err := s.result(c); r != nil || err != nil {
		t.Errorf("%v, %v, want none", r, err)
	}
}
