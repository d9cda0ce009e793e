package study

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// demoMethods are what the demo compares, the baseline first; demoScenario and demoRates
// are the published comparison: trained with whole reports, tested with whole ones and with
// half of their attributes taken away.
var demoMethods = []string{config.None, "sum", "selfattn", "itfusion"}

const demoScenario, demoRates = "C-Tr+M-Te", "0,0.5"

// The demo's recipe. A detector without fusion is trained first; all four compared systems
// start from it and train on alike, so that what differs is the fusion alone. The fusion
// learns ten times slower than the head: the gradient of the reconstruction is mostly noise
// at first, and under AdamW it would move the joint token faster than the head can learn
// what the token says. The method masks as many attributes as will be missing.
var (
	demoSettings     = []string{"train.batch_size=4"}
	demoBaseSettings = []string{"train.epochs=8", "train.lr=0.002"}
	demoLastSettings = []string{"train.epochs=8", "train.lr=0.001", "train.fusion_lr_factor=0.1", "itfusion/fusion.mask_probability=0.5"}
)

// DemoOptions of Demo.
type DemoOptions struct {
	// Dir gets the data, the run that all start from (detector), and the study.
	Dir string
	// Patients is the number of synthetic ones (0: 160), Seed that of the data.
	Patients int
	Seed     uint64
	// Set are settings of all trainings, as GROUP.KEY=VALUE.
	Set []string
	// Device is cpu when it is empty.
	Device  string
	Version string
	Plugins plughost.Options
	// Messages receives progress and warnings.
	Messages io.Writer
}

// Demo writes a synthetic set in DeepLesion's layout whose reports say which blobs are
// lesions, trains the tiny detector, trains it on without and with three fusions,
// and compares them on the test split with whole reports and with half of their attributes.
// What is there already is not made again.
func Demo(ctx context.Context, o DemoOptions) (*Table, error) {
	_, err := os.Stat(filepath.Join(o.Dir, "data", "DL_info.csv"))
	if entries, _ := os.ReadDir(o.Dir); err != nil && len(entries) > 0 {
		return nil, fault.Errorf(fault.Usage, "%s holds other things than a demo; name another folder by --out", o.Dir)
	}
	for _, name := range append([]string{"a3d"}, demoMethods[1:]...) {
		if _, err := plughost.Find(name, o.Plugins.Dirs); err != nil {
			return nil, fmt.Errorf("%w; `make build` builds the plugins", err)
		}
	}
	if o.Plugins.Threads == 0 {
		o.Plugins.Threads = 1 // the same figures on every machine
	}
	data, err := o.data(ctx)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(o.Dir, "detector")
	fmt.Fprintf(o.Messages, "demo: the detector\n")
	if err := o.detector(ctx, data, base); err != nil {
		return nil, fmt.Errorf("demo: the detector: %w", err)
	}
	if err := o.methods(ctx, data, base); err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	s, err := o.study(data, base, "*", o.Messages)
	if err != nil {
		return nil, err
	}
	t, err := s.Table(TableOptions{Baseline: demoMethods[0]})
	if err != nil {
		return nil, err
	}
	return t, s.Save(t)
}

// methods trains and predicts with as many methods at a time as there are processors for
// their threads. Each is a study of its own cells: they share no file but study.json, which
// is the same for all.
func (o DemoOptions) methods(ctx context.Context, data, base string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, runtime.NumCPU()/o.Plugins.Threads))
	lock := &sync.Mutex{}
	for _, method := range slices.Backward(demoMethods) { // the longest first
		group.Go(func() error {
			s, err := o.study(data, base, method+"_*", &namedLines{lock, o.Messages, method})
			if err != nil {
				return err
			}
			return s.Run(ctx)
		})
	}
	return group.Wait()
}

// study opens the cells that match only.
func (o DemoOptions) study(data, base, only string, messages io.Writer) (*Study, error) {
	blocks, err := Grid{Methods: strings.Join(demoMethods, ","), Scenarios: demoScenario, Rates: demoRates, Fractions: "1"}.Blocks()
	if err != nil {
		return nil, err
	}
	return Open(Options{Dir: filepath.Join(o.Dir, "study"), Plan: Plan{Blocks: blocks, Seeds: []uint64{1}}, Only: []string{only},
		Threads: o.Plugins.Threads, Program: "alignedfusion", Version: o.Version, Plugins: o.Plugins, Messages: messages,
		Identity: Identity{Task: config.Detect, Data: data, Split: "test", Init: base, Set: slices.Concat(demoSettings, demoLastSettings, o.Set), Device: o.Device}})
}

// namedLines puts a name before the lines of one of several writers.
type namedLines struct {
	lock *sync.Mutex
	w    io.Writer
	name string
}

func (n *namedLines) Write(text []byte) (int, error) {
	n.lock.Lock()
	defer n.lock.Unlock()
	for line := range bytes.Lines(text) {
		if _, err := fmt.Fprintf(n.w, "%s: %s", n.name, line); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}

// data writes the synthetic set, with whole reports.
func (o DemoOptions) data(ctx context.Context) (spec string, err error) {
	dir, err := filepath.Abs(filepath.Join(o.Dir, "data"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dir, "DL_info.csv")); err == nil {
		return "deeplesion:" + dir, nil
	}
	fmt.Fprintf(o.Messages, "demo: writing synthetic CT slices to %s\n", dir)
	if err := os.MkdirAll(o.Dir, 0o777); err != nil {
		return "", err
	}
	_, err = synth.DeepLesion(ctx, dir, synth.DeepLesionOptions{Patients: cmp.Or(o.Patients, 160), Size: 96, Seed: o.Seed, Missing: -1})
	return "deeplesion:" + dir, err
}

// detector trains what all compared systems start from.
func (o DemoOptions) detector(ctx context.Context, data, dir string) error {
	_, err := workflow.TrainOnce(ctx, workflow.TrainOptions{Dir: dir, Program: "alignedfusion", Version: o.Version, Plugins: o.Plugins, Messages: o.Messages},
		func() (*config.Config, error) {
			task, fusion, seed := config.Detect, config.None, uint64(1)
			r := config.Request{Task: &task, Data: &data, Fusion: &fusion, Seed: &seed, Threads: &o.Plugins.Threads,
				Set: slices.Concat(demoSettings, demoBaseSettings, o.Set)}
			if o.Device != "" {
				r.Device = &o.Device
			}
			return r.Config()
		})
	if errors.Is(err, workflow.ErrChanged) || errors.Is(err, dataset.ErrData) {
		err = fmt.Errorf("%w; remove %s to begin anew", err, dir)
	}
	return err
}
