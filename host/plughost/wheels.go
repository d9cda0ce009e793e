package plughost

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// Folders of a plugin in Python: wheelDir has the wheels that came in its package, packageDir
// what pip made of them, which the SDK puts on Python's path. The files of both are the
// plugin's own, and hashed like the others.
const (
	wheelDir   = "wheels"
	packageDir = "packages"
)

// pinned is a line of a file of requirements that names one version, and a comment.
var pinned = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9.+!_-]+)\s*(#.*)?$`)

// separators of a Python package's name count as one and the same.
var separators = regexp.MustCompile(`[-_.]+`)

// requirements are the packages that a plugin in Python names, as name==version in the
// spelling of wheels' names. Each has to name one version.
func (l *Layout) requirements(folder string) ([]string, error) {
	if l.Requirements == "" {
		return nil, nil
	}
	if !slices.Contains(l.Files, l.Requirements) {
		return nil, fmt.Errorf("%s: requirements: %q is not among the files", LayoutFile, l.Requirements)
	}
	text, err := os.ReadFile(filepath.Join(folder, l.Requirements))
	if err != nil {
		return nil, err
	}
	var out []string
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := pinned.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%s:%d: %q, want one version: name==1.2.3", l.Requirements, i+1, line)
		}
		out = append(out, wheelName(m[1])+"=="+m[2])
	}
	return out, nil
}

func wheelName(name string) string { return strings.ToLower(separators.ReplaceAllString(name, "_")) }

// takeWheels copies the wheels of a folder that `pip download` filled into the plugin's copy
// and adds them to its files. Every requirement has to have its wheel.
func (l *Layout) takeWheels(from, folder string) error {
	wanted, err := l.requirements(folder)
	if err != nil {
		return err
	}
	if len(wanted) == 0 {
		return fault.Errorf(fault.Usage, "--wheelhouse %s: %s names no requirements: FILE, so no wheel is needed", from, LayoutFile)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fault.Errorf(fault.Usage, "--wheelhouse: %w", err)
	}
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	there := map[string]bool{}
	for _, e := range entries {
		parts := strings.Split(e.Name(), "-")
		if filepath.Ext(e.Name()) != ".whl" || len(parts) < 5 {
			continue
		}
		there[wheelName(parts[0])+"=="+parts[1]] = true
		to := filepath.Join(wheelDir, e.Name())
		if slices.Contains(l.Files, to) {
			continue
		}
		if err := copyFile(root, e.Name(), filepath.Join(folder, to)); err != nil {
			return err
		}
		l.Files = append(l.Files, to)
	}
	for _, w := range wanted {
		if !there[w] {
			return fault.Errorf(fault.Usage, "--wheelhouse %s has no wheel of %s: `pip download --only-binary :all: -r %s -d %s` fetches them", from, w, l.Requirements, from)
		}
	}
	return nil
}

// installWheels lets the plugin's own interpreter's pip put what the wheels among its files
// hold into packageDir of a copy of the plugin, and returns what came, below the folder. It
// asks for nothing from anywhere, and nothing of the wheels runs.
func (f *Found) installWheels(ctx context.Context, folder string) ([]string, error) {
	if f.Layout == nil || f.Layout.Requirements == "" || !slices.ContainsFunc(f.Layout.Files, inFolder(wheelDir)) || slices.ContainsFunc(f.Layout.Files, inFolder(packageDir)) {
		return nil, nil
	}
	if _, err := f.Layout.requirements(folder); err != nil {
		return nil, err
	}
	python, err := exec.LookPath(f.Command[0])
	if err != nil {
		return nil, err
	}
	pip := exec.CommandContext(ctx, python, "-I", "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-compile",
		"--only-binary", ":all:", "--find-links", wheelDir, "--target", packageDir, "-r", f.Layout.Requirements)
	pip.Dir = folder
	if out, err := pip.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("its packages (%s) were not installed by %s -m pip: %w\n%s", f.Layout.Requirements, python, err, printable(lastLines(string(out), 6)))
	}
	var files []string
	err = filepath.WalkDir(filepath.Join(folder, packageDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(folder, path)
		files = append(files, relative)
		return err
	})
	return files, err
}

// inFolder reports whether a file of a plugin lies in one of its folders.
func inFolder(dir string) func(name string) bool {
	return func(name string) bool { return strings.HasPrefix(filepath.ToSlash(name), dir+"/") }
}

// with is the plugin with further files, below its folder.
func (f *Found) with(files []string) *Found {
	if len(files) == 0 {
		return f
	}
	out, layout := *f, *f.Layout
	layout.Files = slices.Concat(layout.Files, files)
	out.Layout, out.Files = &layout, slices.Clone(f.Files)
	for _, name := range files {
		out.Files = append(out.Files, filepath.Join(f.Path, name))
	}
	return &out
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
