package cli

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets scripts run this test binary as the program.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"alignedfusion": func() { os.Exit(Main(os.Args, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/script/*.txtar: what users type and what they see.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exitcode": exitCode, "flipbyte": flipByte,
		},
		Setup: func(e *testscript.Env) error {
			// No plugins or settings of the person who runs the tests.
			e.Setenv("XDG_DATA_HOME", e.WorkDir+"/data")
			e.Setenv("ALIGNEDFUSION_PLUGIN_DIR", "")
			source, err := filepath.Abs("..")
			if err != nil {
				return err
			}
			e.Setenv("HOST_SOURCE", source) // for test files of other packages
			return nil
		},
	})
}

// exitCode runs a command and checks its exit code: exitcode 3 alignedfusion …
// Its output is for stdout and stderr, as exec's is.
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exitcode CODE PROGRAM ARG…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = "?"
		if exit, ok := err.(interface{ ExitCode() int }); ok {
			got = strconv.Itoa(exit.ExitCode())
		}
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s (%v)", got, args[0], err)
	}
}
