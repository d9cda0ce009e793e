package torchstage

// #cgo LDFLAGS: -ldl
// #include <dlfcn.h>
// #include <stdlib.h>
//
// typedef char *(*af_join)(const char *, int, const char *, int, int, double, void *, void **);
// typedef char *(*af_share)(void *, void *const *, size_t);
// typedef char *(*af_await)(void *, void *const *, size_t);
// typedef char *(*af_begin)(void *, void *const *, size_t, void *const *, size_t, size_t *);
// typedef char *(*af_finish)(void *);
// typedef char *(*af_norm)(void *, void *const *, double, double, void **);
// typedef void (*af_leave)(void *);
//
// static char *af_call_join(void *f, const char *host, int port, const char *address, int rank, int size, double seconds, void *device, void **group) {
//   return ((af_join)f)(host, port, address, rank, size, seconds, device, group);
// }
// static char *af_call_share(void *f, void *group, void *const *t, size_t n) { return ((af_share)f)(group, t, n); }
// static char *af_call_await(void *f, void *group, void *const *p, size_t n) { return ((af_await)f)(group, p, n); }
// static char *af_call_begin(void *f, void *group, void *const *p, size_t n, void *const *s, size_t m, size_t *early) {
//   return ((af_begin)f)(group, p, n, s, m, early);
// }
// static char *af_call_finish(void *f, void *group) { return ((af_finish)f)(group); }
// static char *af_call_norm(void *f, void *group, void *const *t, double momentum, double eps, void **out) {
//   return ((af_norm)f)(group, t, momentum, eps, out);
// }
// static void af_call_leave(void *f, void *group) { ((af_leave)f)(group); }
import "C"

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/sugarme/gotch"
	"github.com/sugarme/gotch/ts"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// groupLibrary is built from native/ for the libtorch of this machine where that has Gloo,
// and lies beside libtch.so.
const groupLibrary = "libalignedfusion_torchstage.so"

// ncclLibrary is built from native/nccl where libtorch is for CUDA and NCCL's headers are there.
const ncclLibrary = "libalignedfusion_nccl.so"

// joinTimeout is how long members wait for each other when nobody says.
const joinTimeout = 30 * time.Minute

// peers is a stage's place in a group of processes.
type peers struct {
	group   unsafe.Pointer
	pending bool // an average has begun
	// inside: gradients are averaged as Backward makes them, not after it. Where the processor
	// computes them it would only share its time.
	inside bool
	// early counts the buckets of gradients that were under way before Average was called.
	early int
	// syncBatchNorm as in sdk.JoinRequest.
	syncBatchNorm bool
}

// groupFunctions are those of native/group.cpp by name.
var groupFunctions = sync.OnceValues(func() (map[string]unsafe.Pointer, error) {
	functions, err := LibraryFunctions(groupLibrary, "af_group_", "join", "share", "await", "average", "finish", "norm", "leave")
	if err != nil {
		return nil, &sdk.Error{Code: sdk.Unimplemented, Err: fmt.Errorf("no training in several processes: %w", err),
			Advice: "the library is built by `make setup` where libtorch comes with Gloo and its headers (Debian: libgloo-dev)"}
	}
	return functions, nil
})

// LibraryFunctions loads a library from beside libtch.so and returns functions of it, by what
// follows prefix in their names. Loading adds the library's operators to libtorch's. It fails
// with the linker's words.
func LibraryFunctions(library, prefix string, names ...string) (map[string]unsafe.Pointer, error) {
	file := C.CString(library)
	defer C.free(unsafe.Pointer(file))
	handle := C.dlopen(file, C.RTLD_NOW)
	if handle == nil {
		return nil, errors.New(C.GoString(C.dlerror()))
	}
	functions := map[string]unsafe.Pointer{}
	for _, name := range names {
		symbol := C.CString(prefix + name)
		functions[name] = C.dlsym(handle, symbol)
		C.free(unsafe.Pointer(symbol))
		if functions[name] == nil {
			return nil, errors.New(C.GoString(C.dlerror()))
		}
	}
	return functions, nil
}

// deviceJoin is what makes a group of GPUs, and what averages gradients then: NCCL where the stage
// is on a GPU and there is such a library, else Gloo, and why not the other.
func (st *stage) deviceJoin() (join unsafe.Pointer, by string) {
	if st.device.Name == gotch.CPU.Name {
		return nil, "gloo"
	}
	functions, err := LibraryFunctions(ncclLibrary, "af_nccl_", "join")
	if err != nil {
		return nil, "gloo, through the machine's memory, as there is no NCCL (" + err.Error() + ")"
	}
	return functions["join"], "nccl"
}

// groupFailure takes over what a function of native/group.cpp answered.
func groupFailure(what string, failure *C.char) error {
	if failure == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(failure))
	return torchError(what, errors.New(C.GoString(failure)))
}

