package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestApplyEdits(t *testing.T) {
	for _, test := range []struct {
		name  string
		edit  edit
		want  string
		fault bool
	}{
		{name: "first", edit: edit{file: "a.go", old: "x", new: "y"}, want: "y1 x2 end"},
		{name: "all", edit: edit{file: "*.go", old: "x", new: "y", all: true}, want: "y1 y2 end"},
		{name: "region", edit: edit{file: "a.go", old: "1", upTo: "2", new: ""}, want: "x end"},
		{name: "absent text", edit: edit{file: "a.go", old: "z"}, fault: true},
		{name: "absent end", edit: edit{file: "a.go", old: "x", upTo: "z"}, fault: true},
		{name: "absent file", edit: edit{file: "b.go", old: "x"}, fault: true},
		{name: "bad pattern", edit: edit{file: "[", old: "x"}, fault: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := map[string][]byte{"a.go": []byte("x1 x2 end")}
			err := applyEdits(files, []edit{test.edit})
			if (err != nil) != test.fault {
				t.Fatalf("error %v", err)
			}
			if err == nil && string(files["a.go"]) != test.want {
				t.Errorf("got %q, want %q", files["a.go"], test.want)
			}
		})
	}
}

func TestReplaceTreeLeavesEqualFilesAloneAndRemovesOthers(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"same": "1", "sub/changed": "2", "gone": "3"})
	before, err := os.Stat(filepath.Join(dir, "same"))
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceTree(dir, map[string][]byte{"same": []byte("1"), "sub/changed": []byte("4"), "sub/new": []byte("5")}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"same", "sub/changed", "sub/new", "gone"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			got[name] = string(text)
		}
	}
	if diff := cmp.Diff(map[string]string{"same": "1", "sub/changed": "4", "sub/new": "5"}, got); diff != "" {
		t.Error(diff)
	}
	after, err := os.Stat(filepath.Join(dir, "same"))
	if err != nil {
		t.Fatal(err)
	}
	if !after.ModTime().Equal(before.ModTime()) {
		t.Error("an equal file was written again")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", ".fitgotch-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func TestWriteWork(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"go.mod": "module example.com/m\n\ngo 1.26.0\n"})
	if err := writeWork(root); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "go.work"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"go 1.26.0", "use .", "replace github.com/sugarme/gotch v0.9.1 => ./build/gotch"} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("go.work lacks %q:\n%s", line, text)
		}
	}
	if err := writeWork(root); err != nil {
		t.Errorf("own go.work again: %v", err)
	}

	write(t, root, map[string]string{"go.work": "go 1.26.0\nuse ./other\n"})
	if err := writeWork(root); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("somebody else's go.work: %v; want a refusal", err)
	}
	if text, err := os.ReadFile(filepath.Join(root, "go.work")); err != nil || !strings.Contains(string(text), "use ./other") {
		t.Errorf("somebody else's go.work was changed: %q, %v", text, err)
	}
	write(t, root, map[string]string{"go.mod": "module example.com/m\n"})
	if err := os.Remove(filepath.Join(root, "go.work")); err != nil {
		t.Fatal(err)
	}
	if err := writeWork(root); err == nil {
		t.Error("go.mod without a go directive: no error")
	}
}

func TestHashFilesSeparatesNamesAndContents(t *testing.T) {
	a := hashFiles(map[string][]byte{"a": []byte("bc"), "d": nil})
	for _, other := range []map[string][]byte{
		{"a": []byte("b"), "cd": nil}, {"a": []byte("bc")}, {"a": []byte("bd"), "d": nil}, {"ab": []byte("c"), "d": nil},
	} {
		if hashFiles(other) == a {
			t.Errorf("%q has the same digest", other)
		}
	}
	if hashFiles(map[string][]byte{"d": nil, "a": []byte("bc")}) != a {
		t.Error("the digest depends on order")
	}
}

// TestEditsMatchThePinnedGotch keeps the edits and the pinned version together.
func TestEditsMatchThePinnedGotch(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	gotch, err := gotchSource(t.Context(), root)
	if err != nil {
		t.Skipf("gotch's source is not at hand: %v", err)
	}
	dir := t.TempDir()
	if err := writeModule(gotch, dir); err != nil {
		t.Fatal(err)
	}
	if err := writeShimSources(gotch, filepath.Join(dir, "shim")); err != nil {
		t.Fatal(err)
	}
	for name, banned := range map[string]string{
		"ts/tensor-generated.go": "C.malloc(0)",
		"libtch/c-generated.go":  "Data[0])",
		"libtch/lib.go":          "cuda",
		"libtch/device.go":       "*(*int)",
		"libtch/tensor.go":       "*(*int)(unsafe.Pointer(&c",
		"libtch/patch.go":        "tensorsData[0]",
		"init.go":                "MkdirAll",
		"ts/tensor.go":           "1e5",
		"shim/torch_api.h":       "\nthread_local",
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if strings.Contains(string(text), banned) {
			t.Errorf("%s still contains %q", name, banned)
		}
	}
	for _, name := range []string{"ts/ts_extra.go", "ts/af_extra.h", "shim/af_extra.h", "shim/af_tensor.cpp", "LICENSE"} {
		if !isFile(filepath.Join(dir, name)) {
			t.Errorf("%s is not there", name)
		}
	}
	if isFile(filepath.Join(dir, "libtch", "torch_api.cpp")) {
		t.Error("the copied module still holds C++ for cgo to compile")
	}
}
