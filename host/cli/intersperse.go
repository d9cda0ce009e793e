package cli

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// intersperse moves the flags of a command before its arguments: the flag parser stops
// at the first argument and would ignore the flags behind it. An unknown flag is refused
// with the one that was probably meant.
func intersperse(app *cli.App, args []string) ([]string, error) {
	if len(args) == 0 || slices.Contains(args, "--generate-bash-completion") {
		return args, nil
	}
	leaf, at := commandOf(app, args)
	if leaf == nil || len(leaf.Subcommands) > 0 && len(leaf.Flags) == 0 {
		return args, nil
	}
	called := strings.Join(slices.Concat([]string{app.Name}, args[1:at]), " ")
	flags, positional := []string{}, []string{}
	for at < len(args) {
		arg := args[at]
		at++
		if arg == "--" {
			positional = append(positional, args[at-1:]...)
			break
		}
		name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		flag := findFlag(leaf, name)
		switch {
		case !strings.HasPrefix(arg, "-") || arg == "-":
			positional = append(positional, arg)
		case flag == nil && name != "help" && name != "h":
			return nil, unknownFlag(called, leaf, name)
		default:
			flags = append(flags, arg)
			if takesValue(flag) && !hasValue {
				if at == len(args) {
					return nil, usageError("--%s needs a value; see `%s --help`", name, called)
				}
				value = args[at]
				flags = append(flags, value)
				at++
			}
			if err := checkNumber(flag, name, value); err != nil {
				return nil, err
			}
		}
	}
	head := len(args) - len(flags) - len(positional)
	return slices.Concat(args[:head], flags, positional), nil
}

// commandOf is the command that the words behind the program's name call, nil for none, and
// the place of the first word behind it.
func commandOf(app *cli.App, args []string) (leaf *cli.Command, at int) {
	commands := app.Commands
	for at = 1; at < len(args); at++ {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[at]) })
		if i < 0 {
			break
		}
		leaf, commands = commands[i], commands[i].Subcommands
	}
	return leaf, at
}

func findFlag(c *cli.Command, name string) cli.Flag {
	for _, f := range c.Flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// checkNumber refuses the value of a flag that is no number of its kind: the library's
// message says neither what was wanted nor the flag as it was written.
func checkNumber(f cli.Flag, name, value string) error {
	var err error
	want := ""
	switch f.(type) {
	case *cli.IntFlag:
		_, err = strconv.ParseInt(value, 0, 0)
		want = "a whole number"
	case *cli.Uint64Flag:
		_, err = strconv.ParseUint(value, 0, 64)
		want = "a whole number from 0 on"
	case *cli.Float64Flag:
		_, err = strconv.ParseFloat(value, 64)
		want = "a number"
	case *cli.DurationFlag:
		_, err = time.ParseDuration(value)
		want = "a time such as 90s or 5m"
	}
	if err != nil {
		return usageError("--%s %q: want %s", name, value, want)
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}
