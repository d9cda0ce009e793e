package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// topic is a page of help that belongs to no single command.
type topic struct {
	name, usage string
	write       func(w io.Writer, args []string) error
}

// topics are what `alignedfusion help` knows besides commands.
func topics() []topic {
	return []topic{
		{"settings", "what --set of train and study takes: all, or those of one GROUP", writeSettings},
		{"figures", "what --metric of compare takes", func(w io.Writer, args []string) error {
			if len(args) > 0 {
				return usageError("help figures takes no argument, got %q", args[0])
			}
			_, err := io.WriteString(w, columns(figureLines(), 0, widthOf(w)))
			return err
		}},
		{"plugin-flags", "flags of every command that runs plugins", func(w io.Writer, args []string) error {
			if len(args) > 0 {
				return usageError("help plugin-flags takes no argument, got %q", args[0])
			}
			_, err := io.WriteString(w, columns(flagLines(pluginFlags()), 0, widthOf(w)))
			return err
		}},
	}
}

// helpCommand shows the help of a command, however deep, or a topic's.
func helpCommand() *cli.Command {
	var list strings.Builder
	for _, t := range topics() {
		fmt.Fprintf(&list, "  %-14s %s\n", t.name, t.usage)
	}
	return &cli.Command{
		Name: "help", Aliases: []string{"h"}, ArgsUsage: "[COMMAND… | TOPIC]",
		Usage:       "show the help of a command or of a topic",
		Description: "Topics:\n" + list.String(),
		BashComplete: func(c *cli.Context) {
			for _, t := range topics() {
				fmt.Fprintln(c.App.Writer, t.name)
			}
			for _, cmd := range commands() {
				if !cmd.Hidden {
					fmt.Fprintln(c.App.Writer, cmd.Name)
				}
			}
		},
		Action: func(c *cli.Context) error {
			words := c.Args().Slice()
			if len(words) == 0 {
				return cli.ShowAppHelp(c)
			}
			all := topics()
			if i := slices.IndexFunc(all, func(t topic) bool { return t.name == words[0] }); i >= 0 {
				return all[i].write(c.App.Writer, words[1:])
			}
			level := commands()
			for i, word := range words {
				at := slices.IndexFunc(level, func(cmd *cli.Command) bool { return cmd.HasName(word) })
				if at < 0 {
					return unknownCommand("help", strings.Join(words[:i+1], " "))
				}
				level = level[at].Subcommands
			}
			return c.App.RunContext(c.Context, slices.Concat([]string{c.App.Name}, words, []string{"--help"}))
		},
	}
}

// row is a line of help in two columns.
type row struct{ name, text string }

// columns sets rows in two columns within a width, behind a margin.
func columns(rows []row, margin, width int) string {
	name := 0
	for _, r := range rows {
		if n := len([]rune(r.name)); n <= 34 {
			name = max(name, n)
		}
	}
	left := margin + name + 2
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%*s%s", margin, "", r.name)
		at := margin + max(name, len([]rune(r.name)))
		indent := left
		if width-left < 30 { // a narrow terminal: the text stands below
			indent, at = margin+4, width
		}
		if at >= left || at == width {
			b.WriteString("\n" + strings.Repeat(" ", indent))
		} else {
			b.WriteString(strings.Repeat(" ", left-margin-len([]rune(r.name))))
		}
		b.WriteString(strings.Join(wrapped(r.text, width-indent), "\n"+strings.Repeat(" ", indent)) + "\n")
	}
	return b.String()
}

// wrapped breaks a text at blanks into lines of at most width letters, and a longer word, which
// has a line of its own, behind its commas and bars.
func wrapped(text string, width int) []string {
	lines, length := []string{""}, 0
	for _, word := range strings.Fields(text) {
		n := len([]rune(word))
		for n > width {
			runes := []rune(word)
			end := width
			for end > 0 && !strings.ContainsRune(",|", runes[end-1]) {
				end--
			}
			if end == 0 {
				break
			}
			if last := len(lines) - 1; length == 0 {
				lines[last] = string(runes[:end])
			} else {
				lines = append(lines, string(runes[:end]))
			}
			lines, length = append(lines, ""), 0
			word, n = string(runes[end:]), n-end
		}
		switch last := len(lines) - 1; {
		case length == 0:
			lines[last], length = word, n
		case length+1+n <= width:
			lines[last] += " " + word
			length += 1 + n
		default:
			lines, length = append(lines, word), n
		}
	}
	return lines
}

