package cli

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// otherNames are what other programs call our flags.
var otherNames = map[string][]string{
	"ground-truth": {"gt", "truth", "reference", "annotations", "labels", "targets", "gts"},
	"predictions":  {"pred", "preds", "dt", "dets", "detections", "results", "candidates-file"},
	"out":          {"o", "output", "out-dir", "output-dir", "outdir", "save-dir", "workdir"},
	"data":         {"dataset", "input", "data-dir", "root"},
	"run":          {"model", "ckpt", "checkpoint"},
	"init":         {"weights", "pretrained", "from"},
	"device":       {"gpu", "gpus", "cuda", "accelerator"},
	"protocol":     {"preset", "benchmark", "challenge"},
	"threads":      {"num-threads", "cpus", "jobs", "j"},
	"images":       {"image-list", "image-ids", "imgs"},
	"resume":       {"continue", "restart"},
	"set":          {"s", "opt", "option", "override"},
	"level":        {"confidence", "confidence-level", "alpha"},
}

// otherCommands are what other programs call our commands.
var otherCommands = map[string]string{
	"eval": "froc", "evaluate": "froc", "score": "froc", "fit": "train", "infer": "predict", "inference": "predict", "test": "predict",
	"detect": "predict", "classify": "predict", "convert": "data import", "plugins": "plugin", "config": "help settings", "settings": "help settings",
}

// unknownFlag is the error of a flag that a command has not, with the one that was meant.
func unknownFlag(called string, cmd *cli.Command, name string) error {
	var flags []string
	for _, f := range cmd.Flags {
		flags = append(flags, f.Names()...)
	}
	hint := ""
	if flag := flagMeant(name, flags); flag != "" {
		hint = meant("--" + flag)
	} else if setting := settingMeant(name); setting != "" && slices.Contains(flags, "set") {
		hint = meant("--set " + setting + "=…")
	}
	return usageError("%s has no flag --%s%s; see `%s --help`", called, name, hint, called)
}

// flagMeant finds the flag that another program calls so, that begins so, or that this is
// a slip of; "" when there is none.
func flagMeant(name string, flags []string) string {
	plain := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	for _, flag := range flags {
		if flag == plain || slices.Contains(otherNames[flag], plain) {
			return flag
		}
	}
	if close := nearest.Typo(plain, flags); close != "" && len(plain) > 2 {
		return close
	}
	for _, flag := range flags {
		if len(plain) > 2 && (strings.HasPrefix(flag, plain) || strings.HasPrefix(plain, flag) && len(flag) > 3) {
			return flag
		}
	}
	return ""
}

// settingMeant finds the setting GROUP.KEY of the host that has this name or nearly; "" when
// there is none.
func settingMeant(name string) string {
	others := map[string]string{"learning-rate": "lr", "bs": "batch-size", "batchsize": "batch-size", "num-workers": "workers", "wd": "weight-decay", "optim": "optimizer", "image-size": "size"}
	if ours, ok := others[strings.ReplaceAll(name, "_", "-")]; ok {
		name = ours
	}
	key := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	var keys, full []string
	for _, g := range config.Groups(config.Detect) {
		for _, s := range g.Settings {
			if s.Name == key || g.Name+"."+s.Name == key {
				return g.Name + "." + s.Name
			}
			keys, full = append(keys, s.Name), append(full, g.Name+"."+s.Name)
		}
	}
	if close := nearest.Typo(key, keys); close != "" {
		return full[slices.Index(keys, close)]
	}
	return ""
}

// fileMeant is the end of an error about a file that is not there: the one beside it that was
// meant, "" when there is none.
func fileMeant(err error) string {
	var missing *fs.PathError
	if !errors.As(err, &missing) || !errors.Is(missing, fs.ErrNotExist) {
		return ""
	}
	return nearest.File(missing.Path)
}

// unknownCommand is the error of a command that is not there, with the one that was meant:
// `data impotr`, but also `import`, which is data's.
func unknownCommand(called, words string) error {
	before, last := "", words
	if i := strings.LastIndexByte(words, ' '); i >= 0 {
		before, last = words[:i], words[i+1:]
	}
	var names, deeper []string
	var walk func(cmds []*cli.Command, prefix string)
	walk = func(cmds []*cli.Command, prefix string) {
		for _, cmd := range cmds {
			if cmd.Hidden {
				continue
			}
			if prefix == before {
				names = append(names, cmd.Name)
			}
			full := strings.TrimSpace(prefix + " " + cmd.Name)
			if cmd.Name == last {
				deeper = append(deeper, full)
			}
			walk(cmd.Subcommands, full)
		}
	}
	walk(commands(), "")
	hint, list := "", strings.TrimSpace("alignedfusion "+before)
	if other, ok := otherCommands[last]; ok && before == "" {
		hint = meant("alignedfusion " + other)
	} else if len(deeper) > 0 {
		hint = meant("alignedfusion " + strings.Join(deeper, "` or `alignedfusion "))
	} else if close := nearest.Name(last, names); close != "" && len(last) > 2 {
		hint = meant(list + " " + close)
	}
	if called != "" {
		called += ": "
	}
	return usageError("%sunknown command %q%s; `%s --help` lists the commands", called, words, hint, list)
}

// meant is the part of a message that names what was probably meant; "" for nothing.
func meant(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean `" + name + "`?"
}