// Join implements sdk.Parallel. It waits for others, so it leaves the torch thread to the
// process's other stages.
func (st *stage) Join(_ context.Context, req *sdk.JoinRequest) error {
	if st.peers != nil {
		return sdk.Errorf(sdk.FailedPrecondition, "the stage is in a group already")
	}
	functions, err := groupFunctions()
	if err != nil {
		return err
	}
	name, service, err := net.SplitHostPort(req.Store)
	if err != nil {
		return sdk.Errorf(sdk.InvalidArgument, "store %q, want HOST:PORT: %w", req.Store, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return sdk.Errorf(sdk.InvalidArgument, "port of the store %q: %w", req.Store, err)
	}
	host, address := C.CString(name), C.CString(cmp.Or(req.Address, "127.0.0.1"))
	defer C.free(unsafe.Pointer(host))
	defer C.free(unsafe.Pointer(address))
	p := &peers{syncBatchNorm: req.SyncBatchNorm, inside: st.device.Name != gotch.CPU.Name}
	device, by := st.deviceJoin()
	failure := C.af_call_join(functions["join"], host, C.int(port), address, C.int(req.Rank), C.int(req.Size),
		C.double(cmp.Or(req.Timeout, joinTimeout).Seconds()), device, &p.group)
	if err := groupFailure("join the other processes", failure); err != nil {
		return err
	}
	var all []*ts.Tensor
	for _, e := range st.params.list {
		all = append(all, e.value)
	}
	pointers := pointersOf(all)
	failure = C.af_call_share(functions["share"], p.group, unsafe.SliceData(pointers), C.size_t(len(pointers)))
	runtime.KeepAlive(all)
	if err := groupFailure("share the weights", failure); err != nil {
		C.af_call_leave(functions["leave"], p.group)
		return err
	}
	if req.AveragedBy != nil {
		req.AveragedBy(by)
	}
	return OnThread(func() error { st.peers = p; return nil })
}

// pointersOf are the C++ tensors behind some, which must be kept alive for the call.
func pointersOf(tensors []*ts.Tensor) []unsafe.Pointer {
	out := make([]unsafe.Pointer, len(tensors))
	for i, t := range tensors {
		out[i] = t.Ctensor()
	}
	return out
}

// Average implements sdk.Parallel. Statistics are the buffers named running_….
func (st *stage) Average(context.Context) error {
	return OnThread(func() error {
		if st.peers == nil {
			return sdk.Errorf(sdk.FailedPrecondition, "the stage is in no group")
		}
		if err := st.settle(); err != nil {
			return err
		}
		functions, err := groupFunctions()
		if err != nil {
			return err
		}
		var parameters, statistics []*ts.Tensor
		for _, e := range st.params.trained() {
			parameters = append(parameters, e.value)
		}
		for _, e := range st.params.list {
			if e.buffer && strings.Contains(e.name, "running_") && !st.frozen {
				statistics = append(statistics, e.value)
			}
		}
		p, s := pointersOf(parameters), pointersOf(statistics)
		st.peers.pending = true
		var early C.size_t
		failure := C.af_call_begin(functions["average"], st.peers.group, unsafe.SliceData(p), C.size_t(len(p)), unsafe.SliceData(s), C.size_t(len(s)), &early)
		runtime.KeepAlive(parameters)
		runtime.KeepAlive(statistics)
		st.peers.early += int(early)
		return groupFailure("average the gradients", failure)
	})
}

// await has gradients averaged as Backward makes them: not on the CPU, not where a module runs
// autograd several times in one, nor where other messages of the group come between, whose order would
// depend on what each member's cases need.
func (st *stage) await() error {
	if _, own := st.module.(Backwarder); own || st.peers == nil || !st.peers.inside || st.peers.syncBatchNorm {
		return nil
	}
	functions, err := groupFunctions()
	if err != nil {
		return err
	}
	var parameters []*ts.Tensor
	for _, e := range st.params.trained() {
		parameters = append(parameters, e.value)
	}
	p := pointersOf(parameters)
	failure := C.af_call_await(functions["await"], st.peers.group, unsafe.SliceData(p), C.size_t(len(p)))
	runtime.KeepAlive(parameters)
	return groupFailure("average the gradients", failure)
}

// norm is batch normalisation by the statistics of all members' batches, whose gradient meets
// the other members too.
func (p *peers) norm(x, w, b, mean, variance *ts.Tensor, momentum, eps float64) (*ts.Tensor, error) {
	functions, err := groupFunctions()
	if err != nil {
		return nil, err
	}
	in := []*ts.Tensor{x, w, b, mean, variance}
	var pointers [5]unsafe.Pointer
	for i, t := range in {
		if t != nil {
			pointers[i] = t.Ctensor()
		}
	}
	var out unsafe.Pointer
	failure := C.af_call_norm(functions["norm"], p.group, &pointers[0], C.double(momentum), C.double(eps), &out)
	runtime.KeepAlive(in)
	if err := groupFailure("batch_norm", failure); err != nil {
		return nil, err
	}
	return ts.FromCtensor(out), nil
}

// settle waits for an average that has begun.
func (st *stage) settle() error {
	if st.peers == nil || !st.peers.pending {
		return nil
	}
	st.peers.pending = false
	functions, err := groupFunctions()
	if err != nil {
		return err
	}
	return groupFailure("average the gradients", C.af_call_finish(functions["finish"], st.peers.group))
}

// leave ends the stage's part in its group.
func (st *stage) leave() {
	if st.peers == nil {
		return
	}
	if functions, err := groupFunctions(); err == nil {
		C.af_call_leave(functions["leave"], st.peers.group)
	}
	st.peers = nil
}
