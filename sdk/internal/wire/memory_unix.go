//go:build unix

package wire

import (
	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
)

// mapShared maps the memory that a host lends.
func mapShared(r *stagev1.AttachRequest) ([]byte, error) {
	var fd int
	switch how := r.GetHow().(type) {
	case *stagev1.AttachRequest_InheritedFd:
		fd = int(how.InheritedFd)
	case *stagev1.AttachRequest_Path:
		opened, err := unix.Open(how.Path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, sdk.Errorf(sdk.InvalidArgument, "open %s: %w", how.Path, err)
		}
		defer unix.Close(opened)
		fd = opened
	default:
		return nil, sdk.Errorf(sdk.Unimplemented, "unknown way to attach shared memory, want inherited_fd or path")
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, sdk.Errorf(sdk.InvalidArgument, "file descriptor %d: %w", fd, err)
	}
	if uint64(stat.Size) != r.GetSize() || stat.Size == 0 {
		return nil, sdk.Errorf(sdk.InvalidArgument, "shared memory has %d bytes, the request says %d", stat.Size, r.GetSize())
	}
	memory, err := unix.Mmap(fd, 0, int(stat.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, sdk.Errorf(sdk.ResourceExhausted, "map %d bytes of shared memory: %w", stat.Size, err)
	}
	return memory, nil
}

func unmapShared(memory []byte) error { return unix.Munmap(memory) }
