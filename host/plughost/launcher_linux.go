package plughost

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launcherName is the host's program when it is started once more to put itself inside a
// plugin's limits and then become, or wait for, the plugin. What belongs to a process
// cannot be done to a child from outside; and a thread inside the limits of one plugin may
// not set up the next one's.
const launcherName = "alignedfusion: plugin"

// launch is what the launcher is told.
type launch struct {
	Command []string
	// Leads: the launcher is process 1 of a namespace. It waits for the plugin, collects
	// what loses its parent, and with its end the kernel ends all that is left.
	Leads bool
	// Report is the descriptor of a pipe for a line of failure, or "ok", and, when it
	// leads, a line with the plugin's wait status. Lifeline is 0 for none.
	Report, Lifeline int
	// ReadOnly: only what lies in Writable, and devices, may be written.
	ReadOnly bool
	Writable []string
	// NoInternet: sockets of other kinds than unix, and changes of files' modes, owners and
	// times, are refused (where no namespace does).
	NoInternet bool
	// Powerless: a plugin of root's has none of root's powers but to read.
	Powerless bool
	Limits    map[int]uint64
}

func init() {
	if len(os.Args) == 2 && os.Args[0] == launcherName {
		os.Exit(runLauncher(os.Args[1]))
	}
}

func runLauncher(text string) int {
	runtime.LockOSThread() // what follows belongs to a thread, and passes to the process it starts
	var l launch
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	unix.CloseOnExec(l.Report)
	report := os.NewFile(uintptr(l.Report), "report")
	fail := func(err error) int {
		fmt.Fprintln(report, err)
		return 127
	}
	if err := l.restrict(); err != nil {
		return fail(err)
	}
	if !l.Leads {
		return fail(syscall.Exec(l.Command[0], l.Command, os.Environ()))
	}
	if l.Lifeline > 0 {
		go l.watchLifeline()
	}
	files := make([]uintptr, l.Report)
	for fd := range files {
		files[fd] = uintptr(fd)
	}
	pid, err := syscall.ForkExec(l.Command[0], l.Command, &syscall.ProcAttr{Env: os.Environ(), Files: files})
	if err != nil {
		return fail(err)
	}
	fmt.Fprintln(report, "ok")
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR) || err == nil && ended != pid:
		case err != nil:
			return fail(err)
		default:
			fmt.Fprintln(report, uint32(status))
			return 0
		}
	}
}

// watchLifeline ends the namespace with the host.
func (l *launch) watchLifeline() {
	buffer := make([]byte, 1)
	for {
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(l.Lifeline), Events: unix.POLLIN}}, -1)
		if _, err := unix.Read(l.Lifeline, buffer); !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			os.Exit(1)
		}
	}
}

// restrict restricts the calling thread.
func (l *launch) restrict() error {
	if l.Leads && l.ReadOnly {
		// Landlock keeps files from being written, and leaves their modes and times open.
		if err := mountReadOnly(l.Writable); err != nil {
			return fmt.Errorf("read-only files: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("powers of the launcher: %w", err)
	}
	for resource, value := range l.Limits {
		var old unix.Rlimit
		if unix.Getrlimit(resource, &old) == nil {
			value = min(value, old.Max) // what the user has set may be tighter
		}
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("limit of resource %d: %w", resource, err)
		}
	}
	if l.Powerless && os.Geteuid() == 0 {
		for power := uintptr(0); power <= 63; power++ {
			if power != unix.CAP_DAC_READ_SEARCH {
				_ = unix.Prctl(unix.PR_CAPBSET_DROP, power, 0, 0, 0) // EINVAL: this kernel has fewer
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if l.ReadOnly {
		if err := restrictWrites(l.Writable); err != nil {
			return fmt.Errorf("read-only files: %w", err)
		}
	}
	if l.NoInternet {
		if err := refuseCalls(); err != nil {
			return fmt.Errorf("no network: %w", err)
		}
	}
	return nil
}

// mountReadOnly makes all mounts of the namespace read-only but for the folders and /dev/shm.
// A kernel that does not have the call (before Linux 5.12) or forbids it leaves them as they
// are.
func mountReadOnly(writable []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil
	}
	writable = append(slices.Clone(writable), "/dev/shm")
	for _, dir := range writable {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return nil
		}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return nil
	}
	for _, dir := range writable {
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// fileWrites are the Landlock rights to change a file, writes all that change the file
// system, by the version of the interface that brought them.
const fileWrites = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE

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

// devices may be written without changing a file: memory, terminals, GPUs. Python's locks
// and torch's workers live in /dev/shm.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/shm", "/dev/dri", "/dev/kfd", "/dev/nvidia*"}

func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("the kernel has no Landlock: %w", errno)
	}
	return int(abi), nil
}

// restrictWrites leaves the thread the folders writable, and devices. It may read what it
// could read, but look into no process, and signal none, that is not inside as well.
func restrictWrites(writable []string) error {
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: writes(abi)}
	size := unsafe.Sizeof(attr.Handled_access_fs)
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(ruleset))
	paths := slices.Clone(writable)
	for _, pattern := range devices {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		if err := allowWrites(int(ruleset), path, writes(abi)); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func allowWrites(ruleset int, path string, rights uint64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		rights &= fileWrites
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	beneath := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&beneath)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// auditArchitectures are the kernel's names of the processors whose system calls a filter
// knows.
var auditArchitectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// aboutFiles are the system calls that change a file's mode, owner, times and attributes,
// which Landlock leaves open: (f)chmod(at), (f, l)chown(at), utime(s, nsat), (f, l)setxattr.
var aboutFiles = map[string][]uint32{
	"amd64": {90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190},
	"arm64": {52, 53, 452, 55, 54, 88, 5, 6, 7},
}

// refuseCalls makes the kernel refuse sockets that are not unix's and changes of what is
// known about files, with EACCES, and the ways around: io_uring, and the system calls of
// another architecture (x32 included).
func refuseCalls() error {
	architecture, known := auditArchitectures[runtime.GOARCH]
	if !known {
		return fmt.Errorf("there is no filter of system calls for %s", runtime.GOARCH)
	}
	const (
		load, equal, atLeast, answer            = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_RET | unix.BPF_K
		callAt, architectureAt, firstArgumentAt = 0, 4, 16 // in struct seccomp_data
		x32                                     = 0x40000000
		refuse, allow                           = unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES), unix.SECCOMP_RET_ALLOW
	)
	refused := append([]uint32{unix.SYS_IO_URING_SETUP}, aboutFiles[runtime.GOARCH]...)
	toRefusal := uint8(len(refused)) + 5 // from the first of those that jump there
	filter := []unix.SockFilter{
		{Code: load, K: architectureAt},
		{Code: equal, K: architecture, Jf: toRefusal + 1},
		{Code: load, K: callAt},
		{Code: atLeast, K: x32, Jt: toRefusal - 1},
	}
	for i, call := range refused {
		filter = append(filter, unix.SockFilter{Code: equal, K: call, Jt: toRefusal - 2 - uint8(i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: equal, K: unix.SYS_SOCKET, Jf: 2},
		unix.SockFilter{Code: load, K: firstArgumentAt},
		unix.SockFilter{Code: equal, K: unix.AF_UNIX, Jf: 1},
		unix.SockFilter{Code: answer, K: allow},
		unix.SockFilter{Code: answer, K: refuse})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return fmt.Errorf("the kernel refuses a filter of system calls: %w", errno)
	}
	return nil
}