// flagLines are the visible flags as rows: their names with what they take, and their use.
func flagLines(flags []cli.Flag) []row {
	var rows []row
	for _, f := range flags {
		if d, ok := describeFlag(f); ok {
			name := strings.Join(d.names, ", ")
			if d.takes != "" {
				name += " " + d.takes
			}
			text := strings.ReplaceAll(d.usage, "`", "")
			if d.value != "" {
				text += " (default: " + d.value + ")"
			}
			rows = append(rows, row{name, text})
		}
	}
	return rows
}

// flagText is what help and reference say of a flag.
type flagText struct {
	names []string // with their dashes
	takes string   // the word for its value, "" for a switch
	usage string   // with the word between backquotes
	value string   // default, "" where usage says it or where there is none
}

// describeFlag reads what a flag says of itself; not of a hidden one.
func describeFlag(f cli.Flag) (flagText, bool) {
	if v, ok := f.(cli.VisibleFlag); ok && !v.IsVisible() {
		return flagText{}, false
	}
	var d flagText
	for _, name := range f.Names() {
		dash := "--"
		if len(name) == 1 {
			dash = "-"
		}
		d.names = append(d.names, dash+name)
	}
	doc, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return d, true
	}
	d.usage = doc.GetUsage()
	if !doc.TakesValue() {
		return d, true
	}
	if parts := strings.SplitN(d.usage, "`", 3); len(parts) == 3 {
		d.takes = parts[1]
	} else {
		d.takes = strings.ToUpper(strings.ReplaceAll(f.Names()[0], "-", "_"))
	}
	value := strings.Trim(doc.GetDefaultText(), `"`)
	if !strings.Contains(d.usage, "default") && value != "0" && value != "0s" {
		d.value = value
	}
	return d, true
}

// paragraphs fills the paragraphs of a text to a width. Lines that are set in stand as they
// are where they fit.
func paragraphs(text string, margin, width int) string {
	var lines []string
	paragraph := ""
	flush := func() {
		if paragraph != "" {
			for _, line := range wrapped(paragraph, width-margin) {
				lines = append(lines, strings.Repeat(" ", margin)+line)
			}
		}
		paragraph = ""
	}
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		inner := strings.TrimLeft(line, " ")
		set := margin + len(line) - len(inner)
		switch {
		case inner == "":
			flush()
			lines = append(lines, "")
		case set == margin:
			paragraph += " " + line
		case len([]rune(line)) <= width-margin:
			flush()
			lines = append(lines, strings.Repeat(" ", margin)+line)
		default:
			flush()
			parts := wrapped(inner, width-set-4)
			lines = append(lines, strings.Repeat(" ", set)+strings.Join(parts, "\n"+strings.Repeat(" ", set+4)))
		}
	}
	flush()
	return strings.Join(lines, "\n") + "\n"
}

// isRare says whether a flag is left to `alignedfusion help plugin-flags`.
func isRare(f cli.Flag) bool {
	return slices.Contains([]string{"plugin-dir", "call-timeout", "allow-unregistered", "plugin-memory-mib", "plugin-shared-mib", "plugin-cpu-seconds", "colocate", "plugin-no-network", "plugin-read-only"}, f.Names()[0])
}

// printHelp writes the help of the program or of a command: what it is, how it is called,
// its commands and flags, as wide as the terminal.
func printHelp(w io.Writer, _ string, data any) {
	const margin = 2
	width := widthOf(w)
	var name, usage, synopsis, description string
	var commands []*cli.Command
	var flags []cli.Flag
	switch of := data.(type) {
	case *cli.App:
		name, usage, description, commands, flags = of.Name, of.Usage, of.Description, of.VisibleCommands(), of.VisibleFlags()
		synopsis = of.Name + " COMMAND [flags]"
	case *cli.Command:
		name, usage, description, commands, flags = of.HelpName, of.Usage, of.Description, of.VisibleCommands(), of.Flags
		if synopsis = of.UsageText; synopsis == "" {
			synopsis = commandLine(of.HelpName, of)
		}
	}
	var b strings.Builder
	b.WriteString(paragraphs(name+": "+usage, 0, width) + "\n")
	for _, call := range strings.Split(synopsis, "\n") {
		b.WriteString(paragraphs("  "+call, 0, width))
	}
	if description != "" {
		b.WriteString("\n" + paragraphs(description, 0, width))
	}
	if len(commands) > 0 {
		var rows []row
		for _, cmd := range commands {
			rows = append(rows, row{cmd.Name, cmd.Usage})
		}
		b.WriteString("\nCommands:\n" + columns(rows, margin, width))
	}
	own := slices.DeleteFunc(slices.Clone(flags), isRare)
	if rows := flagLines(own); len(rows) > 0 {
		b.WriteString("\nFlags:\n" + columns(rows, margin, width))
	}
	if len(own) < len(flags) {
		b.WriteString("\n" + paragraphs("More flags find, bound and isolate plugins: alignedfusion help plugin-flags", 0, width))
	}
	_, _ = io.WriteString(w, b.String())
}

