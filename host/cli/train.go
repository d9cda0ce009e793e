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
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func trainCommand() *cli.Command {
	return &cli.Command{
		Name:  "train",
		Usage: "train a pipeline of encoder, fusion and head",
		Description: `Wires the plugins into encoder -> fusion -> head, checks that their ports fit together, trains,
validates after every epoch and keeps the best checkpoint. Everything about the run is kept in --out;
its config.yaml trains the same run again, and --resume continues one that was stopped or killed.

  alignedfusion train --task detect --data deeplesion:DIR --fusion itfusion --out runs/itfusion
  alignedfusion train --config runs/itfusion/config.yaml --seed 2 --out runs/itfusion-2
  alignedfusion train --resume --out runs/itfusion

--set takes GROUP.KEY=VALUE. Groups: encoder, fusion and head (the settings of their plugins, see
` + "`alignedfusion plugin info NAME`" + `), and train, data, text and loss:
` + settingsHelp(),
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "task", Usage: "detect or classify"},
			&cli.StringFlag{Name: "data", Usage: "data `SPEC`: " + trainingSpecs()},
			&cli.StringFlag{Name: "encoder", Usage: "`PLUGIN`: NAME, PATH or NAME:STAGE, or none: reports alone (default: a3d to detect, classifier to classify)"},
			&cli.StringFlag{Name: "fusion", Usage: "`PLUGIN`, or none: tokens go straight to the head (default: none)"},
			&cli.StringFlag{Name: "head", Usage: "`PLUGIN` (default: a3d to detect, classifier to classify)"},
			&cli.StringFlag{Name: "attributes", Usage: "comma-separated `LIST` of attribute columns or sets of them; an empty list means none (default: the data's)"},
			&cli.StringFlag{Name: "reports", Usage: "`FILE` of reports (CSV or folder), or of a table that attributes extract wrote, joined to the cases by id"},
			&cli.StringFlag{Name: "schema", Usage: "attribute schema `FILE` that attributes select wrote (default: learnt from the training cases)"},
			&cli.IntFlag{Name: "epochs", Usage: "times through the training split (--set train.epochs)"},
			&cli.Uint64Flag{Name: "seed", Usage: "of everything random; the same seed gives the same run"},
			&cli.StringSliceFlag{Name: "set", Usage: "`GROUP.KEY=VALUE`, repeatable"},
			&cli.StringFlag{Name: "init", Usage: "`RUN` whose best weights to start from, for every role that the same plugin plays in both"},
			&cli.StringFlag{Name: "config", Usage: "`FILE`.yaml to start from; flags change it"},
			&cli.StringFlag{Name: "out", Usage: "run `DIR`ectory", Required: true},
			&cli.BoolFlag{Name: "resume", Usage: "continue the run in --out from its last checkpoint"},
			&cli.BoolFlag{Name: "json", Usage: "write the result of the validation to stdout as JSON"},
		}, pluginFlags()...),
		Action: runTrain,
	}
}

// settingsHelp lists the host's own settings with the defaults and choices of both tasks.
func settingsHelp() string {
	var b strings.Builder
	classify := config.Groups(config.Classify)
	for i, g := range config.Groups(config.Detect) {
		for j, s := range g.Settings {
			other := classify[i].Settings[j]
			kind, otherKind := kindOf(s), kindOf(other)
			text := fmt.Sprintf("%s, default %s", kind, shown(s.Default))
			if kind != otherKind {
				text += fmt.Sprintf("; classify: %s, default %s", otherKind, shown(other.Default))
			} else if s.Default != other.Default {
				text += fmt.Sprintf("; classify %s", shown(other.Default))
			}
			fmt.Fprintf(&b, "  %-28s %s (%s)\n", g.Name+"."+s.Name, s.Help, text)
		}
	}
	fmt.Fprintf(&b, "  %-28s %s\n", "text.plugin", "NAME, PATH or NAME:STAGE of a text encoder, whose settings are text.KEY too, e.g. bert with text.model=FOLDER (default: hashed n-grams)")
	b.WriteString("  loss.NAME                    weight of a loss that a stage reports (float, default 1)")
	return b.String()
}

