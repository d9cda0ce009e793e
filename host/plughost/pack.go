package plughost

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/klauspost/compress/zstd"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// PackageEnding is how the name of a package of a plugin ends: a tar archive, compressed
// with zstd, whose first file is packageFile.
const PackageEnding = ".afp"

const (
	packageFile  = "manifest.json"
	packageBytes = 4 << 20 // of packageFile
)

// Package is what a package says about itself. Nothing of it has to run for that.
type Package struct {
	SchemaVersion int    `json:"schema_version"`
	Name          string `json:"name"`
	Version       string `json:"version"`
	// Platform is the system and processor that the programs in it are for, like linux/amd64.
	Platform string   `json:"platform"`
	Kinds    []string `json:"kinds"`
	Protocol []int    `json:"protocol"`
	Command  []string `json:"command"`
	Runtime  string   `json:"runtime,omitempty"`
	// Libtorch is the version that the libtch.so in it was made for, LibtorchRange what it
	// runs with: versions that differ in the second place have other symbols.
	Libtorch      string `json:"libtorch,omitempty"`
	LibtorchRange string `json:"libtorch_range,omitempty"`
	// Requirements are the Python packages that it needs, name==version.
	Requirements []string `json:"requirements,omitempty"`
	License      string   `json:"license,omitempty"`
	ModelCard    string   `json:"model_card,omitempty"`
	// Files are all files of the plugin but packageFile.
	Files map[string]PackedFile `json:"files"`
}

// PackedFile is a file in a package.
type PackedFile struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// Pack writes the plugin at path (a program, or a folder with a LayoutFile) into a package
// in dir, and returns the package's file and its SHA-256. The plugin is run with
// --describe. A program that needs libtch.so takes along the one it has here, one in Python
// the wheels of its requirements that lie in the folder wheelhouse, unless that is "".
func Pack(ctx context.Context, path, dir, wheelhouse string) (file, sum string, _ *Package, err error) {
	fail := func(err error) (string, string, *Package, error) { return "", "", nil, err }
	found, err := Find(path, nil)
	if err != nil {
		return fail(err)
	}
	folder, err := os.MkdirTemp("", "alignedfusion-pack-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	layout, manifest, err := stage(ctx, found, folder)
	if err != nil {
		return fail(err)
	}
	p := &Package{SchemaVersion: 1, Name: layout.Name, Version: layout.Version, Platform: System, Kinds: layout.Kinds, Protocol: layout.Protocol,
		Command: layout.Command, Runtime: manifest.Runtime, License: layout.License, ModelCard: layout.ModelCard, Files: map[string]PackedFile{}}
	layout.Files = slices.DeleteFunc(layout.Files, inFolder(packageDir)) // made where it is installed
	if wheelhouse != "" {
		if err := layout.takeWheels(wheelhouse, folder); err != nil {
			return fail(err)
		}
	}
	if p.Libtorch, err = takeLibraries(found, layout, folder); err != nil {
		return fail(err)
	}
	p.LibtorchRange = series(p.Libtorch)
	if p.Requirements, err = layout.requirements(folder); err != nil {
		return fail(err)
	}
	text, err := yaml.Marshal(layout)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, LayoutFile), text, 0o644)
	}
	if err != nil {
		return fail(err)
	}
	names := append([]string{LayoutFile}, layout.Files...)
	for _, name := range names {
		packed, err := packedFile(filepath.Join(folder, name))
		if err != nil {
			return fail(err)
		}
		p.Files[name] = packed
	}
	file = filepath.Join(dir, fmt.Sprintf("%s-%s-%s%s", p.Name, p.Version, strings.ReplaceAll(System, "/", "_"), PackageEnding))
	if strings.ContainsAny(p.Version, "/\\") {
		return fail(fmt.Errorf("version %q: no file can be called so", p.Version))
	}
	h := sha256.New()
	err = atomicfile.Write(file, func(w io.Writer) error { return p.write(io.MultiWriter(w, h), folder, names) })
	return file, hex.EncodeToString(h.Sum(nil)), p, err
}

