// Package doctor examines a machine for what alignedfusion needs: libraries,
// plugins, processor, memory, disk. Every finding that is not in order says how
// to mend it.
package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Status is the outcome of one check.
type Status string

// The outcomes: in order; works, but slower or less than it could; does not work.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Finding is the outcome of one check.
type Finding struct {
	// Check is its short name: "libtorch", "plugin a3d".
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Detail is what was found.
	Detail string `json:"detail"`
	// Mend is what to do about it; empty when the status is OK.
	Mend string `json:"mend,omitempty"`
}

// Report is the outcome of an examination.
type Report struct {
	SchemaVersion int       `json:"schema_version"`
	Healthy       bool      `json:"healthy"` // no check failed
	Findings      []Finding `json:"findings"`
}

// Failed counts the checks that failed.
func (r *Report) Failed() int {
	n := 0
	for _, f := range r.Findings {
		if f.Status == Fail {
			n++
		}
	}
	return n
}

// Options of an examination. The zero value examines this machine.
type Options struct {
	// PluginDirs are searched for plugins before the standard folders.
	PluginDirs []string
	// WorkDir is where runs are to be written; empty means the current folder.
	WorkDir string
	// Root stands for "/" where facts about the machine and libraries are read.
	Root string
	// Start starts a plugin, asks for its manifest, and ends it; nil starts it for
	// real, with StartTimeout.
	Start func(context.Context, plughost.Found) (sdk.Manifest, error)
	// StartTimeout bounds the start of one plugin; 0 means plughost.DefaultStartTimeout.
	StartTimeout time.Duration
}

// Examine runs every check. It changes nothing but for a file that it writes to
// WorkDir and removes again.
func Examine(ctx context.Context, o Options) *Report {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.WorkDir == "" {
		o.WorkDir = "."
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = plughost.DefaultStartTimeout
	}
	if o.Start == nil {
		o.Start = func(ctx context.Context, found plughost.Found) (sdk.Manifest, error) {
			return describe(ctx, found, o.StartTimeout)
		}
	}
	m := machine{root: o.Root}
	r := &Report{SchemaVersion: 1}
	add := func(found ...Finding) { r.Findings = append(r.Findings, found...) }
	add(m.processor(), m.memory(), sharedMemory(), workFolder(o.WorkDir), diskSpace(o.WorkDir))
	plugins, problems := plughost.List(o.PluginDirs)
	torch, unread := m.torchPlugins(plugins)
	add(unread...)
	add(libraries(torch)...)
	add(m.gpu(torch))
	if problems != nil {
		add(Finding{"plugin folders", Warn, problems.Error(), "mend or remove what cannot be read"})
	}
	unable := lacking(torch)
	whole := slices.DeleteFunc(slices.Clone(plugins), func(p plughost.Found) bool { return slices.Contains(unable, p.Name) })
	var started []Finding
	if len(whole) > 0 || len(plugins) == 0 {
		started = startPlugins(ctx, whole, o.PluginDirs, o.Start)
	}
	if !slices.ContainsFunc(started, func(f Finding) bool { return f.Status == OK }) {
		add(Finding{"the program alone", OK, "froc, compare, report, view, data, attributes, export, merge and weights work without plugins", ""})
	}
	add(started...)
	add(buildTools(ctx)...)
	r.Healthy = r.Failed() == 0
	return r
}

// describe starts one plugin for real.
func describe(ctx context.Context, found plughost.Found, timeout time.Duration) (sdk.Manifest, error) {
	host, err := plughost.New(plughost.Options{StartTimeout: timeout, CallTimeout: timeout, Threads: 1})
	if err != nil {
		return sdk.Manifest{}, err
	}
	defer host.Close()
	plugin, err := host.Start(ctx, found.Path)
	if err != nil {
		return sdk.Manifest{}, err
	}
	return plugin.Manifest(), nil
}

// startPlugins starts every plugin that would be used and asks what it serves.
func startPlugins(ctx context.Context, plugins []plughost.Found, dirs []string, start func(context.Context, plughost.Found) (sdk.Manifest, error)) []Finding {
	if len(plugins) == 0 {
		return []Finding{{"plugins", Fail, fmt.Sprintf("none found in %v", plughost.SearchPath(dirs)),
			"build them with `make setup`, install one with `alignedfusion plugin install`, or name their folder with --plugin-dir"}}
	}
	var found []Finding
	for _, p := range plugins {
		check := "plugin " + p.Name
		if p.ShadowedBy != "" {
			found = append(found, Finding{check, Warn, p.Path + " is hidden by " + p.ShadowedBy, "remove or rename one of them"})
			continue
		}
		began := time.Now()
		manifest, err := start(ctx, p)
		if err != nil {
			found = append(found, Finding{check, Fail, err.Error(), startHint(p)})
			continue
		}
		stages := ""
		for i, s := range manifest.Stages {
			if i > 0 {
				stages += ", "
			}
			stages += fmt.Sprintf("%s (%s)", s.Name, s.Kind)
		}
		detail := fmt.Sprintf("%s %s answers after %.1f s; serves %s", manifest.Name, manifest.Version, time.Since(began).Seconds(), stages)
		if manifest.Runtime != "" {
			detail += "; " + manifest.Runtime
		}
		found = append(found, Finding{Check: check, Status: OK, Detail: detail})
	}
	return found
}

func startHint(p plughost.Found) string {
	if p.Layout != nil {
		return "see its own instructions in " + p.Path
	}
	return "if it is one of this project's, run `make setup` again; else run it once by hand to see what it says: " + p.Path
}

// workFolder checks that runs can be written.
func workFolder(dir string) Finding {
	abs, err := filepath.Abs(dir)
	if err != nil {
		abs = dir
	}
	probe, err := os.CreateTemp(dir, ".alignedfusion-doctor-*")
	if err != nil {
		return Finding{"working folder", Fail, fmt.Sprintf("%s cannot be written: %v", abs, err), "change to a folder you may write, or give --out one"}
	}
	closeErr := probe.Close()
	if err := os.Remove(probe.Name()); err != nil || closeErr != nil {
		return Finding{"working folder", Warn, fmt.Sprintf("%s: a test file could not be closed and removed: %v %v", abs, closeErr, err), "check the file system"}
	}
	return Finding{Check: "working folder", Status: OK, Detail: abs + " can be written"}
}
