package plughost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/sdk/client"
)

// Isolation limits what plugins can do. With the zero value a plugin has no network,
// changes no files but in a folder of its own, sees and signals no other processes and
// leaves none behind, as far as the kernel allows; besides that it has a clean
// environment, no core dumps, no new privileges, and a private folder for its socket.
type Isolation struct {
	// MemoryBytes bounds a plugin's memory: what is private to it (RLIMIT_DATA) and the
	// shared memory together. 0 means no bound.
	MemoryBytes uint64
	// CPUSeconds bounds the processor time a plugin may use in all. 0 means no bound.
	CPUSeconds uint64
	// OpenFiles bounds its open files. 0 means DefaultOpenFiles.
	OpenFiles uint64
	// NoNetwork insists: a kernel that cannot keep plugins from the network is an error.
	NoNetwork bool
	// ReadOnly insists: a kernel that cannot keep plugins from changing files is an error.
	ReadOnly bool
	// Network opens the network to plugins whose group of processes needs it.
	Network bool
	// Trusted leaves network, files and processes open.
	Trusted bool
}

// inside is a process that was started inside an Isolation.
type inside struct {
	cmd *exec.Cmd
	// missing is what the kernel did not allow.
	missing []string
	// leads: cmd is a launcher, which waits for the plugin.
	leads  bool
	report io.Closer
	lines  *bufio.Reader
}

// DefaultOpenFiles bounds the open files of a plugin.
const DefaultOpenFiles = 4096

// ErrIsolation is returned when the kernel does not offer an isolation that was asked
// for. Nothing was started.
var ErrIsolation = errors.New("isolation is not available")

// Support says whether this machine offers one kind of isolation.
type Support struct {
	Name      string `json:"name"`
	Available bool   `json:"available"`
	// Detail is the version of the mechanism, or why it is not there.
	Detail string `json:"detail"`
}

// memoryShare is the part of a plugin's memory limit that is shared memory when nobody
// says how much.
const memoryShare = 8

// newArena makes a plugin's shared memory, and takes it off the limit of its memory. It
// is nil, and why is written to the log, where there can be none: tensors then travel in
// the messages, which is slower and otherwise the same.
func (h *Host) newArena(i *Isolation, log io.Writer) (*client.Arena, error) {
	size, limit := h.options.ArenaBytes, i.MemoryBytes
	switch {
	case h.options.InBand:
		return nil, nil
	case limit > 0 && size == 0:
		size = min(client.DefaultArenaBytes, int64(limit/memoryShare))
	case limit > 0 && uint64(size) >= limit:
		return nil, fault.Errorf(fault.Usage, "%d MiB of memory and %d of them shared leave nothing for a plugin itself; raise --plugin-memory-mib or lower --plugin-shared-mib",
			limit>>20, size>>20)
	}
	arena, err := client.NewArena(size)
	if err != nil {
		fmt.Fprintf(log, "tensors travel in the messages: %v\n", err)
		return nil, nil
	}
	if limit > 0 {
		i.MemoryBytes -= uint64(arena.Size())
	}
	return arena, nil
}

// saveThrough lets a plugin that may not write elsewhere save into its own folder, and
// copies the files to where they were wanted.
func (p *Plugin) saveThrough(dir string, save func(dir string) ([]string, error)) ([]string, error) {
	if p.isolation.Trusted || p.runner.attached {
		return save(dir)
	}
	between, err := os.MkdirTemp(p.dir, "save-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(between)
	files, err := save(between)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(between)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, name := range files {
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("%w: it saved %q, which lies outside the folder", client.ErrAnswer, name)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := copyFile(root, name, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return files, nil
}
