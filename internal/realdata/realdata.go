// Package realdata finds the public data sets that tests use where they are there.
package realdata

import (
	"os"
	"path/filepath"
	"testing"
)

// Path returns a file or folder of the folder data/ that lies beside the checkout in
// shared/, or in the folder that ALIGNEDFUSION_SHARED names. Where it is absent the test
// is skipped.
func Path(t testing.TB, parts ...string) string {
	t.Helper()
	root := os.Getenv("ALIGNEDFUSION_SHARED")
	if root == "" {
		root = filepath.Join(checkout(t), "..", "shared")
	}
	path := filepath.Join(append([]string{root, "data"}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no real data at %s; set ALIGNEDFUSION_SHARED to the folder that holds data/", path)
	}
	return path
}

// checkout is the folder with go.mod, at or above the test's.
func checkout(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skip("no go.mod above the test: set ALIGNEDFUSION_SHARED to the folder that holds data/")
		}
		dir = parent
	}
}
