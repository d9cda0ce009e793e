package plughost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// Listed is a plugin that was found, with what could be learned of it.
type Listed struct {
	Name       string            `json:"name"`
	Version    string            `json:"version,omitempty"`
	Kinds      []string          `json:"kinds,omitempty"`
	Status     string            `json:"status"`
	Problem    string            `json:"problem,omitempty"`
	Path       string            `json:"path"`
	ShadowedBy string            `json:"shadowed_by,omitempty"`
	Files      map[string]string `json:"files,omitempty"`
}

// Overview lists the plugins of dirs and the standard folders, shadowed ones included. A
// plugin that is not registered is not run to ask for its version. The error is about
// folders that cannot be read, and leaves the others listed; with a LockFile that is damaged
// nothing is, for nobody knows what was installed.
func Overview(ctx context.Context, dirs []string) ([]Listed, error) {
	found, err := List(dirs)
	var gone []Listed
	for _, dir := range append([]string{"."}, SearchPath(dirs)...) {
		lock, err := readLock(dir)
		if errors.Is(err, errLock) {
			return nil, err
		}
		if err != nil {
			continue // its folder cannot be read either
		}
		for _, name := range slices.Sorted(maps.Keys(lock.Plugins)) {
			here := func(f Found) bool { return f.Name == name && (dir == "." || f.Dir == dir) }
			if !slices.ContainsFunc(found, here) {
				gone = append(gone, Listed{Name: name, Version: lock.Plugins[name].Version, Status: string(Gone), Problem: filepath.Join(dir, LockFile) + " names it"})
			}
		}
	}
	all := make([]Listed, 0, len(found)+len(gone))
	for i := range found {
		all = append(all, found[i].look(ctx))
	}
	return append(all, gone...), err
}

func (f *Found) look(ctx context.Context) Listed {
	status, hashes, err := f.Check(false)
	if err == nil {
		if err = f.LockedHere(hashes); err != nil {
			status = Changed
		}
	}
	out := Listed{Name: f.Name, Status: string(status), Path: f.Path, ShadowedBy: f.ShadowedBy, Files: hashes}
	if err != nil {
		out.Problem = err.Error()
	}
	if f.Layout != nil {
		out.Version, out.Kinds = f.Layout.Version, f.Layout.Kinds
	}
	if err != nil || out.Version != "" {
		return out
	}
	m, err := Describe(ctx, f)
	if err != nil {
		out.Problem = err.Error()
		return out
	}
	out.Version, out.Kinds = m.Version, kindsOf(m)
	return out
}

// Outdated reports whether the plugin is not what was installed, or what LockFile names.
func (l Listed) Outdated() bool { return l.Problem != "" && l.Status != string(Unregistered) }

// WriteTable writes a line per plugin.
func WriteTable(w io.Writer, all []Listed) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "name\tversion\tkinds\tstatus\tpath")
	for _, l := range all {
		status, version := l.Status, l.Version
		if l.ShadowedBy != "" {
			status += ", shadowed by " + l.ShadowedBy
		}
		if l.Outdated() {
			line, _, _ := strings.Cut(l.Problem, "\n")
			status += " (" + line + ")"
		}
		if version == "" {
			version = "?"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", l.Name, version, strings.Join(l.Kinds, ","), status, l.Path)
	}
	return t.Flush()
}
