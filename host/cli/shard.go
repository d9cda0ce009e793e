package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/study"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// shardFlag is --shard of the commands whose work can be divided.
func shardFlag() cli.Flag {
	return &cli.StringFlag{Name: "shard", Usage: "do part `I/N` of the work and leave it for merge: 1/4 to 4/4; auto in a Slurm array, auto/N in an Indexed Job"}
}

// division says how a command's work is divided: by --shard, or put together by merge.
type division struct {
	shard.Spec
	// merged are the shards in the order of their numbers; nil unless merge runs the command.
	merged []*shard.Record
}

type mergedKey struct{}

func divide(c *cli.Context) (d division, err error) {
	d.merged, _ = c.Context.Value(mergedKey{}).([]*shard.Record)
	d.Spec, err = shard.Parse(c.String("shard"), os.Getenv)
	return d, err
}

// leave writes what a shard made beside the command's --out, for merge.
func (d division) leave(c *cli.Context, inputs map[string]string, made any, what string) error {
	out := c.String("out")
	if device, _, _ := strings.Cut(c.String("device"), ":"); device != "" {
		inputs["the kind of device"] = device
	}
	r := shard.Record{Program: Version, Command: strings.Join(commandWords(c), " "), Args: givenArgs(c, "shard", "out", "device"), Shard: d.Index, Shards: d.Count, Inputs: inputs}
	path := shard.Path(out, d.Spec)
	if err := r.Write(path, made); err != nil {
		return err
	}
	all := fmt.Sprintf("%s.shard-*-of-%d", filepath.Clean(out), d.Count)
	fmt.Fprintf(c.App.ErrWriter, "shard %s: %s: %s\nwhen all are there: %s merge %s %s\n", d.Spec, what, path, c.App.Name, quoted(out), all)
	return nil
}

// commandWords are the words that call a command, without the program's name.
func commandWords(c *cli.Context) []string { return strings.Fields(c.Command.HelpName)[1:] }

// givenArgs are the flags that were given, but for some, and the arguments.
func givenArgs(c *cli.Context, except ...string) []string {
	args := []string{}
	for _, flag := range c.Command.Flags {
		name := flag.Names()[0]
		if !c.IsSet(name) || slices.Contains(except, name) {
			continue
		}
		switch value := c.Value(name).(type) {
		case cli.StringSlice:
			for _, one := range value.Value() {
				args = append(args, "--"+name+"="+one)
			}
		default:
			args = append(args, fmt.Sprintf("--%s=%v", name, value))
		}
	}
	return append(args, c.Args().Slice()...)
}

// check refuses shards whose inputs are not what they are now.
func (d division) check(inputs map[string]string) error {
	if d.merged == nil {
		return nil
	}
	for _, r := range d.merged {
		if what := shard.Changed(r.Inputs, inputs); what != "" {
			return problem.At(r.Path, 0, "", "was made from something else than what is there now: %s; run the shards again", what)
		}
	}
	return nil
}

// made is what each shard made.
func made[T any](records []*shard.Record) ([]T, error) {
	out := make([]T, len(records))
	for i, r := range records {
		if err := json.Unmarshal(r.Made, &out[i]); err != nil {
			return nil, problem.At(r.Path, 0, "", "is of another version of this program: %v", err)
		}
	}
	return out, nil
}

func mergeCommand() *cli.Command {
	return &cli.Command{
		Name: "merge", ArgsUsage: "OUT SHARD…",
		Usage: "put the shards of a command together: what it would have made alone",
		Description: `Runs the shards' command again with what they made in place of the work: it prints what the command prints
and writes OUT and the other files it was told to, byte for byte. No plugin is started. A shard that is
missing, given twice, changed, or made with another command line, data, plugins or configuration is refused by name.

  alignedfusion predict --run runs/a --out test.csv --shard 1/2
  alignedfusion predict --run runs/a --out test.csv --shard 2/2
  alignedfusion merge test.csv test.csv.shard-*-of-2`,
		Action: runMerge,
	}
}

