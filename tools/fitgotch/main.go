// Command fitgotch fits gotch to the libtorch that a machine has, cut down to what a
// project uses.
//
// gotch wraps 2,500 operators of one libtorch release; a project reaches about a hundred.
// fitgotch follows the calls of the given Go packages (default ./...) into gotch, writes
// a copy of its Go module with the reached functions alone, and compiles the C++ side of
// just these into libtch.so, for the libtorch that is there. A go.work points at the copy.
// A function that is needed and that this libtorch lacks ends it with the function's name
// and the place that calls it. Plugins' own C++ sources become libraries beside libtch.so
// (-kernels).
//
//	fitgotch [flags] [package ...]
//
// It is a static program that needs g++ at run time and, unless -shim-only is given, the
// go command.
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
	sources  string   // the shim's sources
	base     string   // build folder of a project whose fit serves where it suffices
	out      string   // folder that gets libtch.so
	kernels  []string // folders of plugins' own C++ sources
	optional []string // folders of C++ sources that this libtorch may not be able to serve
	prebuilt string   // folder of portable libraries to take instead of compiling
	portable bool     // build portable libraries, out/SERIES
	shimOnly bool
	goOnly   bool // stop after the Go side
	force    bool
	packages []string // whose calls are followed
}

func run(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("fitgotch", flag.ContinueOnError)
	flags.SetOutput(log)
	var o options
	flags.StringVar(&o.root, "root", ".", "project root; build/ and go.work are written there")
	flags.StringVar(&o.libtorch, "libtorch", "", "libtorch folder with include/ and lib/ (default: $LIBTORCH, then Debian's)")
	flags.StringVar(&o.sources, "sources", "", "shim sources for -shim-only (default: ROOT/build/shim/src)")
	flags.StringVar(&o.out, "out", "", "folder for libtch.so (default: ROOT/build/lib)")
	flags.StringVar(&o.base, "base", "", "build/ of another project: its fitted gotch and library serve when they hold all that is reached")
	flags.BoolVar(&o.shimOnly, "shim-only", false, "build libraries only; needs no Go on the machine")
	flags.Func("kernels", "folder plugins/NAME/native to build into libalignedfusion_NAME.so beside libtch.so (may be given again)", func(dir string) error {
		o.kernels = append(o.kernels, dir)
		return nil
	})
	flags.Func("optional", "as -kernels; what cannot be built is said and left out (may be given again)", func(dir string) error {
		o.optional = append(o.optional, dir)
		return nil
	})
	flags.StringVar(&o.prebuilt, "prebuilt", "", "with -shim-only: folder of portable libraries; one for this libtorch's release is taken instead of compiling")
	flags.BoolVar(&o.portable, "portable", false, "with -shim-only: build libraries into -out/SERIES that serve every libtorch of this release, for -prebuilt")
	flags.BoolVar(&o.goOnly, "go-only", false, "write the Go module, go.work and the shim's sources only; compiles nothing")
	flags.BoolVar(&o.force, "force", false, "rebuild even when nothing changed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.shimOnly && o.goOnly {
		return errors.New("-shim-only and -go-only exclude each other")
	}
	if (o.portable || o.prebuilt != "") && !o.shimOnly {
		return errors.New("-portable and -prebuilt go with -shim-only")
	}
	if o.packages = flags.Args(); len(o.packages) == 0 {
		o.packages = []string{"./..."}
	} else if o.shimOnly {
		return errors.New("-shim-only builds what an earlier run has found: it takes no packages")
	}
	return fit(ctx, o, log)
}
