// Command fitgotch fits gotch's C++ shim and Go module to the libtorch that a
// machine has.
//
// gotch is generated for one libtorch release. Against another one some of its
// ~2,500 generated C functions do not compile. fitgotch lets the compiler name
// them, makes exactly those throw "not in this libtorch", builds the shim once
// as a shared library, and writes a copy of the Go module that links against
// this library only, with a go.work that points at the copy. Plugins' own C++
// sources become libraries beside it, built for the same libtorch (-kernels).
//
// It is a static program that needs g++ at run time and, unless -shim-only is
// given, the go command.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stderr)
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	default:
		fmt.Fprintf(os.Stderr, "fitgotch: %v\n", err)
		os.Exit(1)
	}
}

// options are the settings of one run.
type options struct {
	root     string   // the project's root, where go.work and build/ go
	libtorch string   // libtorch's folder; empty: $LIBTORCH, then the system's
	sources  string   // pristine shim sources for shimOnly
	out      string   // folder that gets libtch.so
	kernels  []string // folders of plugins' own C++ sources
	shimOnly bool
	goOnly   bool // stop after the Go side
	force    bool
	verbose  bool
}

func run(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("fitgotch", flag.ContinueOnError)
	flags.SetOutput(log)
	var o options
	flags.StringVar(&o.root, "root", ".", "project root; build/ and go.work are written there")
	flags.StringVar(&o.libtorch, "libtorch", "", "libtorch folder with include/ and lib/ (default: $LIBTORCH, then Debian's)")
	flags.StringVar(&o.sources, "sources", "", "shim sources for -shim-only (default: ROOT/build/shim/src)")
	flags.StringVar(&o.out, "out", "", "folder for libtch.so (default: ROOT/build/lib)")
	flags.BoolVar(&o.shimOnly, "shim-only", false, "build libraries only; needs no Go on the machine")
	flags.Func("kernels", "folder plugins/NAME/native to build into libalignedfusion_NAME.so beside libtch.so (may be given again)", func(dir string) error {
		o.kernels = append(o.kernels, dir)
		return nil
	})
	flags.BoolVar(&o.goOnly, "go-only", false, "write the Go module, go.work and the shim's sources only; compiles nothing")
	flags.BoolVar(&o.force, "force", false, "rebuild even when nothing changed")
	flags.BoolVar(&o.verbose, "v", false, "list the functions this libtorch lacks")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.shimOnly && o.goOnly {
		return errors.New("-shim-only and -go-only exclude each other")
	}
	return fit(ctx, o, log)
}
