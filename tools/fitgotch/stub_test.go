package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shimText has the shapes of definitions that gotch's shim has.
const shimText = `#include "torch_api.h"

void atg_relu(tensor *out__, tensor self) {
  PROTECT(
    auto outputs__ = torch::relu(*self);
    out__[0] = new torch::Tensor(outputs__);
  )
}

tensor *atg_chunk(tensor self, int64_t chunks,
                  int64_t dim) {
  PROTECT(
    return nullptr;
  )
  return nullptr;
}

void at_manual_seed(int64_t seed) { torch::manual_seed(seed); }

int64_t atg_dense_dim(tensor self) {
  PROTECT(
    return self->dense_dim();
  )
  return 0;
}

at::Device device_of_int(int d) {
  return at::Device(at::kCPU);
}
`

func shimLines() []string { return strings.Split(shimText, "\n") }

func TestParseFunctionsFindsDefinitionsWithTheirLines(t *testing.T) {
	want := []function{
		{name: "atg_relu", start: 3, end: 8, void: true},
		{name: "atg_chunk", start: 10, end: 16},
		{name: "at_manual_seed", start: 18, end: 18, void: true},
		{name: "atg_dense_dim", start: 20, end: 25},
	}
	if diff := cmp.Diff(want, parseFunctions(shimLines()), cmp.AllowUnexported(function{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseFunctionsSkipsDeclarations(t *testing.T) {
	lines := []string{"void atg_relu(tensor *, tensor self);", "tensor *atg_chunk(tensor self, int64_t chunks);", "}"}
	if got := parseFunctions(lines); got != nil {
		t.Errorf("got %v, want none", got)
	}
}

func TestStubKeepsSignatureAndThrows(t *testing.T) {
	lines, stubbed := stub(shimLines(), map[string]bool{"atg_chunk": true, "at_manual_seed": true, "atg_absent": true})
	if diff := cmp.Diff([]string{"atg_chunk", "at_manual_seed"}, stubbed); diff != "" {
		t.Error(diff)
	}
	got := strings.Join(lines, "\n")
	want := strings.Replace(shimText, shimText[strings.Index(shimText, "tensor *atg_chunk"):strings.Index(shimText, "int64_t atg_dense_dim")],
		`tensor *atg_chunk(tensor self, int64_t chunks,                   int64_t dim) {
  PROTECT(throw std::runtime_error("atg_chunk: not in this libtorch");)
  return {};
}

void at_manual_seed(int64_t seed) {
  PROTECT(throw std::runtime_error("at_manual_seed: not in this libtorch");)
}

`, 1)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFaultyFunctionsMapsCompilerOutput(t *testing.T) {
	sources := map[string][]function{"torch_api_generated.cpp.h": parseFunctions(shimLines())}
	for _, test := range []struct {
		name, output string
		want         []string
		unexplained  int
	}{
		{
			name: "error inside a function",
			output: `In file included from torch_api.cpp:3:
torch_api_generated.cpp.h: In function 'void atg_relu(at::Tensor**, tensor)':
torch_api_generated.cpp.h:5:30: error: 'relu' is not a member of 'torch'
    5 |     auto outputs__ = torch::relu(*self);`,
			want: []string{"atg_relu"},
		},
		{
			name:   "absolute path, no column, a warning beside it",
			output: "/src/torch_api_generated.cpp.h:12: error: no\n/src/torch_api_generated.cpp.h:22:5: warning: unused",
			want:   []string{"atg_chunk"},
		},
		{
			name: "two errors in a header, both instantiated by one function",
			output: `/usr/include/c++/12/tuple: In instantiation of 'struct std::tuple_element<5, std::tuple<at::Tensor> >':
/usr/include/c++/12/bits/utility.h:84:11:   required by substitution of 'template<...>'
torch_api_generated.cpp.h:22:3:   required from here
/usr/include/c++/12/tuple:1357:25: error: static assertion failed: tuple index must be in range
/usr/include/c++/12/tuple:1359:13: error: no type named 'type' in 'struct std::_Nth_type<5>'`,
			want: []string{"atg_dense_dim"},
		},
		{
			name: "an instantiation does not explain errors of a later place",
			output: `/usr/include/x.h: In instantiation of 'struct A':
torch_api_generated.cpp.h:22:3:   required from here
/usr/include/x.h:1:2: error: bad
/usr/include/y.h: At global scope:
/usr/include/y.h:3:4: error: also bad`,
			want:        []string{"atg_dense_dim"},
			unexplained: 1,
		},
		{
			name: "macro expansion named after the error",
			output: `torch_api.h:19:3: error: expected ')'
torch_api_generated.cpp.h:11:3: note: in expansion of macro 'PROTECT'`,
			want: []string{"atg_chunk"},
		},
		{
			name:        "error of the header itself",
			output:      "/inc/torch/all.h:4:2: error: #error C++20 or later compatible compiler is required to use PyTorch.",
			unexplained: 1,
		},
		{
			name:        "missing header",
			output:      "/inc/torch/torch.h:1:10: fatal error: c10/util/x.h: No such file or directory\ncompilation terminated.",
			unexplained: 1,
		},
		{
			name: "undefined symbol at link time",
			output: "/usr/bin/ld: torch_api.o: in function `atg_dense_dim':\n" +
				"torch_api.cpp:(.text+0x1): undefined reference to `at::_ops::dense_dim::call(at::Tensor const&)'\ncollect2: error: ld returned 1 exit status",
			want: []string{"atg_dense_dim"},
		},
		{
			name: "undefined symbol in a function that cannot be stubbed",
			output: "/usr/bin/ld: torch_api.o: in function `main':\n" +
				"x.cpp:(.text+0x1): undefined reference to `y'",
			unexplained: 1,
		},
		{name: "nothing", output: "note: all well"},
	} {
		t.Run(test.name, func(t *testing.T) {
			names, unexplained := faultyFunctions(test.output, sources)
			got := sortedKeys(names)
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if len(unexplained) != test.unexplained {
				t.Errorf("unexplained: %q, want %d", unexplained, test.unexplained)
			}
		})
	}
}
