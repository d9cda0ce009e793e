package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// An archive depends on names, contents and executable bits, not on when or where its files
// were written; and sha256sum and tar read what is made.
func TestEqualTreesGiveEqualArchives(t *testing.T) {
	made := time.Unix(1_700_000_000, 0)
	var archives [][]byte
	for i, mode := range []os.FileMode{0o755, 0o700, 0o644} {
		root := t.TempDir()
		dir := filepath.Join(root, "alignedfusion-1")
		if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"bin/program": "program", "LICENSE": "words"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(filepath.Join(dir, "bin/program"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "bin/program"), filepath.Join(dir, "bin/second")); err != nil {
			t.Fatal(err)
		}
		when := made.Add(time.Duration(i) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "LICENSE"), when, when); err != nil {
			t.Fatal(err)
		}
		if err := pack(dir, dir+".tar.gz", made); err != nil {
			t.Fatal(err)
		}
		if err := writeSums(root, []string{"alignedfusion-1.tar.gz"}); err != nil {
			t.Fatal(err)
		}
		check := exec.Command("sh", "-c", "sha256sum -c --quiet SHA256SUMS && rm -r alignedfusion-1 && tar -xzf alignedfusion-1.tar.gz && cat alignedfusion-1/bin/second")
		check.Dir = root
		if out, err := check.CombinedOutput(); err != nil || string(out) != "program" {
			t.Errorf("%s: %v", out, err)
		}
		text, err := os.ReadFile(dir + ".tar.gz")
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, text)
	}
	if !bytes.Equal(archives[0], archives[1]) || bytes.Equal(archives[0], archives[2]) {
		t.Error("want equal archives for equal trees, and another one without the executable bit")
	}
}
