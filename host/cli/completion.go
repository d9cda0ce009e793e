package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
)

// The scripts ask the program itself for the words that may follow, so they stay
// right when commands change.
const (
	bashCompletion = `# bash completion of alignedfusion; load it with: source <(alignedfusion completion bash)
_alignedfusion() {
	local cur=${COMP_WORDS[COMP_CWORD]}
	local -a line=("${COMP_WORDS[@]:0:COMP_CWORD}")
	[[ $cur == -* ]] && line+=("$cur")
	mapfile -t COMPREPLY < <(compgen -W "$("${line[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur")
	[[ ${COMPREPLY[0]-} == *[=:] ]] && compopt -o nospace # more of the word follows
	return 0
}
complete -o bashdefault -o default -F _alignedfusion alignedfusion
`
	zshCompletion = `#compdef alignedfusion
# zsh completion of alignedfusion; load it with: source <(alignedfusion completion zsh)
_alignedfusion() {
	local cur=${words[CURRENT]}
	local -a line=("${words[@]:0:$((CURRENT-1))}") found
	[[ $cur == -* ]] && line+=("$cur")
	found=("${(@f)$("${line[@]}" --generate-bash-completion 2>/dev/null)}")
	if [[ -n ${found[1]} ]]; then
		compadd -S '' -- "${(@M)found:#*[=:]}" # more of the word follows
		compadd -- "${(@)found:#*[=:]}"
	else
		_files
	fi
}
compdef _alignedfusion alignedfusion
`
	fishCompletion = `# fish completion of alignedfusion; load it with: alignedfusion completion fish | source
function __alignedfusion_complete
	set -l line (commandline -opc)
	set -l cur (commandline -ct)
	string match -q -- '-*' $cur; and set -a line $cur
	$line --generate-bash-completion 2>/dev/null
end
complete -c alignedfusion -a '(__alignedfusion_complete)'
`
)

// completionRequest ends a command line that a shell wants completed.
const completionRequest = "--generate-bash-completion"

// completeValue prints what may follow the flag that a completion request ends with, and
// says whether it was asked: the library completes flags and commands alone. No line means
// that a file may follow, which the shell completes by itself.
func completeValue(app *cli.App, args []string, w io.Writer) bool {
	if len(args) < 3 || args[len(args)-1] != completionRequest || !strings.HasPrefix(args[len(args)-2], "--") {
		return false
	}
	leaf, _ := commandOf(app, args)
	name := strings.TrimPrefix(args[len(args)-2], "--")
	if leaf == nil || !takesValue(findFlag(leaf, name)) {
		return false
	}
	values, known := flagValues[name]
	if known {
		for _, value := range values() {
			fmt.Fprintln(w, value)
		}
	}
	return true
}

// flagValues are the words that a flag of any command takes.
var flagValues = map[string]func() []string{
	"protocol": froc.ProtocolNames,
	"task":     func() []string { return []string{config.Detect, config.Classify} },
	"plugin":   pluginNames,
	"lexicon":  rules.Names,
	"encoder":  func() []string { return append(pluginNames(), "none") },
	"fusion":   func() []string { return append(pluginNames(), "none") },
	"head":     pluginNames,
	"trust":    pluginNames,
	"split":    func() []string { return []string{"train", "val", "test", "all"} },
	"data":     layoutNames,
	"set": func() []string {
		var names []string
		for _, g := range settingGroups() {
			for _, s := range g.rows {
				if !strings.HasSuffix(s.name, "NAME") {
					names = append(names, s.name+"=")
				}
			}
		}
		return names
	},
}

// layoutNames are how a data spec begins.
func layoutNames() []string {
	var specs []string
	for _, l := range dataset.Layouts() {
		specs = append(specs, l.Name+":")
	}
	return specs
}

// argumentsOf are the words that stand for arguments, by how help writes them.
var argumentsOf = map[string]func() []string{"NAME|PATH": pluginNames, "NAME": pluginNames, "NAME…": pluginNames, "SPEC": layoutNames}

// completes makes a command complete its arguments besides its flags.
func completes(cmd *cli.Command, arguments func() []string) *cli.Command {
	cmd.BashComplete = func(c *cli.Context) {
		cli.DefaultCompleteWithFlags(c.Command)(c)
		for _, name := range arguments() {
			fmt.Fprintln(c.App.Writer, name)
		}
	}
	return cmd
}

// pluginNames are those on the usual search path; none of them runs.
func pluginNames() []string {
	found, _ := plughost.List(nil)
	var names []string
	for _, f := range found {
		if f.ShadowedBy == "" {
			names = append(names, f.Name)
		}
	}
	return names
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a shell's completion script",
		ArgsUsage: "bash|zsh|fish",
		BashComplete: func(c *cli.Context) {
			fmt.Fprintln(c.App.Writer, "bash\nzsh\nfish")
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageError("completion takes one shell: bash, zsh or fish")
			}
			var script string
			switch shell := c.Args().First(); shell {
			case "bash":
				script = bashCompletion
			case "zsh":
				script = zshCompletion
			case "fish":
				script = fishCompletion
			default:
				return usageError("no completion for %q; there is bash, zsh and fish", shell)
			}
			_, err := io.WriteString(c.App.Writer, script)
			return err
		},
	}
}
