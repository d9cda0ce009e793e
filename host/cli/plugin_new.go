package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/scaffold"
)

// envSDK names the checkout of this project that Go plugins are built against.
const envSDK = "ALIGNEDFUSION_SDK"

// debianPython is where Debian's python3-torch and python3-grpcio belong to.
const debianPython = "/usr/bin/python3"

func pluginNewCommand() *cli.Command {
	return &cli.Command{
		Name: "new", Usage: "begin a plugin: a small project that builds, passes its test and validates as it is",
		ArgsUsage: strings.Join(scaffold.Kinds, "|") + " DIR",
		UsageText: "alignedfusion plugin new --lang go head my-head\n" +
			"alignedfusion plugin new --lang python fusion path/to/my-fusion",
		Description: "The last part of DIR becomes the plugin's name.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "lang", Value: "go", Usage: "`go|python`"},
			&cli.BoolFlag{Name: "pure", Usage: "a Go head without torch"},
			&cli.StringFlag{Name: "sdk", EnvVars: []string{envSDK}, Usage: "checkout `DIR` of this project that a Go plugin is built against (default: the one this program was built in)"},
			&cli.StringFlag{Name: "python", Usage: "interpreter `PATH` with torch and grpcio (default: " + debianPython + ")"},
		},
		Action: pluginNew,
	}
}

func pluginNew(c *cli.Context) error {
	if c.NArg() != 2 {
		return usageError("%d arguments given, want two: %s %s", c.NArg(), c.Command.HelpName, c.Command.ArgsUsage)
	}
	o := scaffold.Options{Kind: c.Args().Get(0), Dir: c.Args().Get(1), Language: c.String("lang"), Pure: c.Bool("pure"),
		SDK: c.String("sdk"), Python: c.String("python"), Host: hostProgram()}
	if o.Python == "" {
		o.Python = debianPython
		if _, err := os.Stat(debianPython); err != nil {
			o.Python = "python3"
		}
	}
	if o.SDK == "" {
		o.SDK = checkout()
	}
	if o.SDK != "" {
		abs, err := filepath.Abs(o.SDK)
		if err != nil {
			return err
		}
		o.SDK = abs
	}
	files, err := scaffold.Write(o)
	if errors.Is(err, scaffold.ErrOptions) {
		return usageError("%w", err)
	}
	if err != nil {
		return err
	}
	for _, name := range files {
		fmt.Fprintln(c.App.Writer, filepath.Join(o.Dir, name))
	}
	fmt.Fprintf(c.App.ErrWriter, "next: cd %s && make test && make validate\n", o.Dir)
	return nil
}

// hostProgram is how a Makefile calls this program: by name when the name finds it.
func hostProgram() string {
	self, err := os.Executable()
	if err != nil {
		return "alignedfusion"
	}
	if found, err := exec.LookPath(filepath.Base(self)); err == nil {
		if a, errA := filepath.EvalSymlinks(found); errA == nil {
			if b, errB := filepath.EvalSymlinks(self); errB == nil && a == b {
				return filepath.Base(self)
			}
		}
	}
	return self
}

// checkout finds this project above the program or above the working directory.
func checkout() string {
	var starts []string
	if self, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(self))
	}
	if dir, err := os.Getwd(); err == nil {
		starts = append(starts, dir)
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			if scaffold.IsCheckout(dir) {
				return dir
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return ""
}
