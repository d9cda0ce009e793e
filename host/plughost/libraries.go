package plughost

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// recorded are the libraries that a run names: libtorch's, and what is made for it.
var recorded = regexp.MustCompile(`^lib(tch|torch\w*|c10\w*|alignedfusion_\w+)\.so(\.[0-9.]+)?$`)

// largeBytes is the size from which a library is known by its size: hashing libtorch would
// cost more than starting it.
const largeBytes = 64 << 20

// Libraries are those of libtorch, and those made for it, that the process has loaded, by
// name: the SHA-256, or the size of a large one, and libtorch's version beside libtch.so,
// which knows it. It is empty where the system does not say.
func (p *Plugin) Libraries() map[string]string {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID()))
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for line := range strings.Lines(string(maps)) {
		_, path, found := strings.Cut(line, "/")
		path = "/" + strings.TrimSpace(path)
		name := filepath.Base(path)
		if _, done := out[name]; !found || done || !recorded.MatchString(name) {
			continue
		}
		if about, err := aboutLibrary(path); err == nil {
			out[name] = about
		}
	}
	return out
}

func aboutLibrary(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() >= largeBytes {
		return fmt.Sprintf("%d bytes", info.Size()), nil
	}
	sum, err := copyHashed(io.Discard, file)
	if err != nil || filepath.Base(path) != shimLibrary {
		return sum, err
	}
	if version := shimVersion(path); version != "" {
		sum += " for libtorch " + version
	}
	return sum, nil
}

// shimVersion is the libtorch that libtch.so was made for, as the file beside it says; ""
// where there is none.
func shimVersion(path string) string {
	var made struct {
		Libtorch struct{ Version string }
	}
	text, err := os.ReadFile(strings.TrimSuffix(path, ".so") + ".json")
	if err != nil || json.Unmarshal(text, &made) != nil {
		return ""
	}
	return made.Libtorch.Version
}
