package cli

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/study"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "train and compare four detectors on a synthetic CT set: none, sum, selfattn and itfusion",
		Description: `Writes a synthetic set in DeepLesion's layout (--out/data; its README.txt says what the reports know),
trains the tiny detector, trains it on without and with three fusions on whole reports, predicts the
test split and prints one table: sensitivity with whole reports and with half of their attributes taken
away, and how many of those are recovered. As many trainings run at a time as there are processors for
their --threads (default 1). What is already there is not made again: the demo goes on where it stopped.`,
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
		return writeJSON(c.App.Writer, t)
	}
	if err := t.Write(c.App.Writer, ""); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "demo: %s; synthetic data (see %s)\n", time.Since(started).Round(time.Second),
		filepath.Join(out, "data", "README.txt"))
	return nil
}
