package shard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Version is the schema_version of a shard's file.
const Version = 1

// Record is what a shard leaves: whose part it is, what it was made from, what came of it.
type Record struct {
	SchemaVersion int `json:"schema_version"`
	// Program is the version of alignedfusion.
	Program string `json:"program"`
	// Command are the words of the command, Args its flags and arguments without --shard,
	// --out and --device.
	Command string   `json:"command"`
	Args    []string `json:"args"`
	// Shard counts from 1 to Shards.
	Shard  int `json:"shard"`
	Shards int `json:"shards"`
	// Inputs name what the result depends on: data, plugins, configuration, each with a hash.
	Inputs map[string]string `json:"inputs"`
	// SHA256 is that of Made without blanks, which is the command's own.
	SHA256 string          `json:"sha256"`
	Made   json.RawMessage `json:"made"`

	// Path is where it was read.
	Path string `json:"-"`
}

// Path is the file of a shard of the command that writes out.
func Path(out string, s Spec) string {
	return fmt.Sprintf("%s.shard-%d-of-%d", filepath.Clean(out), s.Index, s.Count)
}

// Out is what the shard's command was told to write, as its file's name says.
func (r *Record) Out() string {
	return strings.TrimSuffix(r.Path, fmt.Sprintf(".shard-%d-of-%d", r.Shard, r.Shards))
}

// Sum is the SHA-256 of a value's JSON, for [Record.Inputs].
func Sum(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return "unknown: " + err.Error() // of a value that has no JSON
	}
	return digest.Of(data)
}

// SumFile is the SHA-256 of a file; of a folder, that of its files' names and sizes.
func SumFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", problem.File(path, err)
	}
	if !info.IsDir() {
		sum, err := digest.File(path)
		if err != nil {
			return "", problem.File(path, err)
		}
		return sum, nil
	}
	var list strings.Builder
	err = filepath.WalkDir(path, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			rel, _ := filepath.Rel(path, name)
			fmt.Fprintln(&list, rel, info.Size())
		}
		return err
	})
	if err != nil {
		return "", problem.File(path, err)
	}
	return digest.Of(list.String()), nil
}

// Write leaves what a shard made at path, whole or not at all.
func (r *Record) Write(path string, made any) error {
	data, err := json.Marshal(made)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	r.SchemaVersion, r.Made, r.SHA256 = Version, data, digest.Of(data)
	if data, err = json.Marshal(r); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.WriteBytes(path, append(data, '\n'))
}

// read reads the file of a shard.
func read(path string) (*Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, problem.File(path, err)
	}
	r := &Record{Path: path}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, problem.At(path, 0, "", "is no shard's file, or a torn one: %v", err)
	}
	var made bytes.Buffer
	switch {
	case r.SchemaVersion != Version || r.Command == "":
		return nil, problem.At(path, 0, "", "is no shard's file of this program: schema_version %d, want %d with a command", r.SchemaVersion, Version)
	case r.Shards < 1 || r.Shard < 1 || r.Shard > r.Shards:
		return nil, problem.At(path, 0, "", "says that it is shard %d of %d", r.Shard, r.Shards)
	case json.Compact(&made, r.Made) != nil || digest.Of(made.Bytes()) != r.SHA256:
		return nil, problem.At(path, 0, "", "has changed since it was written: its content and its sha256 do not go together; run the shard again")
	}
	return r, nil
}

// Read reads the files of all shards of one command, in any order, and returns them in that of
// their numbers. What is missing, doubled, or made from something else than the first is
// refused by name.
func Read(paths []string) ([]*Record, error) {
	var problems problem.List
	var all []*Record
	for _, path := range paths {
		r, err := read(path)
		if err != nil {
			problems.AddError(path, 0, "", err)
			continue
		}
		all = append(all, r)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no shard's file is given", problem.ErrData)
	}
	first := all[0]
	at := map[int]*Record{}
	for _, r := range all {
		if what := first.differs(r); what != "" {
			problems.Add(r.Path, 0, "", "does not go with %s: %s; run one of them again", first.Path, what)
			continue
		}
		if other := at[r.Shard]; other != nil {
			problems.Add(r.Path, 0, "", "is shard %d of %d, as is %s: give each once", r.Shard, r.Shards, other.Path)
			continue
		}
		at[r.Shard] = r
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	var missing []string
	out := make([]*Record, 0, first.Shards)
	for i := range first.Shards {
		if at[i+1] == nil {
			missing = append(missing, filepath.Base(Path(first.Out(), Spec{i + 1, first.Shards})))
			continue
		}
		out = append(out, at[i+1])
	}
	if n := len(missing); n > 0 {
		if n > 10 {
			missing = append(missing[:10], "…")
		}
		return nil, fmt.Errorf("%w: %d of %d shards are missing: %s", problem.ErrData, n, first.Shards, strings.Join(missing, ", "))
	}
	return out, nil
}

// differs says what another shard was made from that this one was not; "" for nothing.
func (r *Record) differs(other *Record) string {
	for _, c := range []struct{ what, first, now string }{
		{"the command", r.Command, other.Command},
		{"the version of the program", r.Program, other.Program},
		{"the number of shards", fmt.Sprint(r.Shards), fmt.Sprint(other.Shards)},
		{"the command line", strings.Join(r.Args, " "), strings.Join(other.Args, " ")},
	} {
		if c.first != c.now {
			return fmt.Sprintf("%s is %q, there %q", c.what, c.now, c.first)
		}
	}
	return Changed(r.Inputs, other.Inputs)
}

// Changed names the first input that is known on both sides and differs; "" for none.
func Changed(then, now map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(then)) {
		if value, ok := now[name]; ok && value != then[name] {
			return fmt.Sprintf("%s: %.12s, there %.12s", name, value, then[name])
		}
	}
	return ""
}
