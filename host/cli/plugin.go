package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/npz"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/plughost/validate"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func pluginCommand() *cli.Command {
	dirs := &cli.StringSliceFlag{Name: "plugin-dir", Usage: "`DIR` to look for plugins in first, repeatable"}
	into := &cli.StringFlag{Name: "dir", Usage: "plugin folder `DIR` (default: the user's own)"}
	asJSON := &cli.BoolFlag{Name: "json", Usage: "print JSON"}
	return &cli.Command{
		Name:  "plugin",
		Usage: "list, look at, check, install, remove and begin plugins",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the plugins there are, shadowed ones included",
				Description: "The search path is --plugin-dir, $ALIGNEDFUSION_PLUGIN_DIR, ./.alignedfusion/plugins, the user's own\n" +
					"folder, and plugins/ beside this program. Plugins that are not registered are not run to ask for a version.",
				Flags: []cli.Flag{dirs, asJSON, &cli.BoolFlag{Name: "outdated-hash", Usage: "only those that are not what was installed, or what " + plughost.LockFile + " here names; exit code 7 when there are"}}, Action: pluginList,
			},
			{
				Name: "info", Usage: "show a plugin's stages, ports, settings and files", ArgsUsage: "NAME|PATH",
				Flags:  []cli.Flag{dirs, asJSON, &cli.BoolFlag{Name: "allow-unregistered", Usage: "run a plugin that was not installed"}},
				Action: pluginInfo,
			},
			{
				Name: "validate", Usage: "check a plugin against every rule of the stage protocol", ArgsUsage: "NAME|PATH",
				UsageText: "alignedfusion plugin validate ./my-head\n" +
					"alignedfusion plugin validate --set head.layers=1 --shape head.tokens.ct=2x9x32 ./my-head",
				Description: "One line per rule: what was seen, what was wanted, how to mend it. Ends with exit code 7 when a rule\n" +
					"is broken, 4 when the plugin does not even start.",
				Flags: append(pluginFlags(),
					asJSON,
					&cli.StringSliceFlag{Name: "stage", Usage: "check only stage `NAME`, repeatable"},
					&cli.StringSliceFlag{Name: "set", Usage: "setting `STAGE.KEY=VALUE`, repeatable"},
					&cli.StringSliceFlag{Name: "shape", Usage: "input shape `STAGE.PORT=2x9x32`, repeatable"},
					&cli.StringSliceFlag{Name: "in", Usage: "inputs of a stage, `STAGE=X.npz`, repeatable"},
					&cli.StringSliceFlag{Name: "labels", Usage: "classes of a task, `STAGE.TASK=a,b,c`, repeatable"},
					&cli.StringFlag{Name: "schema", Usage: "attribute schema `FILE.json`"},
					&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "seed `N` of the made-up inputs, the first weights and the places that are probed"},
					&cli.IntFlag{Name: "iterations", Value: 240, Usage: "`N` calls in the check for growing memory"},
					&cli.BoolFlag{Name: "quiet", Usage: "show only what failed"},
					&cli.StringFlag{Name: "report", Usage: "write every result, what was checked with and the SHA-256 of the plugin's files to `FILE.json`"},
				),
				Action: pluginValidate,
			},
			{
				Name: "install", Usage: "copy a plugin into a plugin folder and record the SHA-256 of its files", ArgsUsage: "PATH|FILE.afp|https://…",
				Description: "PATH is a program, or a folder with a plugin.yaml; FILE.afp a package of `plugin pack`, whose manifest is\n" +
					"shown before anything of it runs. The program is run with --describe.",
				Flags:  []cli.Flag{into, &cli.StringFlag{Name: "sha256", Usage: "what the package must have: `HASH`"}, &cli.BoolFlag{Name: "replace", Usage: "replace other files of the same version"}},
				Action: pluginInstall,
			},
			{
				Name: "remove", Usage: "remove an installed plugin", ArgsUsage: "NAME",
				Flags: []cli.Flag{into}, Action: pluginRemove,
			},
			{
				Name: "pack", Usage: "write a plugin into one file, NAME-VERSION-" + strings.ReplaceAll(plughost.System, "/", "_") + plughost.PackageEnding, ArgsUsage: "NAME|PATH",
				Flags: []cli.Flag{&cli.StringFlag{Name: "out", Value: ".", Usage: "folder `DIR`"},
					&cli.StringFlag{Name: "wheelhouse", Usage: "take along the wheels in `DIR` that the plugin's requirements name, as pip download fetched them", TakesFile: true}}, Action: pluginPack,
			},
			{
				Name: "lock", Usage: "write " + plughost.LockFile + " here: the SHA-256 of the plugins this project runs, and no others of their names", ArgsUsage: "NAME…",
				Flags: []cli.Flag{dirs}, Action: pluginLock,
			},
			pluginNewCommand(),
			{
				Name: "sdk", Usage: "print the folder of the Python SDK that plugins run with, for PYTHONPATH", Action: pluginSDK,
			},
			{
				Name: "isolation", Usage: "say which limits this machine's kernel can put on plugins",
				Flags: []cli.Flag{asJSON}, Action: pluginIsolation,
			},
		},
	}
}

