package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset/plan"
	"github.com/alignedfusion/alignedfusion/host/page"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/runs/telemetry"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

func trainCommand() *cli.Command {
	return &cli.Command{
		Name:  "train",
		Usage: "train a pipeline of encoder, fusion and head",
		Description: `Trains encoder -> fusion -> head and keeps the checkpoint that validates best. All is in --out.

  alignedfusion train --task detect --data deeplesion:DIR --fusion itfusion --out runs/itfusion
  alignedfusion train --config runs/itfusion/config.yaml --seed 2 --out runs/itfusion-2

For --set: alignedfusion help settings [GROUP], and plugin info NAME for encoder, fusion and head.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "task", Usage: "`TASK`: detect or classify"},
			&cli.StringFlag{Name: "data", Usage: "`SPEC` as LAYOUT:PATH; alignedfusion help data check lists the layouts"},
			&cli.StringFlag{Name: "encoder", Usage: "`PLUGIN`: NAME, PATH or NAME:STAGE, or none (default: a3d, or classifier)"},
			&cli.StringFlag{Name: "fusion", Usage: "`PLUGIN`, or none: tokens go straight to the head (default: none)"},
			&cli.StringFlag{Name: "head", Usage: "`PLUGIN` (default: a3d, or classifier)"},
			&cli.StringFlag{Name: "attributes", Usage: "`LIST` of columns or sets of them; empty: none (default: the data's)"},
			&cli.IntFlag{Name: "fold", Usage: "validate on fold `K` of data split --folds and train on the others"},
			&cli.StringFlag{Name: "reports", Usage: "`FILE` or folder of reports, or a table of attributes extract; joined by id"},
			&cli.StringFlag{Name: "schema", Usage: "`FILE` of attributes select (default: learnt from the training cases)"},
			&cli.IntFlag{Name: "epochs", Usage: "`N` times through the training split (--set train.epochs)"},
			&cli.Uint64Flag{Name: "seed", Usage: "`N`, of everything random; the same seed gives the same run"},
			&cli.StringSliceFlag{Name: "set", Usage: "`GROUP.KEY=VALUE`, repeatable"},
			&cli.StringFlag{Name: "init", Usage: "`RUN` whose best weights to start from, where the plugin is the same"},
			&cli.StringFlag{Name: "plan", Usage: "`FILE` of data plan whose settings to use; flags and --set win"},
			&cli.StringFlag{Name: "config", Usage: "`FILE`.yaml to start from; flags change it"},
			&cli.StringFlag{Name: "out", Usage: "`DIR` of the run; with --find-lr a .json file", Required: true},
			&cli.IntFlag{Name: "nproc", Usage: "train in `N` processes of this machine; torchrun and srun start theirs"},
			&cli.BoolFlag{Name: "find-lr", Usage: "no run: try rising learning rates and suggest one"},
			&cli.StringFlag{Name: "log", Usage: "for `PROGRAM`: tensorboard (event files), otlp (OpenTelemetry), or both: a,b"},
			&cli.BoolFlag{Name: "resume", Usage: "continue the run in --out from its last checkpoint"},
			&cli.BoolFlag{Name: "json", Usage: "write the result of the validation to stdout as JSON"},
		}, pluginFlags()...),
		Action: runTrain,
	}
}

// pluginFlags are shared by every command that runs a pipeline. `alignedfusion help
// plugin-flags` describes all of them; the help of a command leaves out the rare ones.
func pluginFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "plugin-dir", Usage: "`DIR` to look for plugins in first, repeatable"},
		&cli.IntFlag{Name: "threads", Usage: "`N` threads per plugin (default: all processors)"},
		&cli.StringFlag{Name: "device", Usage: "`DEVICE`: cpu, cuda:0, …"},
		&cli.BoolFlag{Name: "verbose", Usage: "show what plugins write to standard error"},
		&cli.DurationFlag{Name: "call-timeout", Usage: "longest `TIME` of one call of a plugin; a plugin that takes longer is taken for hung"},
		&cli.BoolFlag{Name: "allow-unregistered", Usage: "run plugins found by name that were not installed"},
		&cli.Uint64Flag{Name: "plugin-memory-mib", Usage: "memory of each plugin, shared memory included, `MIB`"},
		&cli.Uint64Flag{Name: "plugin-shared-mib", Usage: "`MIB` of each plugin's memory that are shared with the program for tensors (default: 16384 reserved, or an eighth of --plugin-memory-mib; less where ulimit -v or -f allows no more)"},
		&cli.Uint64Flag{Name: "plugin-cpu-seconds", Usage: "processor time of each plugin, `S`"},
		&cli.StringSliceFlag{Name: "trust", Usage: "leave network, files and processes open to plugin `NAME`, repeatable"},
		&cli.BoolFlag{Name: "colocate", Usage: "run encoder, fusion and head in one process, where the tensors between them stay (plugins of one program)"},
		&cli.BoolFlag{Name: "plugin-no-network", Usage: "fail where this machine cannot keep plugins from the network (default: say so and go on)"},
		&cli.BoolFlag{Name: "plugin-read-only", Usage: "fail where this machine cannot keep plugins from changing files (default: say so and go on)"},
	}
}

