package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// referenceCommand writes the pages of docs/reference that come from the program (`make docs`), or
// pages for man.
func referenceCommand() *cli.Command {
	return &cli.Command{
		Name:      "reference",
		Usage:     "write the reference of all commands, settings and figures as Markdown",
		ArgsUsage: "DIR",
		Hidden:    true,
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "man", Usage: "write pages for man instead"}},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageError("reference wants the one folder to write into")
			}
			if c.Bool("man") {
				return writeMan(c.Args().First())
			}
			return writePages(c.Args().First())
		},
	}
}

// writePages writes a page of every command, one that lists them, and those of settings and
// figures.
func writePages(dir string) error {
	list := "# Commands\n\nWritten by `make docs` from the program itself, as are the pages it leads to; `alignedfusion COMMAND --help`\n" +
		"says the same. Exit codes: [exit-codes.md](../exit-codes.md). Settings: [settings.md](../settings.md).\n\n| command | what it does |\n|---|---|\n"
	for _, cmd := range commands() {
		if cmd.Hidden {
			continue
		}
		list += fmt.Sprintf("| [%s](%s.md) | %s |\n", cmd.Name, cmd.Name, cmd.Usage)
		var b strings.Builder
		writeReference(&b, "alignedfusion", cmd, 1, writeFlags)
		if err := putPage(dir, "commands/"+cmd.Name+".md", strings.TrimPrefix(b.String(), "\n")); err != nil {
			return err
		}
	}
	list += "\n## What commands write\n\nA file that a flag names (`--out FILE`, `--report FILE`, …) is written whole or not at all, and takes the place of\n" +
		"one that is there: a command may be run again. Its folder must be there. `weights import` and `weights export` want\n" +
		"`--force` for it, as what they would replace may have taken days; `data split` without `--out` writes into the table\n" +
		"it read.\n"
	var flags strings.Builder
	writeFlags(&flags, pluginFlags())
	list += "\n## Flags of commands that run plugins\n" + flags.String()
	settings := "# Settings\n\nWhat `--set GROUP.KEY=VALUE` takes; `alignedfusion help settings [GROUP]` says the same.\n" +
		"The settings of encoder, fusion and head are their plugins': `alignedfusion plugin info NAME`.\n\n| setting | meaning |\n|---|---|\n"
	for _, g := range settingGroups() {
		for _, s := range g.rows {
			settings += fmt.Sprintf("| `%s` | %s |\n", s.name, strings.ReplaceAll(s.text, "|", "\\|"))
		}
	}
	figures := "# Figures of classifiers\n\nWhat `compare --metric` takes.\n\n| figure | meaning |\n|---|---|\n"
	for _, f := range figureLines() {
		figures += fmt.Sprintf("| `%s` | %s |\n", f.name, f.text)
	}
	return errors.Join(putPage(dir, "commands/README.md", list), putPage(dir, "settings.md", settings), putPage(dir, "figures.md", figures))
}

// putPage writes a file and the folder it is in.
func putPage(dir, name, text string) error {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return resourceError(err)
	}
	return resourceError(atomicfile.WriteBytes(path, []byte(text)))
}

// writeMan writes DIR/man1/alignedfusion-COMMAND.1 of every command, and one page that lists them.
func writeMan(dir string) error {
	list := "# NAME\n\nalignedfusion - lesion detection and classification from images and reports, built from plugins\n\n# COMMANDS\n"
	for _, cmd := range commands() {
		if cmd.Hidden {
			continue
		}
		list += fmt.Sprintf("\n**alignedfusion-%s(1)**\n: %s\n", cmd.Name, cmd.Usage)
		var b strings.Builder
		fmt.Fprintf(&b, "# NAME\n\nalignedfusion-%s - %s\n", cmd.Name, cmd.Usage)
		writeReference(&b, "alignedfusion", cmd, 1, listFlags)
		if err := writeManPage(dir, "alignedfusion-"+cmd.Name, b.String()); err != nil {
			return err
		}
	}
	return writeManPage(dir, "alignedfusion", list+"\n# EXIT STATUS\n\n"+exitCodes()+".\n")
}

// writeManPage writes a page of section 1 from Markdown.
func writeManPage(dir, name, markdown string) error {
	head := fmt.Sprintf("%% %s 1 \"\" \"alignedfusion %s\"\n\n", strings.ToUpper(name), Version)
	return putPage(dir, "man1/"+name+".1", string(md2man.Render([]byte(head+markdown))))
}

// writeReference writes one command, its flags and its subcommands.
func writeReference(b *strings.Builder, parent string, cmd *cli.Command, level int, writeFlags func(*strings.Builder, []cli.Flag)) {
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
		b.WriteString("\nBesides: the [flags of commands that run plugins](README.md#flags-of-commands-that-run-plugins).\n")
	}
	for _, sub := range cmd.Subcommands {
		if !sub.Hidden {
			writeReference(b, name, sub, level+1, writeFlags)
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

// listFlags writes flags as a list: a table is wider than a terminal that shows a man page.
func listFlags(b *strings.Builder, flags []cli.Flag) {
	for _, f := range flagLines(flags) {
		fmt.Fprintf(b, "\n**%s**\n: %s\n", f.name, strings.ReplaceAll(f.text, "\n", " "))
	}
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
