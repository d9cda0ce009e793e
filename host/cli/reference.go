package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

// referenceCommand prints docs/commands.md; `make docs` writes it.
func referenceCommand() *cli.Command {
	return &cli.Command{
		Name:   "reference",
		Usage:  "print the reference of all commands as Markdown",
		Hidden: true,
		Action: func(c *cli.Context) error {
			var b strings.Builder
			b.WriteString("# Commands\n\nWritten by `make docs` from the program itself; `alignedfusion COMMAND --help` says the same.\n")
			for _, cmd := range commands() {
				if !cmd.Hidden {
					writeReference(&b, "alignedfusion", cmd, 2)
				}
			}
			b.WriteString("\n## Exit codes\n\nEach with what it means: [exit-codes.md](exit-codes.md).\n")
			_, err := io.WriteString(c.App.Writer, b.String())
			return err
		},
	}
}

// writeReference writes one command, its flags and its subcommands.
func writeReference(b *strings.Builder, parent string, cmd *cli.Command, level int) {
	name := parent + " " + cmd.Name
	fmt.Fprintf(b, "\n%s %s\n\n", strings.Repeat("#", level), name)
	line := name
	if len(cmd.Flags) > 0 {
		line += " [flags]"
	}
	switch {
	case len(cmd.Subcommands) > 0:
		line += " COMMAND"
	case cmd.ArgsUsage != "":
		line += " " + cmd.ArgsUsage
	}
	fmt.Fprintf(b, "%s.\n\n    %s\n", upperFirst(strings.TrimSuffix(cmd.Usage, ".")), line)
	if cmd.Description != "" {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", strings.TrimSpace(cmd.Description))
	}
	var rows []string
	for _, flag := range cmd.Flags {
		if row := flagRow(flag); row != "" {
			rows = append(rows, row)
		}
	}
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n| flag | meaning | default |\n|---|---|---|\n%s", strings.Join(rows, ""))
	}
	for _, sub := range cmd.Subcommands {
		if !sub.Hidden {
			writeReference(b, name, sub, level+1)
		}
	}
}

// flagRow is one line of a table of flags, "" for a hidden flag.
func flagRow(flag cli.Flag) string {
	if visible, ok := flag.(cli.VisibleFlag); ok && !visible.IsVisible() {
		return ""
	}
	var names []string
	for _, name := range flag.Names() {
		dash := "--"
		if len(name) == 1 {
			dash = "-"
		}
		names = append(names, "`"+dash+name+"`")
	}
	usage, value := "", ""
	if doc, ok := flag.(cli.DocGenerationFlag); ok {
		usage = doc.GetUsage()
		if doc.TakesValue() && !strings.Contains(usage, "default") {
			value = strings.Trim(doc.GetDefaultText(), `"`)
		}
	}
	if required, ok := flag.(cli.RequiredFlag); ok && required.IsRequired() {
		value = "required"
	}
	cell := strings.NewReplacer("|", "\\|", "\n", " ")
	return fmt.Sprintf("| %s | %s | %s |\n", strings.Join(names, ", "), cell.Replace(usage), cell.Replace(value))
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