func pluginOptions(c *cli.Context) plughost.Options {
	o := plughost.Options{
		Dirs: c.StringSlice("plugin-dir"), Threads: c.Int("threads"), CallTimeout: c.Duration("call-timeout"),
		AllowUnregistered: c.Bool("allow-unregistered"), Trust: c.StringSlice("trust"), Colocate: c.Bool("colocate"), ArenaBytes: int64(mebibytes(c, "plugin-shared-mib")),
		Isolation: plughost.Isolation{
			MemoryBytes: mebibytes(c, "plugin-memory-mib"), CPUSeconds: c.Uint64("plugin-cpu-seconds"),
			NoNetwork: c.Bool("plugin-no-network"), ReadOnly: c.Bool("plugin-read-only"),
		},
	}
	if c.Bool("verbose") {
		o.Log = c.App.ErrWriter
	}
	return o
}

// mebibytes is a flag in MiB as bytes; more than any machine has is as good as no limit.
func mebibytes(c *cli.Context, name string) uint64 { return min(c.Uint64(name), 1<<40) << 20 }

func noArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageError("%s takes flags only, got %q", c.Command.Name, c.Args().First())
	}
	return nil
}

// positive refuses those of the flags that are given and not at least 1: a flag that is not given is 0.
func positive(c *cli.Context, names ...string) error {
	for _, name := range names {
		if c.IsSet(name) && c.Int(name) < 1 {
			return usageError("--%s %d, want at least 1", name, c.Int(name))
		}
	}
	return nil
}

func runTrain(c *cli.Context) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	o := workflow.TrainOptions{
		Dir: c.String("out"), Resume: c.Bool("resume"), Program: "alignedfusion", Version: Version,
		Plugins: pluginOptions(c), Messages: c.App.ErrWriter,
		Draw: page.FirstImages,
	}
	if err := openLogs(c, &o); err != nil {
		return err
	}
	if !o.Resume {
		request := trainRequest(c)
		if c.IsSet("plan") {
			p, err := plan.Read(c.String("plan"))
			if err != nil {
				return err
			}
			request.Plan, o.DataSHA256 = planned(p), p.DataSHA256
		}
		if o.Config, err = request.Config(); err != nil {
			return err
		}
		if c.Bool("find-lr") {
			if c.Int("nproc") > 1 {
				return usageError("--find-lr tries rates in one process; leave out --nproc")
			}
			return findRate(c, o)
		}
		return trainAndReport(c, o)
	}
	for _, flag := range []string{"task", "data", "encoder", "fusion", "head", "attributes", "reports", "schema", "epochs", "seed", "fold", "set", "init", "plan", "config", "threads", "device", "find-lr"} {
		if c.IsSet(flag) {
			return usageError("--resume continues the run as its config.yaml says; --%s cannot be given with it", flag)
		}
	}
	return trainAndReport(c, o)
}

// openLogs makes ready what --log names.
func openLogs(c *cli.Context, o *workflow.TrainOptions) (err error) {
	if !c.IsSet("log") {
		return nil
	}
	for _, name := range strings.Split(c.String("log"), ",") {
		switch name {
		case "tensorboard":
			o.TensorBoard = true
		case "otlp":
			failed := func(err error) { fmt.Fprintf(c.App.ErrWriter, "warning: OpenTelemetry: %v\n", err) }
			if o.Telemetry, err = telemetry.Open(workflow.RunName(o.Dir), Version, failed); err != nil {
				return fmt.Errorf("--log otlp: %w", err)
			}
		default:
			return usageError("--log %s: want tensorboard, otlp, or both with a comma; metrics.jsonl in the run has the same numbers for other programs", name)
		}
	}
	return nil
}

