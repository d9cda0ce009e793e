// Package scaffold begins plugin projects: small complete ones that build, pass their
// own test and keep every rule of the stage protocol with no edit.
package scaffold

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"go/format"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"unicode"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

//go:embed templates
var templates embed.FS

// Options of Write.
type Options struct {
	// Kind is one of Kinds.
	Kind string
	// Dir to make; its last element is the plugin's name.
	Dir string
	// Language is go or python.
	Language string
	// Pure makes a Go head without torch. A Go text encoder has none in any case.
	Pure bool
	// SDK is the checkout of this project that a Go plugin is built against.
	SDK string
	// Python is the interpreter that has torch, grpcio and protobuf.
	Python string
	// Host is the program that the Makefile calls.
	Host string
}

// ErrOptions is returned for options that no project can be made of.
var ErrOptions = errors.New("cannot begin a plugin")

// Kinds are the projects there are: a kind of stage, or detector, which is a head that
// finds boxes.
var Kinds = []string{"head", "detector", "fusion", "encoder", "text"}

// goVersion of the projects: the SDK's own.
const goVersion = "1.26.0"

// modulePath is how a checkout of the project is recognised.
const modulePath = "github.com/alignedfusion/alignedfusion"

type values struct {
	// Flag is the kind of stage, as train's flag names it.
	Name, Kind, Flag, Class string
	GoVersion, SDK          string
	Torch                   bool
	Python, Host            string
}

// Write makes the project and returns the files it has written, relative to Dir. It
// refuses a folder that exists and is not empty; after an error nothing is left.
func Write(o Options) (written []string, err error) {
	v := values{Name: filepath.Base(filepath.Clean(o.Dir)), Kind: o.Kind, Flag: o.Kind, GoVersion: goVersion,
		SDK: o.SDK, Python: o.Python, Host: o.Host, Torch: o.Kind != "text" && !o.Pure}
	switch {
	case !slices.Contains(Kinds, o.Kind):
		return nil, fmt.Errorf("%w: kind %q given%s; there are %s", ErrOptions, o.Kind, nearest.Meant(o.Kind, Kinds), strings.Join(Kinds, ", "))
	case o.Language != "go" && o.Language != "python":
		return nil, fmt.Errorf("%w: language %q given, want go or python", ErrOptions, o.Language)
	case o.Pure && (o.Language != "go" || o.Kind != "head" && o.Kind != "text"):
		return nil, fmt.Errorf("%w: without torch there is a head and a text encoder in Go, not a %s in %s", ErrOptions, o.Kind, o.Language)
	case !validName(v.Name):
		return nil, fmt.Errorf("%w: name %q: want letters, digits, - and _, a letter first", ErrOptions, v.Name)
	}
	v.Class = strings.ToUpper(o.Kind[:1]) + o.Kind[1:]
	if o.Kind == "detector" {
		v.Flag = "head"
	}
	files := map[string][]byte{}
	if o.Language == "go" {
		if err := checkSDK(o.SDK, v.Torch); err != nil {
			return nil, err
		}
		err = addGo(files, v, o.Pure)
	} else {
		err = addPython(files, v)
	}
	if err != nil {
		return nil, err
	}
	return place(o.Dir, files)
}

func validName(name string) bool {
	for i, r := range name {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r) && r != '-' && r != '_') {
			return false
		}
	}
	return name != ""
}

// checkSDK checks that a folder is a checkout of this project, set up if torch is used.
func checkSDK(dir string, torch bool) error {
	if dir == "" {
		return fmt.Errorf("%w: a Go plugin is built against a checkout of %s, and the program lies in none; give one with --sdk", ErrOptions, modulePath)
	}
	if !IsCheckout(dir) {
		return fmt.Errorf("%w: %q is no checkout of %s: a Go plugin is built against one; give it with --sdk", ErrOptions, dir, modulePath)
	}
	if _, err := os.Stat(filepath.Join(dir, "build", "gotch", "go.mod")); torch && err != nil {
		return fmt.Errorf("%w: %s has no gotch fitted to this machine's libtorch yet: run `make setup` there", ErrOptions, dir)
	}
	return nil
}

// IsCheckout reports whether dir is a checkout of this project.
func IsCheckout(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	line, _, _ := strings.Cut(string(text), "\n")
	return err == nil && strings.TrimSpace(line) == "module "+modulePath
}

func addGo(files map[string][]byte, v values, pure bool) error {
	program := v.Kind
	if pure && v.Kind == "head" {
		program = "purehead"
	}
	for name, source := range map[string]string{
		"main.go": program + ".go", "main_test.go": "main_test.go", "go.mod": "go.mod", "go.work": "go.work",
		"Makefile": "Makefile", "README.md": "README.md", ".gitignore": "gitignore",
	} {
		text, err := render("templates/go/"+source+".tmpl", v)
		if err != nil {
			return err
		}
		files[name] = text
	}
	return nil
}

func addPython(files map[string][]byte, v values) error {
	for name, source := range map[string]string{
		"plugin.py": v.Kind + ".py", "test_plugin.py": "test_plugin.py", "plugin.yaml": "plugin.yaml",
		"Makefile": "Makefile", "README.md": "README.md", ".gitignore": "gitignore",
	} {
		text, err := render("templates/python/"+source+".tmpl", v)
		if err != nil {
			return err
		}
		files[name] = text
	}
	return nil
}

func render(path string, v values) ([]byte, error) {
	// Go has braces of its own.
	t, err := template.New(filepath.Base(path)).Delims("«", "»").ParseFS(templates, path)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, v); err != nil {
		return nil, err
	}
	if strings.HasSuffix(path, ".go.tmpl") {
		return format.Source(out.Bytes())
	}
	return out.Bytes(), nil
}

// place writes all files into a new folder beside the wanted one and renames it.
func place(dir string, files map[string][]byte) ([]string, error) {
	var names []string
	err := atomicfile.Folder(dir, func(temporary string) error {
		for name, text := range files {
			path := filepath.Join(temporary, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, text, 0o666)); err != nil {
				return err
			}
			names = append(names, name)
		}
		return nil
	})
	if errors.Is(err, atomicfile.ErrNotEmpty) {
		err = fmt.Errorf("%w: %w", ErrOptions, err)
	}
	slices.Sort(names)
	return names, err
}