func packedFile(path string) (PackedFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return PackedFile{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return PackedFile{}, err
	}
	sum, err := copyHashed(io.Discard, file)
	return PackedFile{sum, info.Size()}, err
}

// takeLibraries copies libtch.so, and the plugin's own operators beside it, into lib/ of a
// folder when the program needs it, and adds them to the layout. It returns the libtorch
// they were made for.
func takeLibraries(f *Found, layout *Layout, folder string) (libtorch string, err error) {
	_, runPath, needed := f.linked()
	if !f.owns(f.Command[0]) || !slices.Contains(needed, shimLibrary) {
		return "", nil
	}
	for _, dir := range slices.Concat(f.libraryFolders(folder), runPath, hostLibraries()) {
		if _, err := os.Stat(filepath.Join(dir, shimLibrary)); err != nil {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return "", err
		}
		defer root.Close()
		for _, name := range []string{shimLibrary, "libtch.json", "libalignedfusion_" + layout.Name + ".so"} {
			to := filepath.Join("lib", name)
			if _, err := root.Stat(name); err != nil || slices.Contains(layout.Files, to) {
				continue
			}
			if err := copyFile(root, name, filepath.Join(folder, to)); err != nil {
				return "", err
			}
			layout.Files = append(layout.Files, to)
		}
		return shimVersion(filepath.Join(dir, shimLibrary)), nil
	}
	return "", fmt.Errorf("%s needs %s, which is nowhere here", f.Path, shimLibrary)
}

// write writes the archive. Times and owners are left out: equal plugins are equal packages.
func (p *Package) write(w io.Writer, folder string, names []string) error {
	compressed, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(compressed)
	about, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	add := func(name string, mode, size int64, from io.Reader) error {
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: mode, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(archive, from)
		return err
	}
	if err := add(packageFile, 0o644, int64(len(about)), bytes.NewReader(about)); err != nil {
		return err
	}
	for _, name := range names {
		file, err := os.Open(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		info, err := file.Stat()
		if err == nil {
			err = add(name, int64(0o644|info.Mode().Perm()&0o111), info.Size(), file)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), compressed.Close())
}

var errDamaged = fault.New(fault.Data, "it is no package of a plugin, or damaged")

// openPackage opens the archive behind its Package, and what it is compressed in, which the
// caller closes.
func openPackage(r io.Reader) (*Package, *tar.Reader, *zstd.Decoder, error) {
	buffered := bufio.NewReader(r)
	if head, _ := buffered.Peek(512); !bytes.HasPrefix(head, []byte(zstdMagic)) {
		what := recogniseArchive(head)
		if what == "" {
			what = "another file"
		}
		return nil, nil, nil, fmt.Errorf("%w, but %s; `alignedfusion plugin pack` makes packages", errDamaged, what)
	}
	compressed, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, nil, nil, err
	}
	archive := tar.NewReader(compressed)
	fail := func(err error) (*Package, *tar.Reader, *zstd.Decoder, error) {
		compressed.Close()
		return nil, nil, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	header, err := archive.Next()
	if err != nil {
		return fail(err)
	}
	if header.Name != packageFile || header.Size > packageBytes {
		return fail(fmt.Errorf("its first file is %q of %d bytes, want %s", header.Name, header.Size, packageFile))
	}
	var p Package
	decoder := json.NewDecoder(archive)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return fail(fmt.Errorf("%s: %w", packageFile, err))
	}
	for _, text := range append([]string{p.Version, p.Platform, p.License, p.ModelCard, p.Runtime, p.Libtorch, p.LibtorchRange}, slices.Concat(p.Command, p.Kinds, p.Requirements)...) {
		if printable(text) != text {
			return fail(fmt.Errorf("%s has characters that are not for showing: %q", packageFile, text))
		}
	}
	if p.SchemaVersion != 1 || !validName(p.Name) {
		return fail(fmt.Errorf("%s: schema_version %d and name %q, want 1 and letters, digits, - and _", packageFile, p.SchemaVersion, p.Name))
	}
	return &p, archive, compressed, nil
}

