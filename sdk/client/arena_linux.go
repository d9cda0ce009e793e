package client

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// arenaShare is the part of the address space left that one arena may take: host and
// plugin both map it, a host has one per plugin, and libtorch wants room as well.
const arenaShare = 8

// fits reports whether this process's limits leave room for an arena: files may grow as
// large (ulimit -f), and arenaShare times as much can still be mapped (ulimit -v).
func fits(sizeBytes int64) bool {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) == nil && limit.Cur < uint64(sizeBytes) || sizeBytes > math.MaxInt64/arenaShare {
		return false
	}
	if unix.Getrlimit(unix.RLIMIT_AS, &limit) == nil && limit.Cur == unix.RLIM_INFINITY {
		return true // and no large mapping for an emulator to keep books of
	}
	room, err := unix.Mmap(-1, 0, int(arenaShare*sizeBytes), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	return err == nil && unix.Munmap(room) == nil
}

// newMemory makes and maps a sealed memory file.
func newMemory(sizeBytes int64) (*os.File, []byte, error) {
	fd, err := unix.MemfdCreate("alignedfusion", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, fmt.Errorf("create shared memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "arena")
	fail := func(err error) (*os.File, []byte, error) { return nil, nil, errors.Join(err, file.Close()) }
	if err := unix.Ftruncate(fd, sizeBytes); err != nil {
		return fail(fmt.Errorf("size of %d bytes: %w", sizeBytes, err))
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return fail(fmt.Errorf("seal: %w", err))
	}
	memory, err := unix.Mmap(fd, 0, int(sizeBytes), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return fail(fmt.Errorf("map %d bytes: %w", sizeBytes, err))
	}
	return file, memory, nil
}

func freeMemory(memory []byte) error { return unix.Munmap(memory) }
