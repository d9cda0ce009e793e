package thirdparty

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The SDK passes its own tests, and is a package that pip installs and imports.
func TestThePythonSDKIsAPackage(t *testing.T) {
	t.Parallel()
	needPython(t)
	source := filepath.Join(t.TempDir(), "sdk")
	if err := os.CopyFS(source, os.DirFS(root+"/sdk/python")); err != nil {
		t.Fatal(err)
	}
	python := func(dir, path string, args ...string) string {
		cmd := exec.Command(debianPython, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PYTHONPATH="+path, "PYTHONDONTWRITEBYTECODE=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	python(source, source, "-m", "unittest", "discover", "tests")
	if err := exec.Command(debianPython, "-c", "import setuptools, wheel, pip").Run(); err != nil {
		t.Skip("no pip, setuptools or wheel for Python")
	}
	into := filepath.Join(t.TempDir(), "installed")
	python(source, "", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", into, source)
	if out := python(t.TempDir(), into, "-c", "import alignedfusion_sdk as af; print(af.__file__, af.Port.named('joint').dtype)"); !strings.HasPrefix(out, into) || !strings.Contains(out, "FP32") {
		t.Errorf("imported %s, want it from %s", out, into)
	}
	if _, err := os.Stat(filepath.Join(into, "alignedfusion_sdk", "py.typed")); err != nil {
		t.Error(err)
	}
}
