//go:build unix

package serve

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// takeStdout keeps file descriptor 1 aside and makes it a second standard error.
func takeStdout() (*os.File, error) {
	kept, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup2(2, 1); err != nil {
		return nil, err
	}
	os.Stdout = os.Stderr
	return os.NewFile(uintptr(kept), "stdout"), nil
}

// holdLifeline ends the process, and the process group it leads, when the host dies.
func holdLifeline() error {
	text := os.Getenv(EnvLifeline)
	if text == "" {
		return nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%s is %q, want a file descriptor", EnvLifeline, text)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return fmt.Errorf("file descriptor %d: %w", fd, err)
	}
	go func() {
		runtime.LockOSThread()
		buffer := make([]byte, 1)
		for {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			_, err := unix.Read(fd, buffer)
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
				continue
			}
			if unix.Getpgrp() == unix.Getpid() {
				_ = unix.Kill(0, unix.SIGKILL)
			}
			os.Exit(1)
		}
	}()
	return nil
}
