package plughost

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// EnvPluginDir names the environment variable with further plugin folders, separated
// like PATH.
const EnvPluginDir = "ALIGNEDFUSION_PLUGIN_DIR"

// LayoutFile describes a plugin that is a folder.
const LayoutFile = "plugin.yaml"

// binaryPrefix may stand before a plugin's name in the name of its file.
const binaryPrefix = "alignedfusion-plugin-"

// Layout is the content of a LayoutFile.
type Layout struct {
	Name    string `yaml:"name"`
	Version string `yaml:"version"`
	// Kinds of the stages: encoder, text, fusion, head.
	Kinds []string `yaml:"kinds"`
	// Protocol lists the majors of the stage protocol the plugin speaks.
	Protocol []int `yaml:"protocol"`
	// Command starts the plugin, in its folder. Its first word is a path within the
	// folder (./plugin), an interpreter's absolute path, or a name looked up in PATH.
	Command []string `yaml:"command"`
	// Files are all the files the plugin is made of, relative to its folder.
	Files     []string `yaml:"files"`
	License   string   `yaml:"license"`
	ModelCard string   `yaml:"model_card"`
	// Requirements is the one of Files that names the Python packages it needs besides those
	// of the SDK, each with its version.
	Requirements string `yaml:"requirements,omitempty"`
}

// Found is a plugin on disk.
type Found struct {
	// Name it is called by.
	Name string
	// Path is the absolute path of the program or of the folder.
	Path string
	// Dir is the plugin folder it was found in, "" when it was given as a path.
	Dir string
	// Command starts it.
	Command []string
	// WorkDir is where it runs, "" for the host's own.
	WorkDir string
	// Files are the absolute paths of all its files.
	Files []string
	// Layout is nil for a plain program.
	Layout *Layout
	// ShadowedBy is the path of the plugin of the same name that is found first.
	ShadowedBy string

	// origin is where the program was before Install moved it, "" for others: its libraries
	// are found from there.
	origin string
	// trusted: its folder was given by the user or lies beside the host's program.
	trusted bool
}

// folder is a plugin folder of the search path.
type folder struct {
	path    string
	trusted bool
}

// SearchPath returns the plugin folders in the order they are searched: the given ones
// (--plugin-dir), $ALIGNEDFUSION_PLUGIN_DIR, ./.alignedfusion/plugins,
// $XDG_DATA_HOME/alignedfusion/plugins, and plugins/ beside the host's program.
func SearchPath(dirs []string) []string {
	var out []string
	for _, f := range folders(dirs) {
		out = append(out, f.path)
	}
	return out
}

func folders(dirs []string) []folder {
	var all []folder
	for _, dir := range dirs {
		all = append(all, folder{dir, true})
	}
	for _, dir := range filepath.SplitList(os.Getenv(EnvPluginDir)) {
		all = append(all, folder{dir, false})
	}
	all = append(all, folder{filepath.Join(".alignedfusion", "plugins"), false})
	if dir := UserDir(); dir != "" {
		all = append(all, folder{dir, false})
	}
	if program, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(program); err == nil {
			program = real
		}
		all = append(all, folder{filepath.Join(filepath.Dir(program), "plugins"), true})
	}
	var unique []folder
	seen := map[string]bool{}
	for _, f := range all {
		abs, err := filepath.Abs(f.path)
		if err != nil || f.path == "" || seen[abs] {
			continue
		}
		seen[abs] = true
		unique = append(unique, folder{abs, f.trusted})
	}
	return unique
}

// UserDir is the user's own plugin folder; `plugin install` writes there. It is ""
// without a home.
func UserDir() string {
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "alignedfusion", "plugins")
}

// Find finds a plugin by name in the search path, or by path when ref has a slash.
// It fails with ErrNotFound, naming where it has looked and the nearest names.
func Find(ref string, dirs []string) (*Found, error) {
	if ref == "" {
		return nil, fmt.Errorf("%w: no name given", ErrNotFound)
	}
	if strings.ContainsRune(ref, filepath.Separator) || ref == "." || ref == ".." {
		path, err := filepath.Abs(ref)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return inspect(path, "")
	}
	for _, folder := range folders(dirs) {
		for _, name := range fileNames(ref) {
			full := filepath.Join(folder.path, name)
			info, err := os.Stat(full)
			if err != nil {
				continue
			}
			if info.IsDir() {
				if _, err := os.Stat(filepath.Join(full, LayoutFile)); err != nil {
					continue
				}
			}
			f, err := inspect(full, folder.path)
			if err != nil {
				return nil, err
			}
			f.Name, f.trusted = ref, folder.trusted
			return f, nil
		}
	}
	all, _ := List(dirs)
	var names []string
	for _, f := range all {
		if f.ShadowedBy == "" {
			names = append(names, f.Name)
		}
	}
	known := "none is installed"
	if len(names) > 0 {
		known = "there are " + strings.Join(names, ", ")
	}
	return nil, fmt.Errorf("%w: no plugin %q in %s%s; %s; a path needs a slash (./%s)",
		ErrNotFound, ref, strings.Join(SearchPath(dirs), ", "), nearest.Meant(ref, names), known, ref)
}

// fileNames lists the names a plugin's file may have in a folder.
func fileNames(name string) []string {
	out := []string{name, binaryPrefix + name}
	for _, kind := range []string{"encoder", "text", "fusion", "head"} {
		out = append(out, binaryPrefix+kind+"-"+name)
	}
	return out
}

// pluginName is the name a file is called by.
func pluginName(file string) string {
	name := strings.TrimPrefix(filepath.Base(file), binaryPrefix)
	if name == filepath.Base(file) {
		return name
	}
	for _, kind := range []string{"encoder-", "text-", "fusion-", "head-"} {
		name = strings.TrimPrefix(name, kind)
	}
	return name
}