// kindOf says what values a setting takes: its choices, or its type with the bounds.
func kindOf(s sdk.Setting) string {
	if len(s.Choices) > 0 {
		return strings.Join(s.Choices, "|")
	}
	kind := s.Type
	if s.Rising {
		kind += " that rise"
	}
	for _, bound := range []struct {
		at   *float64
		sign string
	}{{s.Min, ">="}, {s.Above, ">"}, {s.Max, "<="}, {s.Below, "<"}} {
		if bound.at != nil {
			kind += fmt.Sprintf(" %s %g", bound.sign, *bound.at)
		}
	}
	return kind
}

// shown is a default as help prints it.
func shown(text string) string {
	if text == "" {
		return "empty"
	}
	return text
}

// pluginFlags are shared by every command that runs a pipeline.
func pluginFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "plugin-dir", Usage: "`DIR` to look for plugins in first, repeatable"},
		&cli.IntFlag{Name: "threads", Usage: "`N` threads per plugin (default: all processors)"},
		&cli.StringFlag{Name: "device", Usage: "cpu, cuda:0, …"},
		&cli.BoolFlag{Name: "verbose", Usage: "show what plugins write to standard error"},
		&cli.DurationFlag{Name: "call-timeout", Usage: "longest `TIME` of one call of a plugin; a plugin that takes longer is taken for hung"},
		&cli.BoolFlag{Name: "allow-unregistered", Usage: "run plugins found by name that were not installed"},
		&cli.Uint64Flag{Name: "plugin-memory-mib", Usage: "private memory of each plugin, `MIB`"},
		&cli.Uint64Flag{Name: "plugin-cpu-seconds", Usage: "processor time of each plugin, `S`"},
		&cli.BoolFlag{Name: "plugin-no-network", Usage: "start plugins without network"},
		&cli.BoolFlag{Name: "plugin-read-only", Usage: "keep plugins from changing files; what they save goes through the host"},
	}
}

func pluginOptions(c *cli.Context) plughost.Options {
	o := plughost.Options{
		Dirs: c.StringSlice("plugin-dir"), Threads: c.Int("threads"), CallTimeout: c.Duration("call-timeout"),
		AllowUnregistered: c.Bool("allow-unregistered"),
		Isolation: plughost.Isolation{
			MemoryBytes: c.Uint64("plugin-memory-mib") << 20, CPUSeconds: c.Uint64("plugin-cpu-seconds"),
			NoNetwork: c.Bool("plugin-no-network"), ReadOnly: c.Bool("plugin-read-only"),
		},
	}
	if c.Bool("verbose") {
		o.Log = c.App.ErrWriter
	}
	return o
}

func noArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return usageError("%s takes flags only, got %q", c.Command.Name, c.Args().First())
	}
	return nil
}

func runTrain(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	o := workflow.TrainOptions{
		Dir: c.String("out"), Resume: c.Bool("resume"), Program: "alignedfusion", Version: Version,
		Plugins: pluginOptions(c), Messages: c.App.ErrWriter,
	}
	if o.Resume {
		for _, flag := range []string{"task", "data", "encoder", "fusion", "head", "attributes", "epochs", "seed", "set", "init", "config", "threads", "device"} {
			if c.IsSet(flag) {
				return usageError("--resume continues the run as its config.yaml says; --%s cannot be given with it", flag)
			}
		}
	} else {
		cfg, err := trainConfig(c)
		if err != nil {
			return err
		}
		o.Config = cfg
	}
	return trainAndReport(c, o)
}

