package plughost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// IsolationSupport tries what the kernel offers.
func IsolationSupport(ctx context.Context) []Support {
	out := []Support{{"resource limits", true, "setrlimit"}}
	network := Support{"no network", true, "network namespace"}
	if err := tryNamespace(ctx); err != nil {
		network.Available, network.Detail = false, err.Error()
	}
	files := Support{"read-only files", true, ""}
	if abi, err := landlockABI(); err != nil {
		files.Available, files.Detail = false, err.Error()
	} else {
		files.Detail = fmt.Sprintf("Landlock ABI %d", abi)
	}
	return append(out, network, files)
}

func tryNamespace(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "--version")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	withoutNetwork(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the kernel refuses a network namespace: %w", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return nil
}

// withoutNetwork puts a child into a network namespace of its own. Without privileges
// that takes a user namespace, in which it keeps its user and group.
func withoutNetwork(attr *syscall.SysProcAttr) {
	attr.Cloneflags |= unix.CLONE_NEWNET
	if os.Geteuid() == 0 {
		return
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
}

// start starts cmd under the limits; writable are the folders it may change in spite of
// ReadOnly.
//
// Landlock and no_new_privs belong to a thread and pass to its children: the command is
// started from a thread that ends right after.
func (i Isolation) start(cmd *exec.Cmd, writable []string) error {
	if i.NoNetwork {
		withoutNetwork(cmd.SysProcAttr)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- i.startHere(cmd, writable)
	}()
	if err := <-done; err != nil {
		return err
	}
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: DefaultOpenFiles}
	if i.OpenFiles > 0 {
		limits[unix.RLIMIT_NOFILE] = i.OpenFiles
	}
	if i.MemoryBytes > 0 {
		limits[unix.RLIMIT_DATA] = i.MemoryBytes
	}
	if i.CPUSeconds > 0 {
		limits[unix.RLIMIT_CPU] = i.CPUSeconds
	}
	for resource, value := range limits {
		limit := unix.Rlimit{Cur: value, Max: value}
		var old unix.Rlimit
		if unix.Prlimit(cmd.Process.Pid, resource, nil, &old) == nil && old.Max < value {
			limit = unix.Rlimit{Cur: old.Max, Max: old.Max} // what the user has set is tighter
		}
		if err := unix.Prlimit(cmd.Process.Pid, resource, &limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return fmt.Errorf("%w: limit of resource %d: %w", ErrIsolation, resource, err)
		}
	}
	return nil
}

func (i Isolation) startHere(cmd *exec.Cmd, writable []string) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("%w: no_new_privs: %w", ErrIsolation, err)
	}
	if i.ReadOnly {
		if err := restrictWrites(writable); err != nil {
			return err
		}
	}
	err := cmd.Start()
	if err != nil && i.NoNetwork && errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: no network: the kernel refuses a network namespace: %w", ErrIsolation, err)
	}
	return err
}

// writes are the Landlock rights that change the file system, by the version of the
// interface that brought them.
func writes(abi int) uint64 {
	rights := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM)
	if abi >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return rights
}

func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("the kernel has no Landlock: %w", errno)
	}
	return int(abi), nil
}

// restrictWrites restricts the calling thread.
func restrictWrites(writable []string) error {
	fail := func(err error) error { return fmt.Errorf("%w: read-only files: %w", ErrIsolation, err) }
	abi, err := landlockABI()
	if err != nil {
		return fail(err)
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: writes(abi)}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr.Handled_access_fs), 0)
	if errno != 0 {
		return fail(errno)
	}
	defer unix.Close(int(ruleset))
	// Devices are written to without changing a file: /dev/null, GPUs.
	for _, dir := range append([]string{"/dev"}, writable...) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", dir, err))
		}
		beneath := unix.LandlockPathBeneathAttr{Allowed_access: writes(abi), Parent_fd: int32(fd)}
		_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0)
		_ = unix.Close(fd)
		if errno != 0 {
			return fail(fmt.Errorf("%s: %w", dir, errno))
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fail(errno)
	}
	return nil
}

// armLifeline asks the kernel to kill the plugin's whole process group the moment the
// host's end of the pipe closes, which the host's death does. It works for a plugin in
// any language, and for one that is stopped or holds an interpreter's lock; the SDK
// reads the pipe as well, in case the kernel refuses.
func armLifeline(f *os.File, pid int) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		if _, err := unix.FcntlInt(fd, unix.F_SETOWN, -pid); err != nil {
			return
		}
		if _, err := unix.FcntlInt(fd, unix.F_SETSIG, int(unix.SIGKILL)); err != nil {
			return
		}
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err == nil {
			_, _ = unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_ASYNC)
		}
	})
}
