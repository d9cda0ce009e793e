package a3d

// #include <stdlib.h>
// #include "native/call.h"
//
// static int af_ask(void *question) { return ((int (*)(void))question)(); }
//
// typedef char *(*af_call)(const char *, void *const *, size_t, const int64_t *, size_t, void **);
//
// static char *af_call_through(void *door, const char *name, void *const *tensors, size_t ntensors,
//                              const int64_t *numbers, size_t nnumbers, void **out) {
//   return ((af_call)door)(name, tensors, ntensors, numbers, nnumbers, out);
// }
import "C"

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// kernelLibrary is built from native/ for the libtorch of this machine, and lies beside
// libtch.so: the run path that leads to the one leads to the other.
const kernelLibrary = "libalignedfusion_a3d.so"

// library is kernelLibrary, loaded.
type library struct {
	door unsafe.Pointer // af_a3d_call
	cuda bool           // it holds the kernels of kernels.cu
}

// kernels loads the library, which adds its operators to libtorch's.
var kernels = sync.OnceValues(func() (library, error) {
	functions, err := torchstage.LibraryFunctions(kernelLibrary, "af_a3d_", "call", "cuda")
	if err != nil {
		return library{}, fmt.Errorf("%w; build it with `make kernels`, or build/fitgotch -shim-only -kernels plugins/a3d/native where there is no Go", err)
	}
	return library{functions["call"], C.af_ask(functions["cuda"]) != 0}, nil
})

// cudaKernels reports whether nvcc was there when the library was built.
func cudaKernels() bool {
	l, err := kernels()
	return err == nil && l.cuda
}

// number is what a kernel takes for a float.
func number(v float64) int64 { return int64(math.Float64bits(v)) }

// callKernel runs an operator of native/library.cpp. Tensors and numbers stand in the
// order of its schema.
func callKernel(name string, in []*ts.Tensor, numbers []int64) (*ts.Tensor, error) {
	library, err := kernels()
	if err != nil {
		return nil, err
	}
	tensors := make([]unsafe.Pointer, len(in))
	for i, t := range in {
		if t != nil {
			tensors[i] = t.Ctensor()
		}
	}
	operator := C.CString("alignedfusion_a3d::" + name)
	defer C.free(unsafe.Pointer(operator))
	var out unsafe.Pointer
	failure := C.af_call_through(library.door, operator, unsafe.SliceData(tensors), C.size_t(len(tensors)),
		(*C.int64_t)(unsafe.SliceData(numbers)), C.size_t(len(numbers)), &out)
	runtime.KeepAlive(in)
	if failure != nil {
		defer C.free(unsafe.Pointer(failure))
		return nil, errors.New(C.GoString(failure))
	}
	return ts.FromCtensor(out), nil
}

// native runs an operator of native/library.cpp within a scope.
func native(s *torchstage.Scope, name string, in []*ts.Tensor, numbers ...int64) *ts.Tensor {
	return s.Do(name, func() (*ts.Tensor, error) { return callKernel(name, in, numbers) })
}