// trainAndReport trains and prints the validation of the best checkpoint.
func trainAndReport(c *cli.Context, o workflow.TrainOptions) error {
	started := time.Now()
	_, err := workflow.Train(c.Context, o)
	if errors.Is(err, loop.ErrStopped) {
		return fmt.Errorf("%w; continue with: %s", err, resumeCommand(c))
	}
	if err != nil {
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
	writeTransport(c.App.ErrWriter, o.Dir)
	best, found := checkpoint.State.Best, "nothing was measured in validation, the last checkpoint stands for the best"
	if best.Step > 0 {
		found = fmt.Sprintf("best: epoch %d, %s %.4f on split %q", best.Epoch, best.Metric, best.Value, r.Config.DataSettings.ValidationSplit)
	}
	fmt.Fprintf(c.App.ErrWriter, "%d steps in %s; %s; run: %s\n", checkpoint.State.Step, time.Since(started).Round(time.Second), found, o.Dir)
	if best.Step == 0 {
		return nil
	}
	return compareRuns(c, workflow.CompareOptions{Split: r.Config.DataSettings.ValidationSplit, Systems: []workflow.System{{Name: workflow.RunName(o.Dir), Path: o.Dir}}}, "")
}

// resumeCommand continues the run that this command trains, with the same plugins.
func resumeCommand(c *cli.Context) string {
	words := []string{c.App.Name, "train", "--resume", "--out", quoted(c.String("out"))}
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

// quoted is a word as a shell reads it back.
func quoted(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// writeTransport says how much of the steps was moving tensors instead of computing.
func writeTransport(w io.Writer, dir string) {
	records, err := runs.ReadMetrics(dir)
	if err != nil {
		return
	}
	var compute, waited, whole float64
	for _, r := range records {
		if r.Kind == "step" {
			compute, waited, whole = compute+r.ComputeSec, waited+r.DataSec, whole+r.StepSec
		}
	}
	if whole > 0 {
		fmt.Fprintf(w, "of the training steps' %.1f s: computing in plugins %.1f s, the rest (transport) %.1f %%; waiting for data besides: %.1f s\n",
			whole, compute, 100*(whole-compute)/whole, waited)
	}
}

// trainConfig is what a new run is asked to be.
func trainConfig(c *cli.Context) (*config.Config, error) {
	var cfg *config.Config
	if path := c.String("config"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError("--config: %w", err)
		}
		if cfg, err = config.Parse(data); err != nil {
			return nil, usageError("%s: %w", path, err)
		}
		if c.IsSet("task") && c.String("task") != cfg.Task {
			return nil, usageError("--task %s: %s is for the task %s", c.String("task"), path, cfg.Task)
		}
	} else {
		if !c.IsSet("task") {
			return nil, usageError("train needs --task detect or --task classify (or --config FILE)")
		}
		var err error
		if cfg, err = config.New(c.String("task")); err != nil {
			return nil, usageError("--task: %w", err)
		}
	}
	if c.IsSet("data") {
		cfg.Data = c.String("data")
	}
	if cfg.Data == "" {
		return nil, usageError("train needs --data LAYOUT:PATH")
	}
	for _, s := range []struct {
		flag  string
		stage *config.Stage
	}{{"encoder", &cfg.Encoder}, {"fusion", &cfg.Fusion}, {"head", &cfg.Head}} {
		if !c.IsSet(s.flag) {
			continue
		}
		plugin, stage, err := config.ParseRef(c.String(s.flag))
		if err != nil {
			return nil, usageError("--%s: %w", s.flag, err)
		}
		if plugin != s.stage.Plugin {
			s.stage.Settings = nil // they were another plugin's
		}
		s.stage.Plugin, s.stage.Stage = plugin, stage
	}
	if c.IsSet("attributes") {
		list := []string{}
		for name := range strings.SplitSeq(c.String("attributes"), ",") {
			if name = strings.TrimSpace(name); name != "" {
				list = append(list, name)
			}
		}
		cfg.Attributes = &list
	}
	if c.IsSet("epochs") {
		if err := cfg.Set(fmt.Sprintf("train.epochs=%d", c.Int("epochs"))); err != nil {
			return nil, usageError("%w", err)
		}
	}
	if c.IsSet("seed") {
		cfg.Seed = c.Uint64("seed")
	}
	if c.IsSet("threads") {
		cfg.Threads = c.Int("threads")
	}
	if c.IsSet("device") {
		cfg.Device = c.String("device")
	}
	for flag, path := range map[string]*string{"init": &cfg.Init, "reports": &cfg.Reports, "schema": &cfg.Schema} {
		if c.IsSet(flag) {
			*path = c.String(flag)
		}
	}
	for _, s := range c.StringSlice("set") {
		if err := cfg.Set(s); err != nil {
			return nil, usageError("%w", err)
		}
	}
	if err := cfg.Resolve(); err != nil {
		return nil, usageError("%w", err)
	}
	return cfg, nil
}
