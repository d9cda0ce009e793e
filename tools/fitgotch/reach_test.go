package main

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smallGotch stands for gotch: wrappers of C functions, methods, an interface, a package
// that nobody imports.
var smallGotch = map[string]string{
	"go.mod": "module github.com/sugarme/gotch\n\ngo 1.21\n",
	"libtch/c.go": `package libtch

// #include "torch_api.h"
import "C"

import "unsafe"

type Ctensor = C.tensor

// AtgAdd calls the operator.
func AtgAdd() { C.atg_add() }
func AtgSub() { C.atg_sub() }
func AtgMul() { C.atg_mul() }
func AtSave(name string) { C.at_save(unsafe.Pointer(&name)) }
func AtgExp() { C.atg_exp() }
func AtPrint() { C.at_print() }
func AtgNever() { C.atg_never() }

//export callback_fn
func callback_fn() { C.at_callback() }

func init() { C.at_start() }
`,
	"ts/tensor.go": `package ts

import (
	"strings"

	lib "github.com/sugarme/gotch/libtch"
)

type Tensor struct{ name string }

// Add needs one operator directly,
func (t *Tensor) Add() { lib.AtgAdd() }

// MustSub another one through a second method.
func (t *Tensor) MustSub() { t.Sub() }
func (t *Tensor) Sub() { lib.AtgSub() }

func (t *Tensor) Save() { lib.AtSave(strings.ToUpper(t.name)) }

type Layer interface{ Forward() }

type Scale struct{}

func (*Scale) Forward() { lib.AtgMul() }

func (t *Tensor) String() string { lib.AtPrint(); return "" }

func Never() { lib.AtgNever(); os.Exit(1) }

var Start = exp()

func exp() int { lib.AtgExp(); return 0 }
`,
	"ts/time.go":       "package ts\n\nimport \"time\"\n\nfunc Now() { time.Now() }\n",
	"vision/vision.go": "package vision\n\nfunc Load() {}\n",
}

const smallProject = `package project

import (
	"sync/atomic"

	"github.com/sugarme/gotch/ts"
)

type store struct{ n atomic.Int64 }

func (s *store) Save() {}

func run(t *ts.Tensor, l ts.Layer) {
	t.Add()
	t.MustSub()
	l.Forward()
	(&store{}).Save() // not gotch's Save
}
`

// smallReach is what smallProject reaches of smallGotch.
func smallReach(t *testing.T) (*reach, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gotch"), smallGotch)
	root := filepath.Join(dir, "project")
	write(t, root, map[string]string{
		"go.mod": "module example.com/project\n\ngo 1.21\n\nrequire github.com/sugarme/gotch v0.9.1\n\nreplace github.com/sugarme/gotch => ../gotch\n",
		"p.go":   smallProject,
	})
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "-mod=mod")
	files := map[string][]byte{}
	for name, text := range smallGotch {
		files[name] = []byte(text)
	}
	r, err := findReach(t.Context(), root, []string{"./..."}, files)
	if err != nil {
		t.Fatal(err)
	}
	return r, files
}

func TestReachFollowsCallsIntoTheShim(t *testing.T) {
	r, _ := smallReach(t)
	got := slices.DeleteFunc(slices.Sorted(maps.Keys(r.native)), func(n string) bool { return !entryPoint.MatchString(n) })
	want := []string{
		"at_callback", // C calls back
		"at_print",    // fmt calls String
		"at_start",    // init
		"atg_add",     // a method
		"atg_exp",     // a package variable
		"atg_mul",     // through an interface
		"atg_sub",     // through another method
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if where := r.native["atg_sub"].where; where != "p.go:15" {
		t.Errorf("atg_sub is needed by %q, want p.go:15", where)
	}
}

func TestPruneKeepsWhatIsReachedAndItsImports(t *testing.T) {
	r, files := smallReach(t)
	if err := r.prune(files); err != nil {
		t.Fatal(err)
	}
	if files["vision/vision.go"] != nil {
		t.Error("a package that nobody imports was kept")
	}
	if got, want := strings.TrimSpace(string(files["ts/time.go"])), "package ts"; got != want {
		t.Errorf("ts/time.go is %q, want %q", got, want)
	}
	for text, want := range map[string]bool{
		"AtgAdd() {": true, "AtgNever() {": false, "AtSave(": false, "// AtgAdd calls": true, "\"unsafe\"": false, "func init()": true, "type Ctensor": true,
	} {
		if got := strings.Contains(string(files["libtch/c.go"]), text); got != want {
			t.Errorf("libtch/c.go contains %q: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]bool{"MustSub": true, "func (t *Tensor) Save": false, "\"strings\"": false, "\"os\"": false, "lib \"github.com": true, "func Never": false} {
		if got := strings.Contains(string(files["ts/tensor.go"]), text); got != want {
			t.Errorf("ts/tensor.go contains %q: %v, want %v", text, got, want)
		}
	}
}

const smallShim = `#include "torch_api.h"
using namespace std;

vector<torch::Tensor> of_carray_tensor(torch::Tensor **vs,
                                       int len) {
  return {};
}

template <class T>
void set_lr(optimizer t, double r) {
  torch::optim::f<T>(t, r);
}

void at_manual_seed(int64_t seed) { torch::manual_seed(seed); }

void atg_cat(tensor *out__, tensor *tensors_data, int tensors_len) {
  PROTECT(
    auto outputs__ = torch::cat(of_carray_tensor(tensors_data, tensors_len), c10::optional<int64_t>(c10::nullopt));
  )
}

void ato_set_lr(optimizer t, double r) {
  PROTECT(set_lr<torch::optim::AdamOptions>(t, r);)
}
`

func TestShimHoldsWhatIsNeededWithItsHelpers(t *testing.T) {
	text, err := shimSource([]string{smallShim}, "", map[string]use{"atg_cat": {}, "int64_t": {}})
	if err != nil {
		t.Fatal(err)
	}
	for part, want := range map[string]bool{
		"void atg_cat(": true, "of_carray_tensor(torch::Tensor **vs,\n": true, "at_manual_seed": false, "set_lr": false,
		"SHIM_WHOLE_TORCH": false, "shim::optional<int64_t>(shim::nullopt)": true, "c10::": false,
	} {
		if got := strings.Contains(text, part); got != want {
			t.Errorf("contains %q: %v, want %v:\n%s", part, got, want, text)
		}
	}
}

func TestShimIncludesAllOfTorchForOptimizers(t *testing.T) {
	text, err := shimSource([]string{smallShim}, "", map[string]use{"ato_set_lr": {}})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"#define SHIM_WHOLE_TORCH", "template <class T>\nvoid set_lr("} {
		if !strings.Contains(text, part) {
			t.Errorf("does not contain %q:\n%s", part, text)
		}
	}
}

func TestFunctionThatTheShimLacksIsNamedWithItsPlace(t *testing.T) {
	_, err := shimSource([]string{smallShim}, "", map[string]use{"atg_dog": {where: "plugins/x/x.go:7"}})
	if err == nil || !strings.Contains(err.Error(), "atg_dog") || !strings.Contains(err.Error(), "plugins/x/x.go:7") {
		t.Errorf("error is %v, want atg_dog and plugins/x/x.go:7 named", err)
	}
}