// ReadPackage returns what a package says about itself; nothing of it runs.
func ReadPackage(path string) (*Package, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p, _, compressed, err := openPackage(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	compressed.Close()
	return p, nil
}

// unpack writes the files of a package into a folder, each as its Package says.
func unpack(path, folder string) (*Package, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p, archive, compressed, err := openPackage(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer compressed.Close()
	damaged := func(err error) (*Package, error) { return nil, fmt.Errorf("%s: %w: %w", path, errDamaged, err) }
	if p.Platform != System {
		return nil, fmt.Errorf("%s is for %s, this machine is %s: get the package built for it", path, p.Platform, System)
	}
	seen := map[string]bool{}
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		want, known := p.Files[header.Name]
		if !known || seen[header.Name] || header.Typeflag != tar.TypeReg || !filepath.IsLocal(header.Name) || header.Size != want.Bytes {
			return nil, fmt.Errorf("%w: %s: %q is not what its %s says", ErrUnsafe, path, header.Name, packageFile)
		}
		seen[header.Name] = true
		if err := unpackFile(archive, filepath.Join(folder, header.Name), header.Mode&0o111 != 0, want.SHA256); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	for name := range p.Files {
		if !seen[name] {
			return damaged(fmt.Errorf("%s is missing", name))
		}
	}
	if n, err := io.Copy(io.Discard, compressed); err != nil || n > 0 {
		return damaged(errors.New("there is more in it after its end"))
	}
	layout, err := ReadLayout(filepath.Join(folder, LayoutFile))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	needs, err := layout.requirements(folder)
	if err == nil && !slices.Equal(needs, p.Requirements) {
		err = fmt.Errorf("%s says requirements %q, %s in it %q: get the package from who made it", packageFile, p.Requirements, layout.Requirements, needs)
	}
	if err := errors.Join(err, p.agrees(layout), p.fitsLibtorch()); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnsafe, path, err)
	}
	return p, nil
}

// agrees refuses a package that shows itself otherwise than what is in it will run.
func (p *Package) agrees(l *Layout) error {
	for _, field := range []struct{ name, shown, inside string }{
		{"name", p.Name, l.Name}, {"version", p.Version, l.Version}, {"license", p.License, l.License}, {"model_card", p.ModelCard, l.ModelCard},
		{"kinds", fmt.Sprint(p.Kinds), fmt.Sprint(l.Kinds)}, {"protocol", fmt.Sprint(p.Protocol), fmt.Sprint(l.Protocol)}, {"command", fmt.Sprintf("%q", p.Command), fmt.Sprintf("%q", l.Command)},
	} {
		if field.shown != field.inside {
			return fmt.Errorf("%s says %s %s, the %s in it %s: get the package from who made it", packageFile, field.name, field.shown, LayoutFile, field.inside)
		}
	}
	return nil
}

// fitsLibtorch refuses a package for another libtorch than this machine's libtch.so was made
// for, where there is one.
func (p *Package) fitsLibtorch() error {
	for _, dir := range hostLibraries() {
		if here := shimVersion(filepath.Join(dir, shimLibrary)); here != "" && p.LibtorchRange != "" && series(here) != p.LibtorchRange {
			return fmt.Errorf("it runs with libtorch %s (made for %s), this machine has %s (%s): get the package for that one, or build the plugin here",
				p.LibtorchRange, p.Libtorch, here, dir)
		}
	}
	return nil
}

// series are the versions with the first two places of one: 1.13.* of 1.13.0; "" of "".
func series(version string) string {
	if version == "" {
		return ""
	}
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".") + ".*"
}

