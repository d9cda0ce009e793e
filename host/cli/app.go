// Package cli holds the commands of the program, one file per command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/pipeline/loop"
	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/internal/release"
)

// Version is the program's version, set at build time with -ldflags -X.
var Version = release.Version + "-dev"

// commands lists every command in the order `--help` shows them.
func commands() []*cli.Command {
	return []*cli.Command{
		trainCommand(),
		predictCommand(),
		mergeCommand(),
		compareCommand(),
		reportCommand(),
		viewCommand(),
		studyCommand(),
		demoCommand(),
		frocCommand(),
		attributesCommand(),
		dataCommand(),
		pluginCommand(),
		stageCommand(),
		exportCommand(),
		weightsCommand(),
		modelsCommand(),
		doctorCommand(),
		versionCommand(),
		completionCommand(),
		exitCodesCommand(),
		referenceCommand(),
	}
}

func init() { cli.HelpPrinter = printHelp }

func newApp(stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name:                      "alignedfusion",
		Usage:                     "multimodal lesion detection and classification with swappable plugins",
		Description:               "Exit codes: " + exitCodes() + ".\n`alignedfusion exit-codes` says when each comes.",
		Version:                   Version,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		HideHelpCommand:           true,
		Flags:                     []cli.Flag{cli.HelpFlag}, // the library adds it with its own help command only
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true,
		Commands:                  append(commands(), helpCommand()),
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return usageError("%w", err) },
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return unknownCommand("", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
}

// prepare makes every command report usage errors in one line and refuse flags
// behind positional arguments, which the flag parser would silently ignore.
func prepare(cmds []*cli.Command) {
	for _, cmd := range cmds {
		cmd.HideHelpCommand = true
		cmd.OnUsageError = func(c *cli.Context, err error, _ bool) error {
			return usageError("%w; see `%s --help`", err, strings.TrimSpace(c.Command.HelpName))
		}
		if arguments := argumentsOf[cmd.ArgsUsage]; arguments != nil && cmd.BashComplete == nil {
			completes(cmd, arguments)
		}
		required := takeRequired(cmd.Flags)
		before := cmd.Before
		leaf := len(cmd.Subcommands) == 0 // asked now: the library adds a help command to each
		cmd.Before = func(c *cli.Context) error {
			if leaf {
				for _, arg := range c.Args().Slice() {
					if len(arg) > 1 && strings.HasPrefix(arg, "-") {
						return usageError("flag %q stands after an argument and would be ignored; put flags before arguments", arg)
					}
				}
			}
			called := strings.TrimSpace(c.Command.HelpName)
			for _, f := range c.Command.Flags {
				one, isOne := f.(*cli.StringFlag)
				more, isMore := f.(*cli.StringSliceFlag)
				if name := f.Names()[0]; c.IsSet(name) && (isOne && one.TakesFile && c.String(name) == "" || isMore && more.TakesFile && slices.Contains(c.StringSlice(name), "")) {
					return usageError("--%s is empty, want a name; see `%s --help`", name, called)
				}
			}
			for _, dir := range c.StringSlice("plugin-dir") {
				if info, err := os.Stat(dir); err != nil || !info.IsDir() {
					return usageError("--plugin-dir %s: there is no such folder", dir)
				}
			}
			for _, name := range required {
				switch {
				case c.IsSet(name):
				case c.Command.ArgsUsage == "" && c.NArg() > 0:
					return usageError("--%s is missing, and %q stands there without a flag; see `%s --help`", name, c.Args().First(), called)
				default:
					return usageError("--%s is missing; see `%s --help`", name, called)
				}
			}
			if before != nil {
				return before(c)
			}
			return nil
		}
		if cmd.Action == nil && len(cmd.Subcommands) > 0 {
			cmd.Action = func(c *cli.Context) error {
				if c.NArg() > 0 {
					group := strings.TrimPrefix(strings.TrimSpace(c.Command.HelpName), c.App.Name+" ")
					return unknownCommand("", group+" "+c.Args().First())
				}
				return cli.ShowSubcommandHelp(c)
			}
		}
		prepare(cmd.Subcommands)
	}
}

// takeRequired returns the names of the flags that must be given, and keeps the library
// from asking for them: its error has no type, and the whole help comes with it.
func takeRequired(flags []cli.Flag) []string {
	var names []string
	for _, f := range flags {
		if text, ok := f.(*cli.StringFlag); ok && text.Required {
			text.Required = false
			names = append(names, text.Name)
		}
	}
	return names
}

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var caught atomic.Int32
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, process.Stops...)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			if n, ok := s.(syscall.Signal); ok {
				if caught.Swap(int32(n)) != 0 {
					os.Exit(128 + int(n)) // the second signal does not wait; the lifeline takes the plugins down
				}
			}
			cancel()
		}
	}()

	app := newApp(stdout, stderr)
	if completeValue(app, args, stdout) {
		return 0
	}
	// A shell that completes "--" asks for all flags; to the parser it is the end of them.
	if n := len(args); n > 2 && args[n-1] == completionRequest && args[n-2] == "--" {
		args = slices.Delete(slices.Clone(args), n-2, n-1)
	}
	prepare(app.Commands)
	args, err := intersperse(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if n := caught.Load(); n != 0 {
		fmt.Fprintf(stderr, "alignedfusion: stopped by signal: %s\n", syscall.Signal(n))
		var last *stoppedError
		goesOn := errors.As(err, &last) || errors.Is(err, loop.ErrStopped)
		if goesOn {
			fmt.Fprintf(stderr, "alignedfusion: %v\n", err)
		}
		if goesOn && syscall.Signal(n) != syscall.SIGINT && fault.Of(err) != fault.Resource {
			return fault.Requeue
		}
		return 128 + int(n)
	}
	if err != nil {
		fmt.Fprintf(stderr, "alignedfusion: %v%s\n", err, fileMeant(err))
	}
	if errors.Is(err, loop.ErrStopped) { // the signal came to another process of the training
		return fault.Requeue
	}
	return codeOf(err)
}
