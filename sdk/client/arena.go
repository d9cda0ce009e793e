package client

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"sync"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// DefaultArenaBytes is the size of an arena when none is said. The memory is sparse:
// what no tensor has touched costs nothing.
const DefaultArenaBytes = 16 << 30

const (
	pageBytes  = 4096
	guardBytes = tensor.Alignment
)

// Arena is shared memory that the host owns and lends to one plugin: a memfd, sealed
// against resizing so that neither side can pull the memory from under the other.
// Regions are reused, the lowest first, so that pages are faulted in once.
type Arena struct {
	file   *os.File
	memory []byte
	guard  []byte

	mu   sync.Mutex
	free []region // sorted by offset, never adjacent
}

// region is a piece of the arena in bytes. A guard pattern follows the part that a
// plugin may write.
type region struct{ offset, size int64 }

// NewArena makes an arena of sizeBytes (0: DefaultArenaBytes), or of a half, a quarter and
// so on of it where the process may not reserve that much: ulimit -v bounds the address
// space, of which an arena takes at most an eighth of what is left, and ulimit -f the
// files, which shared memory is one of. A host that gets none sends tensors in messages.
func NewArena(sizeBytes int64) (*Arena, error) {
	if sizeBytes == 0 {
		sizeBytes = DefaultArenaBytes
	}
	if sizeBytes < pageBytes {
		return nil, fmt.Errorf("arena: %d bytes given, want at least %d", sizeBytes, pageBytes)
	}
	for ; sizeBytes >= pageBytes; sizeBytes /= 2 {
		size := sizeBytes / pageBytes * pageBytes
		if !fits(size) {
			continue
		}
		file, memory, err := newMemory(size)
		if err != nil {
			return nil, fmt.Errorf("arena: %w", err)
		}
		guard := make([]byte, guardBytes)
		_, _ = rand.Read(guard) // never fails, says its documentation
		return &Arena{file: file, memory: memory, guard: guard, free: []region{{0, size}}}, nil
	}
	return nil, fmt.Errorf("arena: the limits of this process (ulimit -f, ulimit -v) leave less than %d bytes", pageBytes)
}

// File is the memory as a file, for the child process to inherit.
func (a *Arena) File() *os.File { return a.file }

// Size returns the size in bytes.
func (a *Arena) Size() int64 { return int64(len(a.memory)) }

// Close gives the memory back. No call may be in flight.
func (a *Arena) Close() error {
	return errors.Join(freeMemory(a.memory), a.file.Close())
}

// take reserves room for n bytes and the guard; false when the arena is full.
func (a *Arena) take(n int64) (region, bool) {
	whole := (n + guardBytes + pageBytes - 1) / pageBytes * pageBytes
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, f := range a.free {
		if f.size < whole {
			continue
		}
		if f.size == whole {
			a.free = slices.Delete(a.free, i, i+1)
		} else {
			a.free[i] = region{f.offset + whole, f.size - whole}
		}
		return region{f.offset, whole}, true
	}
	return region{}, false
}

// takeBack gives back what was lent.
func (a *Arena) takeBack(lent iter.Seq[lending]) {
	for l := range lent {
		a.give(l.region)
	}
}

// give returns a region, merging it with free neighbours.
func (a *Arena) give(r region) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, _ := slices.BinarySearchFunc(a.free, r.offset, func(f region, offset int64) int {
		return int(min(max(f.offset-offset, -1), 1))
	})
	a.free = slices.Insert(a.free, i, r)
	if i+1 < len(a.free) && a.free[i].offset+a.free[i].size == a.free[i+1].offset {
		a.free[i].size += a.free[i+1].size
		a.free = slices.Delete(a.free, i+1, i+2)
	}
	if i > 0 && a.free[i-1].offset+a.free[i-1].size == a.free[i].offset {
		a.free[i-1].size += a.free[i].size
		a.free = slices.Delete(a.free, i, i+1)
	}
}

// bytes views the first n bytes of a region.
func (a *Arena) bytes(r region, n int64) []byte {
	return a.memory[r.offset : r.offset+n : r.offset+n]
}

// protect writes the guard behind the first n bytes of a region.
func (a *Arena) protect(r region, n int64) { copy(a.memory[r.offset+n:], a.guard) }

// intact reports whether the guard still stands.
func (a *Arena) intact(r region, n int64) bool {
	return bytes.Equal(a.memory[r.offset+n:r.offset+n+guardBytes], a.guard)
}