func unpackFile(from io.Reader, to string, executable bool, sum string) error {
	mode := os.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), from)
	var disk *fs.PathError
	if err := errors.Join(err, out.Close()); err != nil && !errors.As(err, &disk) {
		return fmt.Errorf("%w: %s: %w; get it again", errDamaged, filepath.Base(to), err)
	} else if err != nil {
		return err
	}
	if is := hex.EncodeToString(h.Sum(nil)); is != sum {
		return fmt.Errorf("%w: %s has SHA-256 %.12s…, the package says %.12s…", ErrChanged, filepath.Base(to), is, sum)
	}
	return nil
}

// InstallPackage installs a package from a file or an https address, whose SHA-256 must be
// given. shown is told what the package says about itself before anything of it runs.
func InstallPackage(ctx context.Context, ref, sum string, o InstallOptions, shown func(*Package)) (*Found, Record, error) {
	fail := func(err error) (*Found, Record, error) { return nil, Record{}, err }
	folder, err := os.MkdirTemp("", "alignedfusion-install-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(folder)
	path := ref
	if IsAddress(ref) {
		path = filepath.Join(folder, "download"+PackageEnding)
		if err := download(ctx, ref, sum, path); err != nil {
			return fail(err)
		}
	}
	if sum != "" {
		packed, err := packedFile(path)
		if err != nil {
			return fail(err)
		}
		if !strings.EqualFold(packed.SHA256, sum) {
			return fail(fmt.Errorf("%w: %s has SHA-256 %s, --sha256 says %s: it is not the file that was meant", ErrChanged, ref, packed.SHA256, sum))
		}
	}
	unpacked := filepath.Join(folder, "plugin")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return fail(err)
	}
	p, err := unpack(path, unpacked)
	if err != nil {
		return fail(err)
	}
	shown(p)
	o.Source = ref
	return Install(ctx, unpacked, o)
}

// IsAddress reports whether a text is the address of something in the web.
func IsAddress(text string) bool {
	return strings.Contains(text, "://")
}

func download(ctx context.Context, address, sum, to string) error {
	if !strings.HasPrefix(address, "https://") {
		return fault.Errorf(fault.Usage, "%s: only https:// addresses are downloaded", address)
	}
	if sum != "" && len(sum) != 2*sha256.Size {
		return fault.Errorf(fault.Usage, "--sha256 %s: a SHA-256 is %d hexadecimal digits, %d given", sum, 2*sha256.Size, len(sum))
	}
	if sum == "" {
		return fault.Errorf(fault.Usage, "%s: give the package's SHA-256 with --sha256; who made it says it beside the address", address)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	client := &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) > 5 {
			return fmt.Errorf("it leads to %s", r.URL)
		}
		return nil
	}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: the server says %s", address, answer.Status)
	}
	return atomicfile.Write(to, func(w io.Writer) error { _, err := io.Copy(w, answer.Body); return err })
}

// LockHere writes a LockFile into the working directory, a project's, with the identity of
// the plugins named: from then on no others are run there under these names.
func LockHere(ctx context.Context, names, dirs []string) (*Lock, error) {
	lock, err := readLock(".")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		f, err := Find(name, dirs)
		if err != nil {
			return nil, err
		}
		_, hashes, err := f.Check(true)
		if err != nil {
			return nil, err
		}
		m, err := Describe(ctx, f)
		if err != nil {
			return nil, err
		}
		lock.Plugins[f.Name] = Record{Version: m.Version, SHA256: f.identity(hashes), Source: f.Path}
	}
	return lock, writeLock(".", lock)
}

// LockedHere fails with ErrChanged when the working directory's LockFile names another
// plugin of this name.
func (f *Found) LockedHere(hashes map[string]string) error {
	lock, err := readLock(".")
	if err != nil {
		return err
	}
	record, found := lock.Plugins[f.Name]
	if is := f.identity(hashes); found && record.SHA256 != "" && record.SHA256 != is {
		return fmt.Errorf("%w: %s here wants %s %s with SHA-256 %.12s…, %s has %.12s…; install that one, or `alignedfusion plugin lock %s` takes this one",
			ErrChanged, LockFile, f.Name, record.Version, record.SHA256, f.Path, is, f.Name)
	}
	return nil
}
