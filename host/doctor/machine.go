package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk/client"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	// Training the tiny preset needs about 1 GiB, densenet121 at 512x512 about 9.
	memoryFail = 1 * gib
	memoryWarn = 4 * gib
	// A run with checkpoints of densenet121 writes about 0.5 GiB, its data set more.
	diskFail = 200 * mib
	diskWarn = 5 * gib
)

// machine reads facts below root ("/" but for tests).
type machine struct{ root string }

func (m machine) path(parts ...string) string {
	return filepath.Join(append([]string{m.root}, parts...)...)
}

// unknown is the finding where Linux's /proc is not.
func unknown(check string, err error) Finding {
	if runtime.GOOS != "linux" {
		return Finding{check, OK, "not looked at on " + runtime.GOOS, ""}
	}
	return Finding{check, Warn, err.Error(), "mount /proc"}
}

// flagsOfInterest are the processor's abilities that change libtorch's speed.
var flagsOfInterest = []string{"avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "sve", "bf16"}

// processor reports cores and vector instructions.
func (m machine) processor() Finding {
	text, err := os.ReadFile(m.path("proc", "cpuinfo"))
	if err != nil {
		return unknown("processor", err)
	}
	var flags []string
	model := runtime.GOARCH
	scanner := bufio.NewScanner(strings.NewReader(string(text)))
	scanner.Buffer(nil, mib)
	for scanner.Scan() {
		key, value, found := strings.Cut(scanner.Text(), ":")
		if !found {
			continue
		}
		switch strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags", "Features":
			if flags == nil {
				flags = strings.Fields(value)
			}
		}
	}
	var have []string
	for _, f := range flagsOfInterest {
		if slices.Contains(flags, f) {
			have = append(have, f)
		}
	}
	cores := runtime.NumCPU()
	detail := fmt.Sprintf("%s, %d cores", model, cores)
	if quota, limited := m.cpuQuota(); limited && quota < float64(cores) {
		return Finding{"processor", Warn, fmt.Sprintf("%s, of which this container may use %.1f; %s", detail, quota, strings.Join(have, " ")),
			fmt.Sprintf("give --threads %d, so that threads do not wait for each other", max(1, int(quota)))}
	}
	if runtime.GOARCH == "amd64" && !slices.Contains(have, "avx2") {
		return Finding{"processor", Warn, detail + ", no AVX2", "expect several times the usual duration; a machine with AVX2 or AVX-512 is faster"}
	}
	return Finding{Check: "processor", Status: OK, Detail: detail + "; " + strings.Join(have, " ")}
}

// cpuQuota returns the cores that the control group grants.
func (m machine) cpuQuota() (cores float64, limited bool) {
	text, err := os.ReadFile(m.path("sys", "fs", "cgroup", "cpu.max"))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return 0, false
	}
	quota, err1 := strconv.ParseFloat(fields[0], 64) // "max" when unlimited
	period, err2 := strconv.ParseFloat(fields[1], 64)
	if err1 != nil || err2 != nil || period <= 0 {
		return 0, false
	}
	return quota / period, true
}

// memory reports what is free for plugins.
func (m machine) memory() Finding {
	text, err := os.ReadFile(m.path("proc", "meminfo"))
	if err != nil {
		return unknown("memory", err)
	}
	bytes := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if !found || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 64); err == nil {
			bytes[key] = n << 10
		}
	}
	total, available := bytes["MemTotal"], bytes["MemAvailable"]
	detail := fmt.Sprintf("%.1f GiB, %.1f available", float64(total)/gib, float64(available)/gib)
	if limit, err := os.ReadFile(m.path("sys", "fs", "cgroup", "memory.max")); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(limit)), 10, 64); err == nil && n < total {
			detail += fmt.Sprintf(", this container at most %.1f", float64(n)/gib)
			available = min(available, n)
		}
	}
	const mend = "end other programs, train with a smaller image or batch, or use the preset tiny"
	switch {
	case available < memoryFail:
		return Finding{"memory", Fail, detail, mend}
	case available < memoryWarn:
		return Finding{"memory", Warn, detail + "; enough for the preset tiny only", mend}
	}
	return Finding{Check: "memory", Status: OK, Detail: detail}
}

