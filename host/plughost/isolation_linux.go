package plughost

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsolationSupport tries what the kernel offers.
func IsolationSupport(context.Context) []Support {
	network := Support{"no network", true, "network namespace"}
	processes := Support{"own processes", true, "process namespace"}
	if _, err := namespaces(); err != nil {
		network.Detail = "filter of system calls (" + err.Error() + ")"
		if auditArchitectures[runtime.GOARCH] == 0 {
			network.Available, network.Detail = false, err.Error()
		}
		processes.Available, processes.Detail = false, err.Error()+"; children are found by their parent instead"
	}
	files := Support{"read-only files", true, ""}
	if abi, err := landlockABI(); err != nil {
		files.Available, files.Detail = false, err.Error()
	} else {
		files.Detail = fmt.Sprintf("Landlock ABI %d", abi)
	}
	return []Support{{"resource limits", true, "setrlimit"}, network, files, processes}
}

// namespaces tries, once, whether a process can get a network, processes, messages and mounts
// of its own, and whether that takes a user namespace: it does for everyone but root, and for
// a root who has lost that power. In it the plugin keeps its user and group.
var namespaces = sync.OnceValues(func() (attr syscall.SysProcAttr, err error) {
	for _, user := range []bool{false, true} {
		attr = syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNS}
		if user {
			attr.Cloneflags |= unix.CLONE_NEWUSER
			attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // over its own mounts, for the launcher
			attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
			attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		} else if os.Geteuid() != 0 {
			continue
		}
		tried := attr
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{launcherName, "{}"}, SysProcAttr: &tried}
		if err = startSeen(cmd); err == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return attr, nil
		}
	}
	return attr, fmt.Errorf("the kernel refuses namespaces: %w", err)
})

// hide keeps the host's environment and memory from being read by other processes of the
// user's, plugins among them.
var hide = sync.OnceFunc(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) })

var visible sync.Mutex

// startSeen starts a process while the host's files in /proc are its user's again: who
// maps users of a child must be able to write there. A plugin that runs already cannot
// look: Landlock keeps it from processes that are not inside with it.
func startSeen(cmd *exec.Cmd) error {
	visible.Lock()
	defer visible.Unlock()
	hidden, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err == nil && hidden == 0 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		defer func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }()
	}
	return cmd.Start()
}

// start starts cmd inside the limits; writable are the folders it may change in spite of
// them. lifeline is its descriptor there, 0 for none.
func (i Isolation) start(cmd *exec.Cmd, writable []string, lifeline int) (*inside, error) {
	out := &inside{cmd: cmd}
	l := launch{Command: append([]string{cmd.Path}, cmd.Args[1:]...), Lifeline: lifeline, Writable: writable, Limits: i.limits(), Powerless: !i.Trusted}
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	if !i.Trusted {
		attr, err := namespaces()
		switch {
		case err == nil:
			l.Leads = true
			cmd.SysProcAttr.Cloneflags, cmd.SysProcAttr.AmbientCaps = attr.Cloneflags, attr.AmbientCaps
			cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = attr.UidMappings, attr.GidMappings
			if i.Network {
				cmd.SysProcAttr.Cloneflags &^= unix.CLONE_NEWNET
			}
		case auditArchitectures[runtime.GOARCH] != 0:
			l.NoInternet = !i.Network
			out.missing = append(out.missing, "processes of its own ("+err.Error()+")")
		case i.NoNetwork:
			return nil, fmt.Errorf("%w: no network: %w", ErrIsolation, err)
		default:
			out.missing = append(out.missing, "no network, processes of its own ("+err.Error()+")")
		}
		if i.Network {
			out.missing = append(out.missing, "no network (processes that train together need it)")
		}
		_, err = landlockABI()
		if l.ReadOnly = err == nil; !l.ReadOnly {
			if i.ReadOnly {
				return nil, fmt.Errorf("%w: read-only files: %w", ErrIsolation, err)
			}
			out.missing = append(out.missing, "read-only files ("+err.Error()+")")
		}
	}
	if !l.Leads {
		// What loses its parent becomes the host's child, and is found there.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, write)
	l.Report = 2 + len(cmd.ExtraFiles)
	text, err := json.Marshal(l)
	if err != nil {
		return nil, errors.Join(err, read.Close())
	}
	cmd.Path, cmd.Args = "/proc/self/exe", []string{launcherName, string(text)}
	if err := startSeen(cmd); err != nil {
		return nil, errors.Join(err, read.Close())
	}
	_ = write.Close()
	out.leads, out.report, out.lines = l.Leads, read, bufio.NewReader(read)
	line, _ := out.lines.ReadString('\n')
	if line = strings.TrimSpace(line); line != "" && line != "ok" {
		_ = cmd.Wait()
		_ = read.Close()
		return nil, errors.New(line)
	}
	leaders.Store(cmd.Process.Pid, true)
	return out, nil
}

// runsNothing reports whether programs of a folder may not run (a mount with noexec).
func runsNothing(dir string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(dir, &stat) == nil && stat.Flags&unix.ST_NOEXEC != 0
}

func (i Isolation) limits() map[int]uint64 {
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
	return limits
}

// ended is how the process ended, after it did: the launcher says it of the plugin that it
// waited for.
func (p *inside) ended() syscall.WaitStatus {
	defer p.report.Close()
	leaders.Delete(p.cmd.Process.Pid)
	if !p.leads {
		killOrphans()
	}
	line, _ := p.lines.ReadString('\n')
	if status, err := strconv.ParseUint(strings.TrimSpace(line), 10, 32); err == nil {
		return syscall.WaitStatus(status)
	}
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status
}

// pid is the plugin's, which the launcher has started when it leads.
func (p *inside) pid() int {
	own := p.cmd.Process.Pid
	if !p.leads {
		return own
	}
	if children := childrenOf(own); len(children) > 0 {
		return children[0]
	}
	return own
}

// childrenOf lists the processes that a process has started and not collected, oldest first.
func childrenOf(pid int) (out []int) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}

// leaders are the processes that were started as plugins and run.
var leaders sync.Map

// killOrphans ends what plugins have left: children of the host that it has not started as
// plugins and that can get no new privileges, which passes from parent to child and cannot
// be shaken off.
func killOrphans() {
	if on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || on != 0 {
		return // the host's own commands look the same
	}
	for _, pid := range childrenOf(os.Getpid()) {
		if _, plugin := leaders.Load(pid); plugin {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && strings.Contains(string(status), "\nNoNewPrivs:\t1\n") {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	}
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
