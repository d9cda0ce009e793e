package plughost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Hashes returns the SHA-256 of every file of a plugin, by path.
func (f *Found) Hashes() (map[string]string, error) {
	out := map[string]string{}
	for _, path := range f.Files {
		sum, err := hashFile(path)
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", f.Name, err)
		}
		out[path] = sum
	}
	return out, nil
}

func hashFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// runnable checks that the plugin's command can be started and returns it with its
// program's path.
func (f *Found) runnable() ([]string, error) {
	command := append([]string(nil), f.Command...)
	program := command[0]
	if filepath.IsAbs(program) {
		info, err := os.Stat(program)
		if err != nil {
			return nil, err
		}
		if info.Mode()&0o111 == 0 {
			return nil, fmt.Errorf("%s is not executable (mode %v); chmod +x it", program, info.Mode().Perm())
		}
		return command, nil
	}
	path, err := exec.LookPath(program)
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("its interpreter %q is not installed", program)
		}
		return nil, err
	}
	command[0] = path
	return command, nil
}