// sharedMemory tries what tensors travel through: a memory file, sealed against
// resizing.
func sharedMemory() Finding {
	arena, err := client.NewArena(0)
	if err != nil {
		return Finding{"shared memory", Warn, err.Error() + "; tensors travel inside the messages, slower", "raise ulimit -v and ulimit -f, if they are set"}
	}
	defer arena.Close()
	if size := arena.Size(); size < client.DefaultArenaBytes {
		return Finding{"shared memory", OK, fmt.Sprintf("%d MiB: the limits of this process (ulimit -f, ulimit -v) leave no more", size/mib), ""}
	}
	return Finding{Check: "shared memory", Status: OK, Detail: "memory files can be made and sealed"}
}

// diskSpace reports what is free where runs are written.
func diskSpace(dir string) Finding {
	free, err := freeBytes(dir)
	if err != nil {
		return Finding{"disk", Fail, fmt.Sprintf("%s: %v", dir, err), "change to an existing folder"}
	}
	return judgeDisk(free)
}

func judgeDisk(free uint64) Finding {
	detail := fmt.Sprintf("%.1f GiB free here", float64(free)/gib)
	const mend = "remove old runs, or write to another disk with --out"
	switch {
	case free < diskFail:
		return Finding{"disk", Fail, detail, mend}
	case free < diskWarn:
		return Finding{"disk", Warn, detail, mend}
	}
	return Finding{Check: "disk", Status: OK, Detail: detail}
}

// nvidiaDriver returns the version of the NVIDIA driver, "" without one.
func (m machine) nvidiaDriver() string {
	text, err := os.ReadFile(m.path("proc", "driver", "nvidia", "version"))
	if err != nil {
		return ""
	}
	if v := regexp.MustCompile(`\d+\.\d+(\.\d+)?`).FindString(string(text)); v != "" {
		return v
	}
	return "unknown version"
}

// gpuDevices lists the GPUs' device files.
func (m machine) gpuDevices() []string {
	all, err := filepath.Glob(m.path("dev", "nvidia[0-9]*"))
	if err != nil {
		return nil
	}
	return all
}

// wantGo is what go.mod asks for.
const wantGo = "go1.26"

// buildTools reports the compilers; only building needs them.
func buildTools(ctx context.Context) []Finding {
	const mend = "only needed to build: "
	var found []Finding
	switch text, err := output(ctx, "go", "version"); {
	case err != nil:
		found = append(found, Finding{"go", Warn, err.Error(), mend + "install Go 1.26 or newer from go.dev/dl"})
	default:
		version := goVersion(text)
		if version == "" || !atLeast(version, wantGo) {
			found = append(found, Finding{"go", Warn, text, mend + "install Go 1.26 or newer from go.dev/dl"})
		} else {
			found = append(found, Finding{Check: "go", Status: OK, Detail: text})
		}
	}
	switch text, err := output(ctx, "g++", "--version"); {
	case err != nil:
		found = append(found, Finding{"g++", Warn, err.Error(), mend + "apt-get install g++"})
	default:
		found = append(found, Finding{Check: "g++", Status: OK, Detail: text})
	}
	return found
}

// output runs a program and returns the first line it prints.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("not installed")
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}

var goVersionPattern = regexp.MustCompile(`go\d+(\.\d+)*`)

func goVersion(text string) string {
	return goVersionPattern.FindString(strings.TrimPrefix(text, "go version "))
}

// atLeast compares versions like go1.26.3 number by number.
func atLeast(version, want string) bool {
	a, b := numbers(version), numbers(want)
	for i := range b {
		if i >= len(a) {
			return false
		}
		if a[i] != b[i] {
			return a[i] > b[i]
		}
	}
	return true
}

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(strings.TrimPrefix(version, "go"), ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return out
		}
		out = append(out, n)
	}
	return out
}