// oneArgument returns the only positional argument.
func oneArgument(c *cli.Context) (string, error) {
	if c.NArg() != 1 {
		return "", usageError("%d arguments given, want one: %s %s", c.NArg(), c.Command.HelpName, c.Command.ArgsUsage)
	}
	return c.Args().First(), nil
}

func pluginList(c *cli.Context) (err error) {
	if err := noArguments(c); err != nil {
		return err
	}
	dirs := c.StringSlice("plugin-dir")
	all, problems := plughost.Overview(c.Context, dirs)
	if fault.Of(problems) == fault.Usage {
		return problems
	}
	if c.Bool("outdated-hash") {
		all = slices.DeleteFunc(all, func(l plughost.Listed) bool { return !l.Outdated() })
		if len(all) == 0 {
			return nil
		}
		what := "a plugin is not what it was"
		if len(all) > 1 {
			what = fmt.Sprintf("%d plugins are not what they were", len(all))
		}
		defer func() { err = errors.Join(err, gateError(errors.New(what))) }()
	}
	if problems != nil {
		fmt.Fprintf(c.App.ErrWriter, "alignedfusion: %v\n", problems)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int               `json:"schema_version"`
			SearchPath    []string          `json:"search_path"`
			Plugins       []plughost.Listed `json:"plugins"`
		}{1, plughost.SearchPath(dirs), all})
	}
	if len(all) == 0 {
		fmt.Fprintf(c.App.ErrWriter, "no plugins in %s\n", strings.Join(plughost.SearchPath(dirs), ", "))
		return nil
	}
	return plughost.WriteTable(c.App.Writer, all)
}

