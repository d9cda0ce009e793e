package client

import (
	"errors"
	"fmt"
	"hash/crc64"
	"slices"
	"sort"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// lending is memory that an open TRAIN context may still read.
type lending struct {
	region region
	bytes  int64
	// name and sum are those of a tensor that is watched.
	name string
	sum  uint64
}

// transfer is the shared memory of one call.
type transfer struct {
	instance *Instance
	call     string
	arena    *Arena
	regions  []lending
	slot     *lending
	// kept is what an earlier call of the context was lent.
	kept []lending
	// ahead are tensors that Prefetch has lent already.
	ahead map[*tensor.Tensor]lending
}

func (i *Instance) begin(call string) *transfer {
	return &transfer{instance: i, call: call, arena: i.client.options.Arena}
}

// tensors lends tensors to the plugin: copied into the arena, or in-band when they are
// small or the arena is full.
func (t *transfer) tensors(given map[string]*tensor.Tensor, needsGrad map[string]bool) ([]*stagev1.Tensor, error) {
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	sort.Strings(names)
	var out []*stagev1.Tensor
	for _, name := range names {
		x := given[name]
		if x == nil {
			t.free()
			return nil, &sdk.Error{Code: sdk.InvalidArgument, Plugin: t.instance.client.options.Plugin,
				Stage: t.instance.label, Call: t.call, Port: name, Given: "given without a tensor"}
		}
		p := &stagev1.Tensor{Name: name, Dtype: string(x.DType), Shape: x.Shape, NeedsGrad: needsGrad[name]}
		if shared := t.lend(name, x); shared != nil {
			p.Payload = &stagev1.Tensor_Shared{Shared: shared}
		} else {
			p.Payload = &stagev1.Tensor_Raw{Raw: x.Data}
		}
		out = append(out, p)
	}
	return out, nil
}

func (t *transfer) lend(name string, x *tensor.Tensor) *stagev1.SharedRef {
	data, n := x.Data, int64(len(x.Data))
	if l, ok := t.ahead[x]; ok {
		delete(t.ahead, x)
		t.regions = append(t.regions, l)
		return &stagev1.SharedRef{Offset: uint64(l.region.offset), Size: uint64(l.bytes)}
	}
	if t.arena == nil || n <= inBandBytes {
		return nil
	}
	r, ok := t.arena.take(n)
	if !ok {
		return nil
	}
	copy(t.arena.bytes(r, n), data)
	t.arena.protect(r, n)
	l := lending{region: r, bytes: n}
	if t.instance.client.watch.Load() {
		l.name, l.sum = name, crc64.Checksum(data, lentTable)
	}
	t.regions = append(t.regions, l)
	return &stagev1.SharedRef{Offset: uint64(r.offset), Size: uint64(n)}
}

// offer reserves the room for the reply.
func (t *transfer) offer(n int64) *stagev1.SharedRef {
	if t.arena == nil || n <= inBandBytes {
		return nil
	}
	r, ok := t.arena.take(n)
	if !ok {
		return nil
	}
	t.arena.protect(r, n)
	t.slot = &lending{region: r, bytes: n}
	return &stagev1.SharedRef{Offset: uint64(r.offset), Size: uint64(n)}
}

// failed translates a call's error and gives the memory back. Memory of a call that the
// plugin may still be working on is not reused; it goes with the process.
func (t *transfer) failed(err error) error {
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
	default:
		t.free()
	}
	return t.instance.client.err(err)
}

var lentTable = crc64.MakeTable(crc64.ECMA)

// damaged reports writing behind the lent memory, and in that which is watched.
func (t *transfer) damaged() error {
	lent := t.regions
	if t.slot != nil {
		lent = append(slices.Clone(lent), *t.slot)
	}
	for _, l := range slices.Concat(lent, t.kept) {
		if l.name != "" && crc64.Checksum(t.arena.bytes(l.region, l.bytes), lentTable) != l.sum {
			return t.instance.client.answer(t.instance.label, t.call, &sdk.Error{Port: l.name, Err: errors.New("changed what it was lent to read")})
		}
		if !t.arena.intact(l.region, l.bytes) {
			return t.instance.client.answer(t.instance.label, t.call, &sdk.Error{
				Err: fmt.Errorf("wrote past the %d bytes of shared memory it was lent", l.bytes)})
		}
	}
	return nil
}

func (t *transfer) freeSlot() {
	if t.slot != nil {
		t.arena.give(t.slot.region)
		t.slot = nil
	}
}

func (t *transfer) free() {
	t.freeSlot()
	t.arena.takeBack(slices.Values(t.regions))
	t.regions = nil
}

// receive copies the tensors of a reply into memory of the host's own: a plugin that
// goes on writing to its slot changes nothing the host has seen.
func (t *transfer) receive(from []*stagev1.Tensor) (map[string]*tensor.Tensor, error) {
	i := t.instance
	bad := func(p *stagev1.Tensor, err error) error {
		return i.client.answer(i.label, t.call, &sdk.Error{Port: p.GetName(),
			Given: fmt.Sprintf("%s %v", p.GetDtype(), p.GetShape()), Err: err})
	}
	if err := t.damaged(); err != nil {
		return nil, err
	}
	out := map[string]*tensor.Tensor{}
	var total int64
	for _, p := range from {
		if _, twice := out[p.GetName()]; twice {
			return nil, bad(p, errors.New("answered twice"))
		}
		var memory []byte
		if shared := p.GetShared(); shared != nil {
			if t.slot == nil || int64(shared.GetOffset()) < t.slot.region.offset || shared.GetSize() > uint64(t.slot.bytes) ||
				int64(shared.GetOffset()+shared.GetSize()) > t.slot.region.offset+t.slot.bytes {
				return nil, bad(p, errors.New("lies outside the slot for the reply"))
			}
			memory = t.arena.memory
		}
		x, err := wire.TensorFromProto(p, memory)
		if err != nil {
			return nil, bad(p, err)
		}
		total += int64(len(x.Data)) + tensor.Alignment
		if p.GetShared() != nil {
			x = x.Clone()
		}
		out[p.GetName()] = x
	}
	i.mu.Lock()
	i.answered[t.call] = max(i.answered[t.call], total)
	i.mu.Unlock()
	return out, nil
}