// commandLine is how a command is called.
func commandLine(name string, cmd *cli.Command) string {
	if slices.ContainsFunc(cmd.Flags, func(f cli.Flag) bool { return f.Names()[0] != "help" }) {
		name += " [flags]"
	}
	switch {
	case len(cmd.Subcommands) > 0:
		name += " COMMAND"
	case cmd.ArgsUsage != "":
		name += " " + cmd.ArgsUsage
	}
	return name
}

// widthOf is how many columns help may use: the terminal's, or $COLUMNS, from 60 to 200; 100
// where there is neither.
func widthOf(w io.Writer) int {
	width := 100
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil {
		width = n
	} else if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			width = n
		}
	}
	return min(max(width, 60), 200)
}

// figureLines are the figures of classifiers as rows, and what figures of numbers and of times
// to an event there are.
func figureLines() []row {
	var rows []row
	add := func(of string, names []string) {
		for _, text := range names {
			name, about, _ := strings.Cut(text, "\t")
			rows = append(rows, row{name, of + about})
		}
	}
	add("", classify.FigureNames())
	add("of numbers: ", classify.MeasureNames(classify.Regression))
	add("of times to an event: ", classify.MeasureNames(classify.Survival))
	return rows
}

// writeSettings lists the host's settings, all or those of one group.
func writeSettings(w io.Writer, args []string) error {
	groups := settingGroups()
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = g.name
	}
	switch {
	case len(args) > 1:
		return usageError("help settings takes one group, got %d", len(args))
	case len(args) == 1 && slices.Contains([]string{"encoder", "fusion", "head"}, args[0]):
		return usageError("the settings of %s are its plugin's: alignedfusion plugin info NAME", args[0])
	case len(args) == 1 && !slices.Contains(names, args[0]):
		return usageError("no settings of group %q%s; there are %s", args[0], meant(nearest.Name(args[0], names)), strings.Join(names, ", "))
	}
	for _, g := range groups {
		if len(args) == 0 || args[0] == g.name {
			if _, err := io.WriteString(w, columns(g.rows, 0, widthOf(w))); err != nil {
				return err
			}
		}
	}
	return nil
}

// settingGroup is a group of settings with the lines that explain them.
type settingGroup struct {
	name string
	rows []row
}

// settingGroups lists the host's own settings with the defaults and choices of both tasks.
func settingGroups() []settingGroup {
	var groups []settingGroup
	classify := config.Groups(config.Classify)
	for i, g := range config.Groups(config.Detect) {
		group := settingGroup{name: g.Name}
		for j, s := range g.Settings {
			other := classify[i].Settings[j]
			kind, otherKind := kindOf(s), kindOf(other)
			text := fmt.Sprintf("%s, default %s", kind, shown(s.Default))
			if kind != otherKind {
				text += fmt.Sprintf("; classify: %s, default %s", otherKind, shown(other.Default))
			} else if s.Default != other.Default {
				text += fmt.Sprintf("; classify %s", shown(other.Default))
			}
			group.rows = append(group.rows, row{g.Name + "." + s.Name, fmt.Sprintf("%s (%s)", s.Help, text)})
		}
		groups = append(groups, group)
	}
	text := row{"text.plugin", "NAME, PATH or NAME:STAGE of a text encoder, whose settings are text.KEY too, e.g. bert with text.model=FOLDER (default: hashed n-grams)"}
	last := &groups[len(groups)-1] // text
	last.rows = append(last.rows, text)
	return append(groups, settingGroup{"loss", []row{{"loss.NAME", "weight of a loss that a stage reports (float, default 1)"}}})
}

// kindOf says what values a setting takes: its choices, or its type with the bounds.
func kindOf(s sdk.Setting) string {
	if len(s.Choices) > 0 {
		return strings.Join(s.Choices, "|")
	}
	kind := s.Type
	if s.Rising {
		kind += " that rise"
	}
	for _, bound := range []struct {
		at   *float64
		sign string
	}{{s.Min, ">="}, {s.Above, ">"}, {s.Max, "<="}, {s.Below, "<"}} {
		if bound.at != nil {
			kind += fmt.Sprintf(" %s %g", bound.sign, *bound.at)
		}
	}
	return kind
}

// shown is a default as help prints it.
func shown(text string) string {
	if text == "" {
		return "empty"
	}
	return text
}