func pluginInfo(c *cli.Context) error {
	ref, err := oneArgument(c)
	if err != nil {
		return err
	}
	if filepath.Ext(ref) == plughost.PackageEnding {
		p, err := plughost.ReadPackage(ref)
		if err != nil {
			return dataError(err)
		}
		return writeJSON(c.App.Writer, p)
	}
	f, err := plughost.Find(ref, c.StringSlice("plugin-dir"))
	if err != nil {
		return usageError("%w", err)
	}
	status, hashes, err := f.Check(c.Bool("allow-unregistered"))
	if err != nil {
		return pluginError(err)
	}
	text, err := plughost.DescribeJSON(c.Context, f)
	if err != nil {
		return pluginError(err)
	}
	m, err := plughost.ReadManifest(f, text)
	if err != nil {
		return pluginError(err)
	}
	if c.Bool("json") {
		_, err := c.App.Writer.Write(append(text, '\n'))
		return err
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%s %s  (%s, %s)\n", m.Name, m.Version, status, f.Path)
	for _, line := range [][2]string{{"license", m.License}, {"runtime", m.Runtime}, {"model", m.ModelCard}, {"can", strings.Join(m.Capabilities, ", ")}} {
		if line[1] != "" {
			fmt.Fprintf(w, "  %-9s%s\n", line[0], strings.ReplaceAll(line[1], "\n", "\n           "))
		}
	}
	for _, s := range m.Stages {
		fmt.Fprintf(w, "\n%s %s: %s\n", s.Kind, s.Name, s.Summary)
		t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
		for _, side := range []struct {
			name  string
			ports []sdk.Port
		}{{"in", s.Inputs}, {"out", s.Outputs}} {
			for _, p := range side.ports {
				fmt.Fprintf(t, "  %s\t%s\t%s %s\t%s\t%s\n", side.name, p.Name, p.DType, tensor.FormatShape(p.Shape), traits(p), p.Help)
			}
		}
		for _, d := range s.Settings {
			fmt.Fprintf(t, "  set\t%s\t%s\tdefault %s\t%s\n", d.Name, kindOf(d), shown(d.Default), d.Help)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if len(s.Losses) > 0 {
			fmt.Fprintf(w, "  losses   %s\n", strings.Join(s.Losses, ", "))
		}
		for _, own := range [][2]string{{"optimizer", s.Optimizer}, {"schedule", s.Schedule}} {
			if own[1] != "" {
				fmt.Fprintf(w, "  %s of its own: %s\n", own[0], own[1])
			}
		}
	}
	fmt.Fprintln(w)
	writeHashes(w, hashes)
	return nil
}

// writeHashes lists the SHA-256 of files by their names.
func writeHashes(w io.Writer, hashes map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(hashes)) {
		fmt.Fprintf(w, "%s  %s\n", hashes[name], name)
	}
}

func traits(p sdk.Port) string {
	var out []string
	for _, t := range []struct {
		is   bool
		name string
	}{{p.Required, "required"}, {p.Differentiable, "differentiable"}, {p.Resident, "resident"}, {p.OnRequest, "on request"}} {
		if t.is {
			out = append(out, t.name)
		}
	}
	return strings.Join(out, ", ")
}

// byStage splits STAGE.KEY=VALUE.
func byStage(flag string, given []string) (map[string]map[string]string, error) {
	pairs, err := keyValues(flag, given)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for k, v := range pairs {
		stage, key, ok := strings.Cut(k, ".")
		if !ok {
			return nil, usageError("--%s %s=%s: want STAGE.KEY=VALUE", flag, k, v)
		}
		if out[stage] == nil {
			out[stage] = map[string]string{}
		}
		out[stage][key] = v
	}
	return out, nil
}

func validateOptions(c *cli.Context) (o conformance.Options, err error) {
	o = conformance.Options{Stages: c.StringSlice("stage"), Device: c.String("device"), Threads: c.Int("threads"),
		CallTimeout: c.Duration("call-timeout"), Seed: c.Uint64("seed"), Iterations: c.Int("iterations"),
		Shapes: map[string]map[string][]int64{}, Inputs: map[string]map[string]*tensor.Tensor{}, Labels: map[string][]sdk.LabelSet{}}
	if o.Iterations < 1 {
		return o, usageError("--iterations %d: want at least 1", o.Iterations)
	}
	if o.Settings, err = byStage("set", c.StringSlice("set")); err != nil {
		return o, err
	}
	texts, err := byStage("shape", c.StringSlice("shape"))
	if err != nil {
		return o, err
	}
	for stage, ports := range texts {
		var given []string
		for port, text := range ports {
			given = append(given, port+"="+text)
		}
		if o.Shapes[stage], err = shapes(given); err != nil {
			return o, err
		}
	}
	files, err := keyValues("in", c.StringSlice("in"))
	if err != nil {
		return o, err
	}
	for stage, path := range files {
		if o.Inputs[stage], err = npz.Read(path); err != nil {
			return o, dataError(err)
		}
	}
	sets, err := byStage("labels", c.StringSlice("labels"))
	if err != nil {
		return o, err
	}
	for stage, tasks := range sets {
		var given []string
		for task, classes := range tasks {
			given = append(given, task+"="+classes)
		}
		if o.Labels[stage], err = labelSets(given); err != nil {
			return o, err
		}
	}
	if path := c.String("schema"); path != "" {
		if o.AttributeSchema, err = os.ReadFile(path); err != nil {
			return o, dataError(err)
		}
	}
	return o, nil
}

func pluginValidate(c *cli.Context) error {
	ref, err := oneArgument(c)
	if err != nil {
		return err
	}
	o, err := validateOptions(c)
	if err != nil {
		return err
	}
	if err := checkOutput("report", c.String("report"), nil); err != nil {
		return err
	}
	if !c.Bool("json") {
		o.Progress = func(r conformance.Result) {
			if !c.Bool("quiet") || r.Status == conformance.Fail {
				fmt.Fprintln(c.App.Writer, r)
			}
		}
	}
	result, err := validate.Run(c.Context, ref, "alignedfusion "+Version, pluginOptions(c), o)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		if err := writeJSON(c.App.Writer, result.Report); err != nil {
			return err
		}
	}
	if path := c.String("report"); path != "" {
		if err := result.WriteFile(path); err != nil {
			return resourceError(err)
		}
	}
	outcome := fmt.Sprintf("plugin %s %s: %s in %.1f s", result.Plugin, result.Version, result.Summary, result.Seconds)
	if len(result.Failed()) > 0 {
		return gateError(errors.New(outcome))
	}
	fmt.Fprintln(c.App.ErrWriter, outcome)
	return nil
}

