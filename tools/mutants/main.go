// Command mutants tests the tests: it changes one place of a package at a time and runs the
// tests. A mutant that fails them is killed; one that passes them survives, and shows a rule
// that no test keeps.
//
//	mutants [-n 20] [-seed 1] [-goal 17] [package …]
//	mutants -plugins [-n 6] [-seed 1] [plugin …]
//
// Without packages it takes those whose numbers decide (the list named watched). Mutants are
// drawn at random from a seed and the package's name: first a place, then one of the changes
// possible there (operators lists them). The tree is never touched: a mutant reaches the
// compiler through go's -overlay. A change that the type checker refuses is not drawn, and one
// whose compiled package equals the original's is drawn again. Other equivalent mutants cannot
// be told by a program: they count as survivors, which is why the goal is below all.
//
// For each survivor a line says file:line, the kind of change, and before -> after; add a test
// of the rule behind it, not of the line. The exit code is 1 when a package has fewer killed
// than the goal (of 20; in proportion for another -n).
//
// With -plugins it is `plugin validate` that is tested, on mutants of the plugins in Go
// (plugins.go says what they are): a line for each says which case named it. The
// exit code is 1 when one is not caught.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

// watched are the packages that `make mutants` tests by default.
var watched = []string{
	"./eval/froc", "./eval/froc/frocio", "./eval/classify", "./host/workflow/detect", "./internal/box", "./host/pipeline", "./host/config",
	"./host/dataset", "./host/report/schema", "./sdk", "./host/runs", "./sdk/tensor",
}

func main() {
	n := flag.Int("n", 20, "mutants per package or plugin")
	seed := flag.Uint64("seed", 1, "seed of the draw")
	goal := flag.Int("goal", 17, "fewest killed of 20")
	plugins := flag.Bool("plugins", false, "mutants of plugins, for `plugin validate`")
	flag.Parse()
	packages := flag.Args()
	if *plugins {
		caught, err := testPlugins(os.Stdout, packages, *n, *seed)
		if err != nil {
			fmt.Fprintf(os.Stderr, "mutants: %v\n", err)
			os.Exit(2)
		}
		if !caught {
			os.Exit(1)
		}
		return
	}
	if len(packages) == 0 {
		packages = watched
	}
	ok := true
	for _, path := range packages {
		started := time.Now()
		r, err := testPackage(path, *n, *seed)
		if err != nil {
			fmt.Fprintf(os.Stderr, "mutants: %v\n", err)
			os.Exit(2)
		}
		fmt.Printf("%-28s killed %d/%d, seed %d, %d equal to the original drawn again, %v\n",
			path, r.killed, r.killed+len(r.survivors), *seed, r.equal, time.Since(started).Round(time.Second))
		for _, m := range r.survivors {
			fmt.Println("  survived", m)
		}
		ok = ok && r.reaches(*goal)
	}
	if !ok {
		os.Exit(1)
	}
}
