package main

import (
	"encoding/json"
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
	for range 2 { // the second time it is there
		if target, err := writeWork(root); err != nil || target != "./build/gotch" {
			t.Fatalf("%q, %v", target, err)
		}
	}
	work := filepath.Join(root, "go.work")
	has := func(lines ...string) {
		t.Helper()
		text, err := os.ReadFile(work)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains(string(text), line+"\n") {
				t.Errorf("go.work lacks %q:\n%s", line, text)
			}
		}
	}
	has("go 1.26.0", "use .", "replace github.com/sugarme/gotch v0.9.1 => ./build/gotch")

	write(t, root, map[string]string{"go.work": "go 1.26.0\nuse ./other\n"})
	if _, err := writeWork(root); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("somebody else's go.work: %v; want a refusal", err)
	}
	has("use ./other")

	write(t, root, map[string]string{"go.work": "go 1.26.0\nuse .\n\nreplace github.com/sugarme/gotch v0.9.1 => ../sdk/build/gotch\n"})
	if target, err := writeWork(root); err != nil || target != "../sdk/build/gotch" {
		t.Errorf("one that names a copy: %q, %v", target, err)
	}
	if err := pointWork(root, filepath.Join(filepath.Dir(root), "sdk", "build", "gotch")); err != nil {
		t.Fatal(err)
	}
	has("replace github.com/sugarme/gotch v0.9.1 => ../sdk/build/gotch") // the same folder
	if err := pointWork(root, "./build/gotch"); err != nil {
		t.Fatal(err)
	}
	has("use .", "replace github.com/sugarme/gotch v0.9.1 => ./build/gotch")

	write(t, root, map[string]string{"go.mod": "module example.com/m\n"})
	if err := os.Remove(work); err != nil {
		t.Fatal(err)
	}
	if _, err := writeWork(root); err == nil {
		t.Error("go.mod without a go directive: no error")
	}
}

func TestABaseServesWhatItHolds(t *testing.T) {
	base := reached{Native: map[string]string{"atg_add": "", "atg_sub": ""}, Go: map[string][]string{"ts": {"Tensor.Add", "Tensor.Sub"}}}
	for name, test := range map[string]struct {
		other reached
		want  bool
	}{
		"nothing":           {reached{}, true},
		"a part":            {reached{Native: map[string]string{"atg_sub": "x.go:1"}, Go: map[string][]string{"ts": {"Tensor.Sub"}}}, true},
		"one more operator": {reached{Native: map[string]string{"atg_mul": ""}}, false},
		"one more method":   {reached{Go: map[string][]string{"ts": {"Tensor.MustAdd"}}}, false},
		"another package":   {reached{Go: map[string][]string{"nn": {"Linear"}}}, false},
	} {
		if got := base.covers(test.other); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
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
	module, err := fittedModule(gotch)
	if err != nil {
		t.Fatal(err)
	}
	r := &reach{native: map[string]use{"atg_relu": {where: "plugins/a/a.go:3"}, "af_tensor_of_blob": {}, "int": {}}}
	shim, err := r.shim(gotch)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range shim {
		module["shim/"+name] = text
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
		"shim/torch_api.cpp":     "atg_selu",
	} {
		if text, ok := module[name]; !ok || strings.Contains(string(text), banned) {
			t.Errorf("%s is there: %v; want it without %q", name, ok, banned)
		}
	}
	for _, name := range []string{"ts/ts_extra.go", "ts/af_extra.h", "shim/af_extra.h", "shim/libtorch.h", "LICENSE"} {
		if module[name] == nil {
			t.Errorf("%s is not there", name)
		}
	}
	for _, name := range []string{"libtch/torch_api.cpp", "shim/torch_api_generated.cpp.h", "shim/stb_image.h", "shim/af_tensor.cpp"} {
		if module[name] != nil {
			t.Errorf("%s is there: nobody needs it", name)
		}
	}
	if !strings.Contains(string(shim[shimSources]), "void af_backward(") {
		t.Error("the project's own functions are not in the shim's source")
	}
	var held reached
	if err := json.Unmarshal(shim["reach.json"], &held); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"atg_relu": "plugins/a/a.go:3", "af_tensor_of_blob": ""}, held.Native); diff != "" {
		t.Error(diff)
	}
}
