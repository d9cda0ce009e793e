package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPortableLibraryIsInstalledForALibtorchOfItsSeries(t *testing.T) {
	torch, err := findLibtorch(tinyTorch(t, tinyHeader))
	if err != nil {
		t.Fatal(err)
	}
	series, err := torch.series()
	if err != nil || !strings.HasPrefix(series, "torch-9.8-") {
		t.Fatalf("series %q, %v", series, err)
	}
	dir, out := t.TempDir(), t.TempDir()
	library := "head\x00" + runPathPlace + "\x00tail"
	write(t, dir, map[string]string{series + "/libtch.so": library, series + "/libtch.json": `{"schema_version": 2, "functions": 7}`})
	if err := installPrebuilt(torch, dir, out, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(out, "libtch.so"))
	if err != nil || len(text) != len(library) || !bytes.HasPrefix(text, []byte("head\x00"+torch.runPath()+"\x00")) || !bytes.HasSuffix(text, []byte("\x00tail")) {
		t.Errorf("%q, %v; want %s as the run path", text, err, torch.runPath())
	}
	made, err := readJSON[record](filepath.Join(out, "libtch.json"))
	if err != nil || made.Functions != 7 || made.Libtorch.LibDir != torch.LibDir {
		t.Errorf("record %+v, %v", made, err)
	}
}

func TestPrebuiltLibrariesThatDoNotFitAreSaid(t *testing.T) {
	torch, err := findLibtorch(tinyTorch(t, tinyHeader))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"torch-1.1-x86_64/libtch.so": ""})
	err = installPrebuilt(torch, dir, t.TempDir(), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "libtorch 9.8.7+test") || !strings.Contains(err.Error(), "there are torch-1.1-x86_64") {
		t.Errorf("%v", err)
	}
	if _, err := placeRunPath([]byte(runPathPlace), "/"+strings.Repeat("x", len(runPathPlace))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a long folder: %v", err)
	}
	if _, err := placeRunPath([]byte("ELF"), "/x"); err == nil {
		t.Error("a library without a place for the run path was taken")
	}
}