// inspect looks at a program or a folder.
func inspect(path, dir string) (*Found, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("plugin %s is not a file", path)
		}
		return &Found{Name: pluginName(path), Path: path, Dir: dir, Command: []string{path}, Files: []string{path}}, nil
	}
	layout, err := ReadLayout(filepath.Join(path, LayoutFile))
	if err != nil {
		return nil, err
	}
	f := &Found{Name: layout.Name, Path: path, Dir: dir, WorkDir: path, Command: append([]string(nil), layout.Command...), Layout: layout}
	if first := f.Command[0]; strings.ContainsRune(first, filepath.Separator) && !filepath.IsAbs(first) {
		f.Command[0] = filepath.Join(path, first)
	}
	f.Files = []string{filepath.Join(path, LayoutFile)}
	for _, name := range layout.Files {
		f.Files = append(f.Files, filepath.Join(path, name))
	}
	return f, nil
}

// relocate says where the files of a copy of a plugin are.
func (f *Found) relocate(from *Found) {
	f.Files = nil
	for _, path := range from.Files {
		moved := filepath.Join(f.Path, from.inside(path))
		if f.Layout == nil {
			moved = f.Path
		}
		if f.Files = append(f.Files, moved); path == from.Command[0] {
			f.Command = append([]string{moved}, from.Command[1:]...)
		}
	}
}

// agrees refuses a manifest that is not for showing, or calls the plugin otherwise than its
// LayoutFile does.
func (f *Found) agrees(m sdk.Manifest) error {
	l := f.Layout
	if err := plainManifest(m); err != nil {
		return err
	}
	switch {
	case l == nil:
	case l.Name != m.Name:
		return fmt.Errorf("%s says name: %s, the program calls itself %q; make them the same", LayoutFile, l.Name, m.Name)
	case l.Version != "" && l.Version != m.Version:
		return fmt.Errorf("%s says version: %s, the program says %q; make them the same", LayoutFile, l.Version, m.Version)
	case len(l.Kinds) > 0 && !sameSet(l.Kinds, kindsOf(m)):
		return fmt.Errorf("%s says kinds: [%s], the program has [%s]; make them the same", LayoutFile, strings.Join(l.Kinds, ", "), strings.Join(kindsOf(m), ", "))
	}
	return nil
}

// kindsOf lists the kinds of a plugin's stages, once each, in their order.
func kindsOf(m sdk.Manifest) (out []string) {
	for _, s := range m.Stages {
		if !slices.Contains(out, string(s.Kind)) {
			out = append(out, string(s.Kind))
		}
	}
	return out
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Compact(slices.Sorted(slices.Values(a))), slices.Compact(slices.Sorted(slices.Values(b))))
}

// ReadLayout reads and checks a LayoutFile. Errors have file and line.
func ReadLayout(file string) (*Layout, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "this is no folder of a plugin (`alignedfusion plugin new` begins one): %w", err)
	}
	var l Layout
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&l); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: "+format, append([]any{file}, args...)...)
	}
	switch {
	case !validName(l.Name):
		return nil, wrong("name: %q given, want letters, digits, - and _", l.Name)
	case printable(string(data)) != string(data) && !bytes.Contains(data, []byte("\r\n")):
		return nil, wrong("it has characters that are not for showing (controls, directions of writing)")
	case len(l.Protocol) > 0 && !slices.Contains(l.Protocol, sdk.ProtocolMajor):
		return nil, wrong("protocol: %v given, this host speaks %d; get the plugin built for it", l.Protocol, sdk.ProtocolMajor)
	case len(l.Command) == 0:
		return nil, wrong("command: missing, want a list like [./%s] or [python3, plugin.py]", l.Name)
	case len(l.Files) == 0:
		return nil, wrong("files: missing, want every file the plugin is made of")
	}
	for _, name := range l.Files {
		if !filepath.IsLocal(name) {
			return nil, wrong("files: %q lies outside the folder", name)
		}
	}
	if first := l.Command[0]; strings.ContainsRune(first, filepath.Separator) && !filepath.IsAbs(first) {
		if !filepath.IsLocal(first) {
			return nil, wrong("command: %q lies outside the folder", first)
		}
		found := false
		for _, name := range l.Files {
			found = found || filepath.Clean(name) == filepath.Clean(first)
		}
		if !found {
			return nil, wrong("command: %q is not among the files", first)
		}
	}
	return &l, nil
}

func validName(name string) bool {
	for _, r := range name {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return false
		}
	}
	return name != "" && name[0] != '-'
}

// List lists every plugin of the search path, in its order; one that is shadowed by an
// earlier one of its name says so. Problems of single plugins are joined in the error,
// next to the others found.
func List(dirs []string) ([]Found, error) {
	var out []Found
	var problems []error
	first := map[string]string{}
	for _, folder := range folders(dirs) {
		dir := folder.path
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				problems = append(problems, err)
			}
			continue
		}
		sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			info, err := os.Stat(path)
			if err != nil || strings.HasPrefix(entry.Name(), ".") {
				continue
			}
			if info.IsDir() {
				if _, err := os.Stat(filepath.Join(path, LayoutFile)); err != nil {
					continue
				}
			} else if info.Mode()&0o111 == 0 || !validName(entry.Name()) {
				continue // a lock file, weights, a note
			}
			f, err := inspect(path, dir)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			f.trusted = folder.trusted
			f.ShadowedBy = first[f.Name]
			if f.ShadowedBy == "" {
				first[f.Name] = path
			}
			out = append(out, *f)
		}
	}
	return out, errors.Join(problems...)
}
