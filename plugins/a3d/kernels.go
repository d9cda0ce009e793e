package a3d

// #cgo LDFLAGS: -ldl
// #include <dlfcn.h>
// #include <stdlib.h>
// #include "native/call.h"
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
	"runtime"
	"sync"
	"unsafe"

	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// kernelLibrary is built from native/ for the libtorch of this machine, and lies beside
// libtch.so: the run path that leads to the one leads to the other.
const kernelLibrary = "libalignedfusion_a3d.so"

// kernels loads the library, which adds its operators to libtorch's, and returns the
// address of af_a3d_call.
var kernels = sync.OnceValues(func() (unsafe.Pointer, error) {
	library, symbol := C.CString(kernelLibrary), C.CString("af_a3d_call")
	defer C.free(unsafe.Pointer(library))
	defer C.free(unsafe.Pointer(symbol))
	handle := C.dlopen(library, C.RTLD_NOW)
	if handle == nil {
		return nil, fmt.Errorf("%s; build it with `make kernels`, or build/fitgotch -shim-only -kernels plugins/a3d/native where there is no Go",
			C.GoString(C.dlerror()))
	}
	door := C.dlsym(handle, symbol)
	if door == nil {
		return nil, errors.New(C.GoString(C.dlerror()))
	}
	return door, nil
})

// callKernel runs an operator of native/library.cpp. Tensors and numbers stand in the
// order of its schema.
func callKernel(name string, in []*ts.Tensor, numbers []int64) (*ts.Tensor, error) {
	door, err := kernels()
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
	failure := C.af_call_through(door, operator, unsafe.SliceData(tensors), C.size_t(len(tensors)),
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
