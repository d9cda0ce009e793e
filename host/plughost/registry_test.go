//go:build linux

package plughost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func install(t *testing.T, program, dir string) *Found {
	t.Helper()
	f, _, err := Install(t.Context(), filepath.Join(testBinaries, program), InstallOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// isolate keeps a test away from the user's own plugin folders.
func isolate(t *testing.T) (userDir string) {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv(EnvPluginDir, "")
	t.Setenv(EnvAllowUnregistered, "")
	t.Chdir(t.TempDir())
	return UserDir()
}

func TestInstallFindStartRemove(t *testing.T) {
	dir := isolate(t)
	f := install(t, "linear", "")
	if f.Path != filepath.Join(dir, "linear") {
		t.Errorf("installed at %s", f.Path)
	}
	h := newHost(t, Options{})
	p, err := h.Start(t.Context(), "linear")
	if err != nil {
		t.Fatal(err)
	}
	if p.Status() != Registered || len(p.Hashes()) != 2 {
		t.Errorf("status %s, hashes %v", p.Status(), p.Hashes())
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	install(t, "linear", "") // again: no change, no complaint
	if err := Remove(t.Context(), "linear", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Find("linear", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("after removal: %v", err)
	}
	if err := Remove(t.Context(), "linear", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("removing it twice: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "[a-z]*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != LockFile {
		t.Errorf("left behind: %v", left)
	}
}

func TestChangedPluginsAreNamedAndNotRun(t *testing.T) {
	isolate(t)
	for name, change := range map[string]func(t *testing.T, dir string){
		"SHA-256": func(t *testing.T, dir string) {
			f, err := os.OpenFile(filepath.Join(dir, "linear"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString("x"); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"is new": func(t *testing.T, dir string) {
			layout := filepath.Join(dir, LayoutFile)
			text, err := os.ReadFile(layout)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), "files:\n", "files:\n- extra.py\n", 1)
			if changed == string(text) {
				t.Fatalf("no files in %s", text)
			}
			if err := os.WriteFile(layout, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "extra.py"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"anyone may write": func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "linear"), 0o777); err != nil {
				t.Fatal(err)
			}
		},
		"symbolic link": func(t *testing.T, dir string) {
			program := filepath.Join(dir, "linear")
			if err := os.Rename(program, program+".real"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(program+".real", program); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f := install(t, "linear", dir)
			h := newHost(t, Options{Dirs: []string{dir}})
			change(t, f.Path)
			_, err := h.Start(t.Context(), "linear")
			wantFailure(t, err, "plugin linear", name)
			if !errors.Is(err, ErrChanged) && !errors.Is(err, ErrUnsafe) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestUnregisteredPluginsRunOnlyWhenAllowed(t *testing.T) {
	isolate(t)
	dir := t.TempDir()
	if err := os.Link(filepath.Join(testBinaries, "linear"), filepath.Join(dir, binaryPrefix+"head-linear")); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvPluginDir, dir)
	_, err := newHost(t, Options{}).Start(t.Context(), "linear")
	if !errors.Is(err, ErrUnregistered) {
		t.Errorf("error is %v, want ErrUnregistered", err)
	}
	wantFailure(t, err, "plugin install", "--allow-unregistered")
	for name, o := range map[string]Options{"allowed": {AllowUnregistered: true}, "pointed at": {Dirs: []string{dir}}} {
		if _, err := newHost(t, o).Start(t.Context(), "linear"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newHost(t, Options{}).Start(t.Context(), filepath.Join(dir, binaryPrefix+"head-linear")); err != nil {
		t.Errorf("by path: %v", err)
	}
}

func TestListShowsWhatIsShadowed(t *testing.T) {
	isolate(t)
	first, second := t.TempDir(), t.TempDir()
	install(t, "linear", first)
	install(t, "linear", second)
	install(t, "faulty", second)
	if err := os.WriteFile(filepath.Join(second, "notes.txt"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	all, err := List([]string{first, second})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range all {
		got = append(got, f.Name+" "+filepath.Base(filepath.Dir(f.Path))+" "+f.ShadowedBy)
	}
	want := []string{
		"linear " + filepath.Base(first) + " ",
		"faulty " + filepath.Base(second) + " ",
		"linear " + filepath.Base(second) + " " + filepath.Join(first, "linear"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLayoutErrorsNameFileAndField(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, LayoutFile)
	for text, words := range map[string][]string{
		"name: a b\ncommand: [./x]\nfiles: [x]\n":           {"name", "a b"},
		"name: x\nfiles: [x]\n":                             {"command"},
		"name: x\ncommand: [./x]\n":                         {"files"},
		"name: x\ncommand: [./x]\nfiles: [y]\n":             {"./x", "files"},
		"name: x\ncommand: [../x]\nfiles: [x]\n":            {"outside"},
		"name: x\ncommand: [./x]\nfiles: [x, ../../passwd]": {"outside"},
		"name: x\ncommand: [./x]\nfiles: [x]\nfiels: [y]\n": {"fiels"},
		"name: [\n": {LayoutFile},
		"name: x\ncommand: [./x]\nfiles: [x]\nprotocol: x\n": {"protocol"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := ReadLayout(path)
		if err == nil {
			t.Errorf("%q was accepted", text)
			continue
		}
		for _, w := range append(words, path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %q does not name %q", text, err, w)
			}
		}
	}
}

func TestDescribeWithoutAHandshake(t *testing.T) {
	f, err := Find(filepath.Join(testBinaries, "linear"), nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Describe(t.Context(), f)
	if err != nil || m.Name != "linear" {
		t.Errorf("manifest %+v, error %v", m, err)
	}
	for path, words := range map[string]string{
		"/bin/echo":                            "manifest",
		"/bin/false":                           "exit status 1",
		named(t, "faulty", "exits-at-once"):    "libfoo.so",
		filepath.Join(testBinaries, "no-such"): "",
	} {
		f, err := Find(path, nil)
		if err == nil {
			_, err = Describe(t.Context(), f)
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want %q", path, err, words)
		}
	}
}

func FuzzReadLayout(f *testing.F) {
	f.Add([]byte("name: x\ncommand: [./x]\nfiles: [x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), LayoutFile)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := ReadLayout(path)
		if err == nil && (!validName(l.Name) || len(l.Command) == 0) {
			t.Errorf("accepted %+v", l)
		}
	})
}
