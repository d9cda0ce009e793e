// Command release packs what a machine without Go needs, for `make release`:
//
//	release -version VERSION [-out FOLDER] [LIBTORCH ...]
//
// FOLDER gets alignedfusion-VERSION-linux-ARCH.tar.gz for amd64 and arm64, and SHA256SUMS.
// Each holds the program, the licences of everything inside and an SBOM (SPDX 2.3); that of
// this machine's architecture also the plugins, and for each LIBTORCH folder the libraries
// that serve its whole release series. Equal sources, Go and g++ give equal bytes, wherever
// they lie.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	module = "github.com/alignedfusion/alignedfusion"
	tags   = "-tags=grpcnotrace,netgo,osusergo"
)

func main() {
	out := flag.String("out", "dist", "folder for the archives")
	version := flag.String("version", "", "version that the program says and the archives are named after")
	flag.Parse()
	if err := release(*version, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func release(version, out string, torches []string) error {
	if version == "" {
		return errors.New("no -version")
	}
	text, err := output("git", "show", "-s", "--format=%ct", "HEAD")
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	var archives []string
	for _, arch := range []string{"amd64", "arm64"} {
		r := &tree{version: version, arch: arch, made: time.Unix(seconds, 0).UTC()}
		r.dir = filepath.Join(out, fmt.Sprintf("alignedfusion-%s-linux-%s", version, arch))
		if err := r.fill(torches); err != nil {
			return err
		}
		if err := pack(r.dir, r.dir+".tar.gz", r.made); err != nil {
			return err
		}
		archives = append(archives, filepath.Base(r.dir)+".tar.gz")
	}
	return writeSums(out, archives)
}

// tree is the folder that becomes an archive.
type tree struct {
	dir, version, arch string
	made               time.Time // of the commit
}

func (r *tree) fill(torches []string) error {
	static := []string{"CGO_ENABLED=0", "GOWORK=off", "GOOS=linux", "GOARCH=" + r.arch}
	if err := r.build(static, "bin/alignedfusion", "./cmd/alignedfusion", "-X "+module+"/host/cli.Version="+r.version); err != nil {
		return err
	}
	if err := r.build(static, "build/fitgotch", "./tools/fitgotch", ""); err != nil {
		return err
	}
	for source, target := range map[string]string{
		"build/shim/src": "build/shim/src", "plugins/a3d/native": "plugins/a3d/native", "sdk/torchstage/native": "sdk/torchstage/native", "tools/release/setup.sh": "setup",
		"LICENSE": "LICENSE", "CHANGELOG.md": "CHANGELOG.md", "docs/how-to/install.md": "docs/how-to/install.md", "docs/how-to/cluster.md": "docs/how-to/cluster.md",
		"tools/release/Dockerfile": "Dockerfile", "tools/release/apptainer.def": "apptainer.def",
	} {
		if err := copyTo(source, filepath.Join(r.dir, target)); err != nil {
			return err
		}
	}
	// cgo's side of the plugins is compiled for this machine alone.
	if r.arch == runtime.GOARCH {
		if err := r.plugins(); err != nil {
			return err
		}
		for _, torch := range torches {
			if err := run(nil, filepath.Join(r.dir, "build/fitgotch"), "-shim-only", "-portable", "-kernels", "plugins/a3d/native",
				"-optional", "sdk/torchstage/native", "-optional", "sdk/torchstage/native/nccl/native", "-libtorch", torch, "-out", filepath.Join(r.dir, "build/prebuilt")); err != nil {
				return err
			}
		}
	}
	modules, err := r.modules()
	if err != nil {
		return err
	}
	if err := r.licences(modules); err != nil {
		return err
	}
	if err := r.sbom(modules); err != nil {
		return err
	}
	files, err := r.files()
	if err != nil {
		return err
	}
	return writeSums(r.dir, files)
}

func (r *tree) build(environment []string, target, pkg, flags string) error {
	return run(environment, "go", "build", "-buildvcs=false", "-trimpath", tags, "-ldflags=-s -w -buildid= "+flags, "-o", filepath.Join(r.dir, target), pkg)
}

// plugins builds the plugins without the run path to this checkout that development uses.
func (r *tree) plugins() error {
	const source = "build/gotch/libtch/lib.go"
	text, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("%w: run `make setup` first", err)
	}
	const here = "// #cgo LDFLAGS: -Wl,-rpath,${SRCDIR}/../../lib\n"
	if !strings.Contains(string(text), here) {
		return fmt.Errorf("%s has no line %q", source, here)
	}
	dir, err := os.MkdirTemp("", "release")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	replaced, overlay := filepath.Join(dir, "lib.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(replaced, []byte(strings.Replace(string(text), here, "", 1)), 0o644); err != nil {
		return err
	}
	full, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {full: replaced}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(overlay, list, 0o644); err != nil {
		return err
	}
	const program = "plugins/alignedfusion-plugins"
	text, err = os.ReadFile(filepath.Join(program, "names"))
	if err != nil {
		return err
	}
	var paths []string
	for _, name := range strings.Fields(string(text)) {
		paths = append(paths, filepath.Join(r.dir, "bin", "plugins", "alignedfusion-plugin-"+name))
	}
	err = run([]string{"CGO_ENABLED=1"}, "go", "build", "-buildvcs=false", "-trimpath", tags, "-overlay", overlay,
		"-ldflags=-s -w -buildid= -B none", "-o", paths[0], "./"+program)
	for _, path := range paths[1:] {
		if err == nil {
			err = os.Link(paths[0], path)
		}
	}
	return err
}

// modules lists the Go modules in the programs, by path and version; the standard library
// is "std".
func (r *tree) modules() (map[string]string, error) {
	found := map[string]string{}
	files, err := r.files()
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		info, err := buildinfo.ReadFile(filepath.Join(r.dir, name))
		if err != nil {
			continue // not a Go program
		}
		found["std"] = info.GoVersion
		for _, m := range info.Deps {
			found[m.Path] = m.Version // a replaced one is the fitted copy of just this version
		}
	}
	return found, nil
}