// trainAndReport trains and prints the validation of the best checkpoint.
func trainAndReport(c *cli.Context, o workflow.TrainOptions) (err error) {
	started := time.Now()
	var done func()
	if o.Group, done, err = joinGroup(c); err != nil {
		return err
	}
	defer done()
	if o.Group.Number() > 0 { // rank 0 says and writes what there is
		o.Messages, o.TensorBoard, o.Telemetry = io.Discard, false, nil
	}
	_, err = workflow.Train(c.Context, o)
	if errors.Is(err, loop.ErrStopped) { // else there is nothing to continue
		return stopped(c, err, resumeCommand(c))
	}
	if err != nil || o.Group.Number() > 0 {
		return err
	}
	r, err := workflow.ReadRun(o.Dir)
	if err != nil {
		return err
	}
	checkpoint, _, err := runs.Latest(o.Dir)
	if err != nil {
		return err
	}
	fmt.Fprint(c.App.ErrWriter, workflow.Transport(o.Dir))
	best, found := checkpoint.State.Best, "nothing was measured in validation, the last checkpoint stands for the best"
	if best.Step > 0 {
		found = fmt.Sprintf("best: epoch %d, %s %.4f on split %q", best.Epoch, best.Metric, best.Value, r.Config.DataSettings.ValidationSplit)
	}
	fmt.Fprintf(c.App.ErrWriter, "%d steps in %s; %s; run: %s\n", checkpoint.State.Step, time.Since(started).Round(time.Second), found, o.Dir)
	if best.Step == 0 {
		return nil
	}
	records, err := runs.ReadMetrics(o.Dir)
	if err != nil {
		return err
	}
	writeSparkline(c.App.ErrWriter, records, best)
	return compareRuns(c, workflow.CompareOptions{AllowChanged: true, Split: r.Config.DataSettings.ValidationSplit, Systems: []workflow.System{{Name: workflow.RunName(o.Dir), Path: o.Dir}}})
}

// resumeCommand continues the run that this command trains, with the same plugins.
func resumeCommand(c *cli.Context) string {
	words := []string{c.App.Name, "train", "--resume", "--out", quoted(c.String("out"))}
	if c.IsSet("nproc") {
		words = append(words, "--nproc", fmt.Sprint(c.Int("nproc")))
	}
	for _, flag := range pluginFlags() {
		name := flag.Names()[0]
		switch value := c.Value(name).(type) {
		case cli.StringSlice:
			for _, one := range value.Value() {
				words = append(words, "--"+name, quoted(one))
			}
		case bool:
			if value {
				words = append(words, "--"+name)
			}
		default: // threads and device are the run's own
			if c.IsSet(name) && name != "threads" && name != "device" {
				words = append(words, "--"+name, quoted(fmt.Sprint(value)))
			}
		}
	}
	return strings.Join(words, " ")
}

// goesOn adds to the error of a command that a signal stopped that the command itself goes
// on where it was: with the same words, without --again.
func goesOn(c *cli.Context, err error) error {
	words := []string{c.App.Name}
	for _, word := range os.Args[1:] {
		if word != "--again" && word != "-again" {
			words = append(words, quoted(word))
		}
	}
	return stopped(c, err, strings.Join(words, " "))
}

// stopped adds the command that continues to an error that a signal led to.
func stopped(c *cli.Context, err error, command string) error {
	if err == nil || c.Context.Err() == nil {
		return err
	}
	return &stoppedError{err, command}
}

// stoppedError is a command's that a signal stopped and that another one continues.
type stoppedError struct {
	error
	command string
}

func (e *stoppedError) Error() string {
	return fmt.Sprintf("%v; continue with: %s", e.error, e.command)
}

// Unwrap returns what the command itself said.
func (e *stoppedError) Unwrap() error { return e.error }

// quoted is a word as a shell reads it back.
func quoted(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// trainRequest is what the flags ask of a new run.
func trainRequest(c *cli.Context) config.Request {
	text := func(flag string) *string { return given[string](c, flag) }
	return config.Request{
		File: c.String("config"), Task: text("task"), Data: text("data"), Encoder: text("encoder"), Fusion: text("fusion"), Head: text("head"),
		Attributes: listGiven(c, "attributes"), Reports: text("reports"), Schema: text("schema"), Init: text("init"), Device: text("device"),
		Epochs: given[int](c, "epochs"), Threads: given[int](c, "threads"), Seed: given[uint64](c, "seed"), Fold: given[int](c, "fold"), Set: c.StringSlice("set"),
	}
}

// given is the value of a flag, nil when it was not given.
func given[T any](c *cli.Context, flag string) *T {
	if v, ok := c.Value(flag).(T); ok && c.IsSet(flag) {
		return &v
	}
	return nil
}

// listGiven is given for a list separated by commas; one that was given empty is empty.
func listGiven(c *cli.Context, flag string) *[]string {
	text := given[string](c, flag)
	if text == nil {
		return nil
	}
	list := append([]string{}, config.List(*text)...)
	return &list
}