func runMerge(c *cli.Context) error {
	if c.NArg() < 2 {
		return usageError("merge takes OUT and the files of all shards, %d arguments were given: alignedfusion merge OUT OUT.shard-*", c.NArg())
	}
	out := c.Args().First()
	if strings.Contains(filepath.Base(out), ".shard-") {
		return usageError("merge %s …: the first argument is what is written, and this is the name of a shard: alignedfusion merge OUT %s …", out, out)
	}
	records, err := shard.Read(c.Args().Tail())
	if err != nil {
		return err
	}
	r := records[0]
	if r.Program != Version {
		return problem.At(r.Path, 0, "", "was made by version %s, this is %s: run the shards again", r.Program, Version)
	}
	app := newApp(c.App.Writer, c.App.ErrWriter)
	prepare(app.Commands)
	words := slices.Concat([]string{app.Name}, strings.Fields(r.Command), []string{"--out=" + out}, r.Args)
	if leaf, _ := commandOf(app, words); leaf == nil || findFlag(leaf, "shard") == nil {
		return problem.At(r.Path, 0, "", "is of the command %q, which has no shards", r.Command)
	}
	return app.RunContext(context.WithValue(c.Context, mergedKey{}, records), words)
}

// gatherStudy brings the cells of a study's shards together.
func (d division) gatherStudy(c *cli.Context) error {
	parts, err := made[study.Part](d.merged)
	if err != nil {
		return err
	}
	return study.Gather(c.String("out"), d.merged, parts)
}

// gatherVolumes brings the volumes of an import's shards together and refuses what is not
// what they wrote.
func (d division) gatherVolumes(out string) error {
	parts, err := made[map[string]string](d.merged)
	if err != nil {
		return err
	}
	var problems problem.List
	for i, part := range parts {
		from := d.merged[i].Out()
		for _, name := range slices.Sorted(maps.Keys(part)) {
			fingerprint := part[name]
			if !filepath.IsLocal(name) {
				return problem.At(d.merged[i].Path, 0, "", "names %q, which lies outside the data set", name)
			}
			path := filepath.Join(out, filepath.FromSlash(name))
			if nifti.Note(path) != fingerprint && filepath.Clean(from) != filepath.Clean(out) {
				if err := copyFile(path, filepath.Join(from, filepath.FromSlash(name))); err != nil {
					return fmt.Errorf("%s: %w", d.merged[i].Path, err)
				}
			}
			if nifti.Note(path) != fingerprint {
				problems.Add(path, 0, "", "is not the volume that %s wrote: run that shard again", d.merged[i].Path)
			}
		}
	}
	return problems.Err()
}

func copyFile(to, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return problem.File(from, err)
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return err
	}
	return atomicfile.Write(to, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}

// importInputs are what an import depends on.
func importInputs(o importer.Options, scans map[string]string) (map[string]string, error) {
	return sums(map[string]string{"the scans": shard.Sum(scans)}, map[string]string{"the boxes": o.Boxes, "the masks": o.Masks, "the reports": o.Reports})
}

// sums adds the hashes of files and folders to inputs, but for those without a path.
func sums(inputs, paths map[string]string) (map[string]string, error) {
	for name, path := range paths {
		if path == "" {
			continue
		}
		sum, err := shard.SumFile(path)
		if err != nil {
			return nil, err
		}
		inputs[name] = sum
	}
	return inputs, nil
}

// froc divides the replicates and permutations of an evaluation, or puts them together. It
// returns what they depend on.
func (d division) froc(c *cli.Context, o *frocreport.Options) (map[string]string, error) {
	if d.Whole() && d.merged == nil {
		return nil, nil
	}
	switch {
	case c.String("out") == "":
		return nil, usageError("--shard %s needs --out FILE, after which the shard's file is named", d.Spec)
	case o.Resample.Replicates == 0:
		return nil, usageError("--shard %s: with --bootstrap 0 there is nothing to divide", d.Spec)
	}
	files := map[string]string{"the ground truth": o.Truth.GroundTruth, "the images": o.Truth.Images, "the excluded": o.Truth.Excluded}
	for _, s := range o.Systems {
		for i, path := range append([]string{s.Path}, s.More...) {
			files[fmt.Sprintf("the predictions of %s (%d)", s.Name, i+1)] = path
		}
	}
	for _, path := range files {
		if path == frocio.Stdin {
			return nil, usageError("--shard %s: every shard and merge read the files, standard input can be read once", d.Spec)
		}
	}
	inputs, err := sums(map[string]string{}, files)
	if err != nil {
		return nil, err
	}
	o.Resample.Division = &resample.Division{Share: d.Index - 1, Shares: d.Count}
	if d.merged == nil {
		return inputs, nil
	}
	o.Resample.Division.Shares = len(d.merged)
	if o.Resample.Division.All, err = made[[]resample.Values](d.merged); err != nil {
		return nil, err
	}
	return inputs, d.check(inputs)
}
