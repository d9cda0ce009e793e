package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/page"
	"github.com/alignedfusion/alignedfusion/host/study"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "train and compare four detectors on a synthetic CT set: none, sum, selfattn and itfusion",
		Description: `Writes a synthetic set in DeepLesion's layout (--out/data; its README.txt says what the reports know),
trains the tiny detector, trains it on without and with three fusions on whole reports, predicts the
test split and prints one table: sensitivity with whole reports and with half of their attributes taken
away, and how many of those are recovered. As many trainings run at a time as there are processors for
their --threads (default 1). What is already there is not made again: the demo goes on where it stopped.
DIR/report.html shows the slices, what the detectors without fusion and with itfusion mark on them, and
what the reports have to do with it.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "out", Value: "demo", Usage: "`DIR`ectory for data, runs and tables"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "of the data"},
			&cli.IntFlag{Name: "patients", Usage: "number of synthetic patients (default 160)"},
			&cli.StringSliceFlag{Name: "set", Usage: "`GROUP.KEY=VALUE` for all four trainings, repeatable"},
			&cli.BoolFlag{Name: "json", Usage: "write the table to stdout as JSON"},
		}, pluginFlags()...),
		Action: runDemo,
	}
}

func runDemo(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	started := time.Now()
	out := c.String("out")
	t, err := study.Demo(c.Context, study.DemoOptions{Dir: out, Patients: c.Int("patients"), Seed: c.Uint64("seed"), Set: c.StringSlice("set"),
		Device: c.String("device"), Version: Version, Plugins: pluginOptions(c), Messages: c.App.ErrWriter})
	if err != nil {
		return goesOn(c, err)
	}
	if c.Bool("json") {
		err = writeJSON(c.App.Writer, t)
	} else {
		err = t.Write(c.App.Writer, "")
	}
	if err != nil {
		return err
	}
	if err := demoPage(c, out); err != nil {
		return goesOn(c, err)
	}
	fmt.Fprintf(c.App.ErrWriter, "demo: %s; synthetic data (see %s)\n", time.Since(started).Round(time.Second),
		filepath.Join(out, "data", "README.txt"))
	return nil
}

// demoPage predicts the test split with the detector without fusion and the one with itfusion,
// and writes what both did to DIR/report.html.
func demoPage(c *cli.Context, dir string) error {
	o := page.Options{Version: Version, Study: filepath.Join(dir, "study"), Compare: workflow.CompareOptions{Split: "test"}}
	for _, fusion := range []string{"none", "itfusion"} {
		found, err := filepath.Glob(filepath.Join(o.Study, "runs", fusion+"_*"))
		if err != nil || len(found) == 0 {
			return fmt.Errorf("demo: no run of %s in %s", fusion, o.Study)
		}
		o.Compare.Systems = append(o.Compare.Systems, workflow.System{Name: fusion, Path: found[0]})
		if _, err := workflow.Predict(c.Context, workflow.PredictOptions{Run: found[0], Checkpoint: "best", Split: o.Compare.Split, AllowChanged: true,
			Counterfactuals: fusion != "none", Device: c.String("device"), Threads: c.Int("threads"), Plugins: pluginOptions(c), Messages: io.Discard}); err != nil {
			return err
		}
	}
	return writePage(c, o, filepath.Join(dir, "report.html"), 50)
}
