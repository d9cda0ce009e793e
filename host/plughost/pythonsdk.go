package plughost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/sdk/python"
)

// pythonSDK is the folder of the Python SDK, and the name that plugins import.
const pythonSDK = "alignedfusion_sdk"

// lendSDK writes the Python SDK that came with this program into the copy of a plugin in
// Python. Files of it that the plugin brings itself stay as they are: of a copy of the SDK
// whose list is older than it is, those that the list lacks are added.
func (f *Found) lendSDK(command []string, copied string) error {
	if f.owns(command[0]) || !pythons.MatchString(filepath.Base(command[0])) {
		return nil
	}
	files, err := python.SDK.ReadDir(pythonSDK)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(copied, pythonSDK), 0o700); err != nil {
		return err
	}
	for _, file := range files {
		to := filepath.Join(copied, pythonSDK, file.Name())
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		text, err := python.SDK.ReadFile(pythonSDK + "/" + file.Name())
		if err := errors.Join(err, os.WriteFile(to, text, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// PythonSDK returns a folder with the Python SDK of this program, for PYTHONPATH. It lies
// among the user's cached files and is written when it is not there yet.
func PythonSDK() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	err = fs.WalkDir(python.SDK, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := python.SDK.ReadFile(path)
		h.Write(append([]byte(path), text...))
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "alignedfusion", "python-"+hex.EncodeToString(h.Sum(nil))[:12])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	err = atomicfile.Folder(dir, func(temporary string) error { return os.CopyFS(temporary, python.SDK) })
	if errors.Is(err, atomicfile.ErrNotEmpty) {
		err = nil // another process was first
	}
	return dir, err
}
