//go:build unix

package process

import (
	"errors"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// PeakRSSBytes is the most memory this process has used.
func PeakRSSBytes() int64 {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return int64(usage.Maxrss) // the others count in KiB
	}
	return int64(usage.Maxrss) << 10
}

// Leader makes a command the leader of a process group of its own.
func Leader() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// KillGroup ends the process group that pid leads. One that has ended is no error.
func KillGroup(pid int) error {
	if err := unix.Kill(-pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// Alive reports whether a process exists.
func Alive(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

// Owns reports whether a file or folder, not what it points to, is this user's.
func Owns(path string) bool {
	var stat unix.Stat_t
	return unix.Lstat(path, &stat) == nil && int(stat.Uid) == unix.Getuid()
}

// Stops are the signals by which a person or a scheduler asks a process to stop.
var Stops = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1}
