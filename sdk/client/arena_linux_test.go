package client

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func newArena(t interface {
	Fatal(...any)
	Cleanup(func())
}, size int64) *Arena {
	a, err := NewArena(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// Regions that are lent at one time never overlap, with their guards; what was given
// back comes together again.
func TestRegionsNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newArena(t, 64*pageBytes)
		type loan struct {
			region
			bytes int64
		}
		var lent []loan
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			if len(lent) > 0 && rapid.Bool().Draw(t, "give") {
				i := rapid.IntRange(0, len(lent)-1).Draw(t, "which")
				if !a.intact(lent[i].region, lent[i].bytes) {
					t.Fatalf("the guard of %+v is damaged though nobody wrote there", lent[i])
				}
				a.give(lent[i].region)
				lent = slices.Delete(lent, i, i+1)
				continue
			}
			n := rapid.Int64Range(0, 20*pageBytes).Draw(t, "bytes")
			r, ok := a.take(n)
			if !ok {
				continue
			}
			if r.offset < 0 || r.offset+r.size > a.Size() || r.size < n+guardBytes || r.offset%pageBytes != 0 {
				t.Fatalf("%d bytes got %+v of %d", n, r, a.Size())
			}
			for _, other := range lent {
				if r.offset < other.offset+other.size && other.offset < r.offset+r.size {
					t.Fatalf("%+v overlaps %+v", r, other)
				}
			}
			for i := range a.bytes(r, n) {
				a.bytes(r, n)[i] = byte(len(lent))
			}
			a.protect(r, n)
			lent = append(lent, loan{r, n})
		}
		for _, l := range lent {
			a.give(l.region)
		}
		if len(a.free) != 1 || a.free[0] != (region{0, a.Size()}) {
			t.Fatalf("free after everything was given back: %v of %d bytes", a.free, a.Size())
		}
	})
}

func TestArenaCannotBeResized(t *testing.T) {
	a := newArena(t, 1<<20)
	for _, size := range []int64{0, 1 << 10, 1 << 30} {
		if err := unix.Ftruncate(int(a.File().Fd()), size); err == nil {
			t.Errorf("somebody could make the memory %d bytes long", size)
		}
	}
}

func TestArenaIsSparse(t *testing.T) {
	a := newArena(t, 64<<30)
	r, ok := a.take(1 << 20)
	if !ok {
		t.Fatal("no room")
	}
	copy(a.bytes(r, 1<<20), bytes.Repeat([]byte{1}, 1<<20))
	var stat unix.Stat_t
	if err := unix.Fstat(int(a.File().Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > 4<<20 {
		t.Errorf("64 GiB of which 1 MiB was touched take %d bytes", used)
	}
}

func TestDamageIsSeen(t *testing.T) {
	a := newArena(t, 1<<20)
	r, _ := a.take(100)
	a.protect(r, 100)
	if !a.intact(r, 100) {
		t.Fatal("intact at first")
	}
	a.memory[r.offset+100] ^= 1
	if a.intact(r, 100) {
		t.Error("a byte behind the region was changed and not seen")
	}
}

// lowered runs the test with a lower soft limit.
func lowered(t *testing.T, resource int, limit uint64) {
	var before unix.Rlimit
	if err := unix.Getrlimit(resource, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(resource, &before) })
}

// An arena is halved until it is no larger than files may grow.
func TestArenaStaysBelowTheFileSizeLimit(t *testing.T) {
	lowered(t, unix.RLIMIT_FSIZE, 10*pageBytes+17)
	if a := newArena(t, 0); a.Size() != 8*pageBytes {
		t.Errorf("%d bytes; want %d", a.Size(), 8*pageBytes)
	}
	lowered(t, unix.RLIMIT_FSIZE, pageBytes-1)
	if _, err := NewArena(0); err == nil || !strings.Contains(err.Error(), "ulimit -f") {
		t.Errorf("no room at all: %v", err)
	}
}

// An arena takes at most an eighth of the address space that is left: many of them leave
// room for everything else.
func TestArenaIsHalvedWhereTheAddressSpaceIsLimited(t *testing.T) {
	lowered(t, unix.RLIMIT_AS, 64<<30)
	if m, err := unix.Mmap(-1, 0, 64<<30, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err == nil {
		_ = unix.Munmap(m)
		t.Skip("this system, an emulator perhaps, does not hold to the limit")
	}
	first, last := newArena(t, 0).Size(), int64(0)
	if first != 4<<30 {
		t.Errorf("%d bytes of a little less than 64 GiB; want 4 GiB", first)
	}
	for range 32 {
		last = newArena(t, 0).Size()
	}
	if last >= first || last < 16<<20 {
		t.Errorf("the last of many arenas has %d bytes", last)
	}
}
