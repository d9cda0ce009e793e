package main

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestWhatNothingNeedsIsUnused(t *testing.T) {
	set := func(names ...string) map[string]bool {
		out := map[string]bool{}
		for _, name := range names {
			out[name] = true
		}
		return out
	}
	all := func() map[string]*linked {
		return map[string]*linked{
			"":        {needed: []string{"torch"}, undefined: set("tensor")},
			"torch":   {needed: []string{"maths", "numa", "picture", "codec"}, defined: set("tensor"), undefined: set("multiply", "weak")},
			"maths":   {needed: []string{"numa"}, defined: set("multiply"), undefined: set()},
			"numa":    {defined: set("node")},
			"picture": {needed: []string{"codec", "window"}, defined: set("draw")},
			"codec":   {defined: set("decode")},
			"window":  {defined: set("open")},
		}
	}
	for name, test := range map[string]struct {
		change func(map[string]*linked)
		want   []string
	}{
		"named alone":                      {func(map[string]*linked) {}, []string{"codec", "picture"}},
		"a symbol of one":                  {func(a map[string]*linked) { a["torch"].undefined["decode"] = true }, []string{"picture"}},
		"a symbol of what one brings":      {func(a map[string]*linked) { a["maths"].undefined["open"] = true }, nil},
		"a symbol that what stays has too": {func(a map[string]*linked) { a["torch"].undefined["draw"] = true; a["maths"].defined["draw"] = true }, []string{"codec", "picture"}},
		"one that is not there":            {func(a map[string]*linked) { delete(a, "codec") }, []string{"picture"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := all()
			test.change(a)
			if got := unused(a, "torch"); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// The linker and the loader are the judges of a library that was written by hand.
func TestAnEmptyLibraryStandsForTheRealOne(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip(err)
	}
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Skip(err)
	}
	defer self.Close()
	dir := t.TempDir()
	library := emptyLibrary("libreal.so.7", self.Machine)
	if err := os.WriteFile(filepath.Join(dir, "libreal.so.7"), library, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(library))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X == 0 }) {
		t.Error("it asks for a stack that may hold code")
	}
	if err := os.WriteFile(filepath.Join(dir, "main.c"), []byte("int main(void) { return 0; }"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := compiler + ` -o main main.c -Wl,--no-as-needed ./libreal.so.7 -Wl,-rpath,'$ORIGIN' && readelf -d main | grep -q 'NEEDED.*libreal.so.7' && ./main`
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
