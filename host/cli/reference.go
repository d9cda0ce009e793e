package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// referenceCommand prints docs/reference/commands.md (`make docs` writes it), or makes a page for
// man of every command.
func referenceCommand() *cli.Command {
	return &cli.Command{
		Name:   "reference",
		Usage:  "print the reference of all commands as Markdown",
		Hidden: true,
		Flags:  []cli.Flag{&cli.StringFlag{Name: "man", Usage: "write pages for man into `DIR` instead"}},
		Action: func(c *cli.Context) error {
			if dir := c.String("man"); dir != "" {
				return writeMan(dir)
			}
			var b strings.Builder
			b.WriteString("# Commands\n\nWritten by `make docs` from the program itself; `alignedfusion COMMAND --help` says the same.\n")
			for _, cmd := range commands() {
				if !cmd.Hidden {
					writeReference(&b, "alignedfusion", cmd, 2)
				}
			}
			b.WriteString("\n## Flags of commands that run plugins\n")
			writeFlags(&b, pluginFlags())
			b.WriteString("\n## Settings\n\nWhat `--set GROUP.KEY=VALUE` takes; `alignedfusion help settings [GROUP]` says the same.\n" +
				"The settings of encoder, fusion and head are their plugins': `alignedfusion plugin info NAME`.\n\n| setting | meaning |\n|---|---|\n")
			for _, g := range settingGroups() {
				for _, s := range g.rows {
					fmt.Fprintf(&b, "| `%s` | %s |\n", s.name, strings.ReplaceAll(s.text, "|", "\\|"))
				}
			}
			b.WriteString("\n## Figures of classifiers\n\nWhat `compare --metric` takes.\n\n| figure | meaning |\n|---|---|\n")
			for _, f := range figureLines() {
				fmt.Fprintf(&b, "| `%s` | %s |\n", f.name, f.text)
			}
			b.WriteString("\n## Exit codes\n\nEach with what it means: [exit-codes.md](exit-codes.md).\n")
			_, err := io.WriteString(c.App.Writer, b.String())
			return err
		},
	}
}

// writeMan writes DIR/man1/alignedfusion-COMMAND.1 of every command, and one page that lists them.
func writeMan(dir string) error {
	dir = filepath.Join(dir, "man1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return resourceError(err)
	}
	list := "# NAME\n\nalignedfusion - lesion detection and classification from images and reports, built from plugins\n\n# COMMANDS\n"
	for _, cmd := range commands() {
		if cmd.Hidden {
			continue
		}
		list += fmt.Sprintf("\n**alignedfusion-%s(1)**\n: %s\n", cmd.Name, cmd.Usage)
		var b strings.Builder
		fmt.Fprintf(&b, "# NAME\n\nalignedfusion-%s - %s\n", cmd.Name, cmd.Usage)
		writeReference(&b, "alignedfusion", cmd, 1)
		if err := writeManPage(dir, "alignedfusion-"+cmd.Name, b.String()); err != nil {
			return err
		}
	}
	return writeManPage(dir, "alignedfusion", list+"\n# EXIT STATUS\n\n"+exitCodes()+".\n")
}

// writeManPage writes a page of section 1 from Markdown.
func writeManPage(dir, name, markdown string) error {
	head := fmt.Sprintf("%% %s 1 \"\" \"alignedfusion %s\"\n\n", strings.ToUpper(name), Version)
	return resourceError(atomicfile.WriteBytes(filepath.Join(dir, name+".1"), md2man.Render([]byte(head+markdown))))
}

// writeReference writes one command, its flags and its subcommands.
func writeReference(b *strings.Builder, parent string, cmd *cli.Command, level int) {
	name := parent + " " + cmd.Name
	fmt.Fprintf(b, "\n%s %s\n\n", strings.Repeat("#", level), name)
	fmt.Fprintf(b, "%s.\n\n    %s\n", upperFirst(strings.TrimSuffix(cmd.Usage, ".")), commandLine(name, cmd))
	if cmd.Description != "" {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", strings.TrimSpace(cmd.Description))
	}
	own := slices.DeleteFunc(slices.Clone(cmd.Flags), func(f cli.Flag) bool {
		return slices.ContainsFunc(pluginFlags(), func(shared cli.Flag) bool { return shared.Names()[0] == f.Names()[0] })
	})
	if len(cmd.Flags)-len(own) < len(pluginFlags()) { // it runs no plugins in a pipeline
		own = cmd.Flags
	}
	writeFlags(b, own)
	if len(own) < len(cmd.Flags) {
		b.WriteString("\nBesides: the [flags of commands that run plugins](#flags-of-commands-that-run-plugins).\n")
	}
	for _, sub := range cmd.Subcommands {
		if !sub.Hidden {
			writeReference(b, name, sub, level+1)
		}
	}
}

// writeFlags writes a table of flags.
func writeFlags(b *strings.Builder, flags []cli.Flag) {
	var rows []string
	for _, flag := range flags {
		if d, ok := describeFlag(flag); ok {
			cell := strings.NewReplacer("|", "\\|", "\n", " ")
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", strings.Join(d.names, "`, `"), cell.Replace(d.usage), cell.Replace(d.value)))
		}
	}
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n| flag | meaning | default |\n|---|---|---|\n%s", strings.Join(rows, ""))
	}
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
