package client

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// arenaShare is the part of a limited address space that one arena may take: host and
// plugin both map it, a host has one per plugin, and libtorch wants room as well.
const arenaShare = 8

// arenaLimit is the most that this process's limits leave for an arena.
func arenaLimit() int64 {
	most := uint64(math.MaxInt64)
	for resource, share := range map[int]uint64{unix.RLIMIT_FSIZE: 1, unix.RLIMIT_AS: arenaShare} {
		var limit unix.Rlimit
		if unix.Getrlimit(resource, &limit) == nil && limit.Cur != unix.RLIM_INFINITY {
			most = min(most, limit.Cur/share)
		}
	}
	return int64(most)
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
