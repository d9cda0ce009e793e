package realdata

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDataAreFoundOrTheTestIsSkipped(t *testing.T) {
	root := t.TempDir()
	want := filepath.Join(root, "data", "set")
	if err := os.MkdirAll(want, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ALIGNEDFUSION_SHARED", root)
	if got := Path(t, "set"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	skipped := t.Run("absent", func(t *testing.T) {
		Path(t, "none")
		t.Error("a test without its data goes on")
	})
	if !skipped {
		t.Error("not skipped")
	}
	outside := t.Run("outside a checkout", func(t *testing.T) {
		t.Setenv("ALIGNEDFUSION_SHARED", "")
		t.Chdir(t.TempDir())
		Path(t, "set")
		t.Error("a test outside a checkout goes on")
	})
	if !outside {
		t.Error("outside a checkout: not skipped")
	}
	if _, err := os.Stat(filepath.Join(checkout(t), "go.mod")); err != nil {
		t.Error(err)
	}
}