func pluginInstall(c *cli.Context) error {
	path, err := oneArgument(c)
	if err != nil {
		return err
	}
	o := plughost.InstallOptions{Dir: c.String("dir"), Replace: c.Bool("replace")}
	var f *plughost.Found
	var record plughost.Record
	if plughost.IsAddress(path) || filepath.Ext(path) == plughost.PackageEnding {
		f, record, err = plughost.InstallPackage(c.Context, path, c.String("sha256"), o, func(p *plughost.Package) { showPackage(c, p) })
	} else {
		f, record, err = plughost.Install(c.Context, path, o)
	}
	switch {
	case errors.Is(err, plughost.ErrNotFound):
		return usageError("%w", err)
	case errors.Is(err, fs.ErrNotExist):
		return usageError("%w%s", err, fileMeant(err))
	case err != nil:
		return pluginError(err)
	}
	fmt.Fprintf(c.App.Writer, "%s %s installed in %s\n", f.Name, record.Version, f.Path)
	writeHashes(c.App.Writer, record.Files)
	onPath := false
	for _, dir := range plughost.SearchPath(nil) {
		onPath = onPath || dir == filepath.Dir(f.Path)
	}
	if !onPath {
		fmt.Fprintf(c.App.ErrWriter, "%s is not searched by itself: use --plugin-dir %s or $%s\n", filepath.Dir(f.Path), filepath.Dir(f.Path), plughost.EnvPluginDir)
	}
	return nil
}

// showPackage shows what a package says about itself.
func showPackage(c *cli.Context, p *plughost.Package) {
	fmt.Fprintf(c.App.ErrWriter, "%s %s for %s: %s; license %s; runs %s; %d files\n", p.Name, p.Version, p.Platform,
		strings.Join(p.Kinds, ", "), shown(p.License), strings.Join(p.Command, " "), len(p.Files))
	if len(p.Requirements) > 0 {
		fmt.Fprintf(c.App.ErrWriter, "  needs for Python: %s\n", strings.Join(p.Requirements, ", "))
	}
	if p.Libtorch != "" {
		fmt.Fprintf(c.App.ErrWriter, "  made for libtorch %s, runs with %s\n", p.Libtorch, p.LibtorchRange)
	}
}

func pluginPack(c *cli.Context) error {
	path, err := oneArgument(c)
	if err != nil {
		return err
	}
	if info, err := os.Stat(c.String("out")); err != nil || !info.IsDir() {
		return usageError("--out %s: there is no such folder", c.String("out"))
	}
	file, sum, p, err := plughost.Pack(c.Context, path, c.String("out"), c.String("wheelhouse"))
	if errors.Is(err, plughost.ErrNotFound) || fault.Of(err) == fault.Usage {
		return usageError("%w", err)
	}
	if err != nil {
		return pluginError(err)
	}
	showPackage(c, p)
	fmt.Fprintf(c.App.Writer, "%s  %s\n", sum, file)
	return nil
}

func pluginLock(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageError("no plugin named, want those that this project runs: %s %s", c.Command.HelpName, c.Command.ArgsUsage)
	}
	lock, err := plughost.LockHere(c.Context, c.Args().Slice(), c.StringSlice("plugin-dir"))
	if errors.Is(err, plughost.ErrNotFound) {
		return usageError("%w", err)
	}
	if err != nil {
		return pluginError(err)
	}
	for _, name := range c.Args().Slice() {
		fmt.Fprintf(c.App.Writer, "%s  %s\n", lock.Plugins[name].SHA256, name)
	}
	return nil
}

func pluginRemove(c *cli.Context) error {
	name, err := oneArgument(c)
	if err != nil {
		return err
	}
	err = plughost.Remove(c.Context, name, c.String("dir"))
	if errors.Is(err, plughost.ErrNotFound) {
		return usageError("%w", err)
	}
	if err == nil {
		fmt.Fprintf(c.App.Writer, "%s removed\n", name)
	}
	return err
}

func pluginSDK(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	dir, err := plughost.PythonSDK()
	if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, dir)
	return nil
}

func pluginIsolation(c *cli.Context) error {
	support := plughost.IsolationSupport(c.Context)
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int                `json:"schema_version"`
			Isolation     []plughost.Support `json:"isolation"`
		}{1, support})
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	for _, s := range support {
		available := "available"
		if !s.Available {
			available = "not here"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, available, s.Detail)
	}
	return w.Flush()
}
