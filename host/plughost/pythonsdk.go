package plughost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/sdk/python"
)

// pythonSDK is the folder of the Python SDK, and the name that plugins import.
const pythonSDK = "alignedfusion_sdk"

// lendSDK writes the Python SDK that came with this program beside a plugin in Python which
// does not bring one among its files.
func (f *Found) lendSDK(command []string, copied string) error {
	if f.owns(command[0]) || !pythons.MatchString(filepath.Base(command[0])) {
		return nil
	}
	for _, path := range f.Files {
		if strings.HasPrefix(f.inside(path), pythonSDK+string(filepath.Separator)) {
			return nil
		}
	}
	return os.CopyFS(copied, python.SDK)
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
