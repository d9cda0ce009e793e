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
	if _, err := os.Stat(filepath.Join(checkout(t), "go.mod")); err != nil {
		t.Error(err)
	}
}