// files lists the tree's files, in order.
func (r *tree) files() (names []string, err error) {
	err = filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(r.dir, path)
		names = append(names, rel)
		return err
	})
	slices.Sort(names)
	return names, err
}

// licences copies the licences of all modules; one without is an error.
func (r *tree) licences(modules map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		dir, err := output("go", "env", "GOROOT")
		if err != nil {
			return err
		}
		if dir = strings.TrimSpace(dir); name != "std" {
			text, err := output("go", "mod", "download", "-json", name+"@"+modules[name])
			if err != nil {
				return err
			}
			var m struct{ Dir string }
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				return err
			}
			dir = m.Dir
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			upper := strings.ToUpper(e.Name())
			if e.Type().IsRegular() && slices.ContainsFunc([]string{"LICENSE", "LICENCE", "UNLICENSE", "COPYING", "NOTICE", "PATENTS"}, func(p string) bool { return strings.HasPrefix(upper, p) }) {
				found = true
				if err := copyTo(filepath.Join(dir, e.Name()), filepath.Join(r.dir, "LICENSES", filepath.FromSlash(name), e.Name())); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("module %s %s has no licence in %s", name, modules[name], dir)
		}
	}
	return nil
}

// sbom writes sbom.spdx.json: the program and the modules compiled into it.
func (r *tree) sbom(modules map[string]string) error {
	type reference struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	type pkg struct {
		Name     string      `json:"name"`
		ID       string      `json:"SPDXID"`
		Version  string      `json:"versionInfo"`
		Location string      `json:"downloadLocation"`
		Analyzed bool        `json:"filesAnalyzed"`
		Refs     []reference `json:"externalRefs,omitempty"`
	}
	type relation struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
	const document, root = "SPDXRef-DOCUMENT", "SPDXRef-alignedfusion"
	packages := []pkg{{Name: "alignedfusion", ID: root, Version: r.version, Location: "NOASSERTION"}}
	relations := []relation{{document, "DESCRIBES", root}}
	for i, name := range slices.Sorted(maps.Keys(modules)) {
		id, version := fmt.Sprintf("SPDXRef-%d", i), modules[name]
		locator := "pkg:golang/" + name + "@" + version
		if name == "std" {
			locator = "pkg:golang/std@" + strings.TrimPrefix(version, "go")
		}
		packages = append(packages, pkg{Name: name, ID: id, Version: version, Location: "NOASSERTION", Refs: []reference{{"PACKAGE-MANAGER", "purl", locator}}})
		relations = append(relations, relation{root, "CONTAINS", id})
	}
	text, err := json.MarshalIndent(map[string]any{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": document, "name": filepath.Base(r.dir),
		"documentNamespace": "urn:alignedfusion:" + filepath.Base(r.dir),
		"creationInfo":      map[string]any{"created": r.made.Format(time.RFC3339), "creators": []string{"Tool: alignedfusion-tools-release"}},
		"packages":          packages, "relationships": relations,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.dir, "sbom.spdx.json"), append(text, '\n'), 0o644)
}

func run(environment []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
