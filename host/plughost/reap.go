package plughost

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
)

// envProcess marks the environment of a plugin process, and with it that of every
// process it starts.
const envProcess = "ALIGNEDFUSION_PLUGIN_PROCESS"

func newMark() string { return envProcess + "=" + rand.Text() }

// reapMarked kills the processes that a dead plugin has left outside its process group:
// the ones that carry its mark in their environment.
func reapMarked(mark string) {
	entries, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return
	}
	for _, path := range entries {
		environment, err := os.ReadFile(path)
		if err != nil {
			continue // another user's, or gone
		}
		for _, variable := range bytes.Split(environment, []byte{0}) {
			if string(variable) != mark {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil || pid == os.Getpid() {
				continue
			}
			if left, err := os.FindProcess(pid); err == nil {
				_ = left.Kill()
			}
		}
	}
}
