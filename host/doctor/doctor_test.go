package doctor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// write creates files below dir; a name that ends in "*" becomes executable.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name, program := strings.CutSuffix(name, "*")
		mode := os.FileMode(0o644)
		if program {
			mode = 0o755
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// want checks status and a part of the text of a finding.
func want(t *testing.T, f Finding, status Status, parts ...string) {
	t.Helper()
	if f.Status != status {
		t.Errorf("%s is %s, want %s: %s", f.Check, f.Status, status, f.Detail)
	}
	for _, part := range parts {
		if !strings.Contains(f.Detail+" "+f.Mend, part) {
			t.Errorf("%+v does not mention %q", f, part)
		}
	}
	if (f.Status == OK) != (f.Mend == "") {
		t.Errorf("%+v: a finding has a way to mend it exactly when it is not in order", f)
	}
}

func TestProcessor(t *testing.T) {
	root := t.TempDir()
	m := machine{root}
	want(t, m.processor(), Warn, "/proc")
	write(t, root, map[string]string{"proc/cpuinfo": "model name\t: Test CPU\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nmodel name\t: Test CPU\nflags : fpu\n"})
	want(t, m.processor(), OK, "Test CPU", "avx2 avx512f amx_bf16")
	write(t, root, map[string]string{"proc/cpuinfo": "model name : Old CPU\nflags : fpu sse2\n"})
	want(t, m.processor(), Warn, "Old CPU", "no AVX2")
	write(t, root, map[string]string{"sys/fs/cgroup/cpu.max": "50000 100000\n"})
	want(t, m.processor(), Warn, "0.5", "--threads 1")
	write(t, root, map[string]string{"proc/cpuinfo": "flags : avx2\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
	want(t, m.processor(), OK)
}

func TestMemory(t *testing.T) {
	root := t.TempDir()
	m := machine{root}
	want(t, m.memory(), Warn, "/proc")
	for _, test := range []struct {
		available, limit string
		status           Status
		part             string
	}{
		{"16777216", "", OK, "16.0 available"},
		{"3145728", "", Warn, "tiny"},
		{"524288", "", Fail, "0.5 available"},
		{"16777216", "max\n", OK, ""},
		{"16777216", "2147483648\n", Warn, "at most 2.0"},
	} {
		files := map[string]string{"proc/meminfo": "MemTotal: 33554432 kB\nMemFree: 1 kB\nMemAvailable:    " + test.available + " kB\n"}
		if test.limit != "" {
			files["sys/fs/cgroup/memory.max"] = test.limit
		}
		write(t, root, files)
		want(t, m.memory(), test.status, test.part)
	}
}

func TestDisk(t *testing.T) {
	want(t, judgeDisk(100*mib), Fail, "0.1 GiB")
	want(t, judgeDisk(2*gib), Warn, "2.0 GiB")
	want(t, judgeDisk(50*gib), OK)
	want(t, diskSpace(filepath.Join(t.TempDir(), "absent")), Fail, "absent")
}

func TestWorkFolder(t *testing.T) {
	dir := t.TempDir()
	want(t, workFolder(dir), OK, dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("the check left %v, %v", entries, err)
	}
	want(t, workFolder(filepath.Join(dir, "absent")), Fail, "absent", "--out")
}

func TestSharedMemoryOfThisMachine(t *testing.T) { want(t, sharedMemory(), OK) }

func TestGPU(t *testing.T) {
	root := t.TempDir()
	m := machine{root}
	want(t, m.gpu(nil), OK, "none")
	write(t, root, map[string]string{"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\n"})
	want(t, m.gpu(nil), Warn, "550.54.15", "container")
	write(t, root, map[string]string{"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""})
	want(t, m.gpu(nil), OK, "2 NVIDIA", "550.54.15")
}

func TestGoVersions(t *testing.T) {
	for version, enough := range map[string]bool{
		"go1.26": true, "go1.26.8": true, "go1.30": true, "go2.0": true, "go1.25.9": false, "go1.3": false, "go1": false, "": false,
	} {
		if got := atLeast(version, wantGo); got != enough {
			t.Errorf("%s is enough: %v, want %v", version, got, enough)
		}
	}
	if got := goVersion("go version go1.26.8 linux/amd64"); got != "go1.26.8" {
		t.Errorf("got %q", got)
	}
}

// TestBuildToolsAreNeverAFailure: who only runs alignedfusion needs no compiler.
func TestBuildToolsAreNeverAFailure(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, f := range buildTools(context.Background()) {
		want(t, f, Warn, "only needed to build", "not installed")
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"go*": "#!/bin/sh\necho go version go1.19.8 linux/amd64\n", "g++*": "#!/bin/sh\necho 'g++ 12.2.0'\n"})
	t.Setenv("PATH", dir)
	found := buildTools(context.Background())
	want(t, found[0], Warn, "go1.19.8", "1.26")
	want(t, found[1], OK, "g++ 12.2.0")
}

// compile makes an ELF file with gcc.
func compile(t *testing.T, output, source string, flags ...string) {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc on this machine")
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.c")
	if err := os.WriteFile(file, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, append([]string{"-o", output, file, "-Wl,--no-as-needed"}, flags...)...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
}

const record = `{"libtorch": {"version": "9.8.7", "lib_dir": "DIR", "cuda": false}, "functions": 3}`

// original is the folder of torchTree's original, made once: gcc takes its time.
var original struct {
	sync.Once
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if original.dir != "" {
		os.RemoveAll(original.dir)
	}
	os.Exit(code)
}

// torchTree is a plugin that loads libtch.so by run path, which loads a libtorch,
// which loads a BLAS: a fake of what setup installs, with a library name that no
// real libtorch on this machine has.
func torchTree(t *testing.T) (dir string, plugin plughost.Found) {
	t.Helper()
	program := filepath.Join("bin", "plugins", "alignedfusion-plugin-one")
	original.Do(func() {
		dir, err := os.MkdirTemp("", "doctor-test-*")
		if err != nil {
			t.Fatal(err)
		}
		original.dir = dir
		torch, blas, lib := filepath.Join(dir, "torch"), filepath.Join(dir, "blas"), filepath.Join(dir, "build", "lib")
		write(t, torch, map[string]string{"libtorch_cpu.so": ""})
		compile(t, filepath.Join(blas, "libblas.so.3"), "int b;", "-shared", "-fPIC", "-Wl,-soname,libblas.so.3")
		compile(t, filepath.Join(torch, "libtorch_test.so"), "int a;", "-shared", "-fPIC", filepath.Join(blas, "libblas.so.3"))
		compile(t, filepath.Join(lib, shimLibrary), "int s;", "-shared", "-fPIC", "-L"+torch, "-ltorch_test", "-Wl,-rpath-link,"+blas,
			"-Wl,--disable-new-dtags,-rpath,$ORIGIN/../../torch:$ORIGIN/../../blas")
		compile(t, filepath.Join(dir, program), "int main(void) { return 0; }", "-L"+lib, "-ltch", "-Wl,--allow-shlib-undefined",
			"-Wl,--enable-new-dtags,-rpath,$ORIGIN/../../build/lib", "-Wl,-rpath-link,"+torch+":"+blas)
	})
	if _, err := os.Stat(filepath.Join(original.dir, program)); err != nil {
		t.Skip("the fake plugin was not built")
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(original.dir)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "build", "lib"), map[string]string{shimRecord: strings.ReplaceAll(record, "DIR", filepath.Join(dir, "torch"))})
	path := filepath.Join(dir, program)
	return dir, plughost.Found{Name: "one", Path: path, Command: []string{path}}
}

// hostLibraries is this machine, whose libc the fakes need.
func hostLibraries() machine { return machine{"/"} }

// librariesOf is what is found of the libraries of plugins.
func librariesOf(plugins ...plughost.Found) []Finding {
	torch, found := hostLibraries().torchPlugins(plugins)
	return append(found, libraries(torch)...)
}

func TestLibrariesOfAWorkingPlugin(t *testing.T) {
	dir, plugin := torchTree(t)
	found := librariesOf(plugin)
	if len(found) != 2 {
		t.Fatalf("findings: %+v", found)
	}
	want(t, found[0], OK, "9.8.7 (CPU)", filepath.Join(dir, "torch"), "holds 3 functions", "used by one")
	want(t, found[1], Warn, "reference BLAS", "libopenblas0-pthread")
}

func TestKernelsAreLookedForBesideTheShim(t *testing.T) {
	dir, plugin := torchTree(t)
	program, err := os.OpenFile(plugin.Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	if _, err := program.WriteString(optionalKernels + "libalignedfusion_mine.so"); err != nil {
		t.Fatal(err)
	}
	library := filepath.Join(dir, "build", "lib", "libalignedfusion_mine.so")
	missing := func() (out []Finding) {
		for _, f := range librariesOf(plugin) {
			if f.Check == "kernels of one" {
				out = append(out, f)
			}
		}
		return out
	}
	found := missing()
	if len(found) != 1 {
		t.Fatalf("findings: %+v", found)
	}
	want(t, found[0], Fail, library, "make kernels", "-kernels plugins/mine/native")
	write(t, filepath.Dir(library), map[string]string{filepath.Base(library): ""})
	if found := missing(); found != nil {
		t.Errorf("with the library: %+v", found)
	}
}

func TestLibrariesNameTunedBLAS(t *testing.T) {
	dir, plugin := torchTree(t)
	library := filepath.Join(dir, "blas", "libblas.so.3")
	tuned := filepath.Join(dir, "blas", "libopenblas.so.0")
	if err := errors.Join(os.Rename(library, tuned), os.Symlink(tuned, library)); err != nil {
		t.Fatal(err)
	}
	found := librariesOf(plugin)
	want(t, found[len(found)-1], OK, "libopenblas")
}

func TestLibrariesSayWhatIsMissing(t *testing.T) {
	t.Run("libtorch removed", func(t *testing.T) {
		dir, plugin := torchTree(t)
		if err := os.RemoveAll(filepath.Join(dir, "torch")); err != nil {
			t.Fatal(err)
		}
		found := librariesOf(plugin)
		if len(found) != 1 {
			t.Fatalf("findings: %+v", found)
		}
		want(t, found[0], Fail, "libtorch_test.so, wanted by", shimLibrary, "LIBTORCH=/path")
	})
	t.Run("shim removed", func(t *testing.T) {
		dir, plugin := torchTree(t)
		if err := os.RemoveAll(filepath.Join(dir, "build")); err != nil {
			t.Fatal(err)
		}
		second := plugin
		second.Name = "second"
		found := librariesOf(plugin, second)
		want(t, found[0], Fail, shimLibrary, "make setup")
		if len(found) != 1 || found[0].Check != "libraries of one, second" {
			t.Errorf("want what both lack said once: %+v", found)
		}
		torch, _ := hostLibraries().torchPlugins([]plughost.Found{plugin})
		if names := lacking(torch); !slices.Equal(names, []string{"one"}) {
			t.Errorf("%q cannot start", names)
		}
	})
	t.Run("record removed", func(t *testing.T) {
		dir, plugin := torchTree(t)
		if err := os.Remove(filepath.Join(dir, "build", "lib", shimRecord)); err != nil {
			t.Fatal(err)
		}
		want(t, librariesOf(plugin)[0], Warn, shimRecord)
	})
	t.Run("record names another folder", func(t *testing.T) {
		dir, plugin := torchTree(t)
		write(t, filepath.Join(dir, "build", "lib"), map[string]string{shimRecord: strings.ReplaceAll(record, "DIR", filepath.Join(dir, "gone"))})
		want(t, librariesOf(plugin)[0], Fail, "which is gone")
	})
	t.Run("a program that is not ELF has nothing to find", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, map[string]string{"script*": "#!/bin/sh\n"})
		script := filepath.Join(dir, "script")
		if found := librariesOf(plughost.Found{Name: "script", Path: script, Command: []string{script}}); found != nil {
			t.Errorf("findings: %+v", found)
		}
	})
}

func TestGPUWithoutCUDALibtorch(t *testing.T) {
	_, plugin := torchTree(t)
	root := t.TempDir()
	write(t, root, map[string]string{"dev/nvidia0": "", "proc/driver/nvidia/version": "550.54"})
	// The fake machine has no libc; only the shim's own path matters here.
	torch, _ := machine{root}.torchPlugins([]plughost.Found{plugin})
	want(t, machine{root}.gpu(torch), Warn, "without CUDA", "LIBTORCH=")
}

func TestLoaderConfigIsRead(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"etc/ld.so.conf":             "# comment\ninclude ld.so.conf.d/*.conf\n/opt/last # why\n",
		"etc/ld.so.conf.d/a.conf":    "/opt/a\n",
		"etc/ld.so.conf.d/b.conf":    "include /etc/more/*\n",
		"etc/more/c":                 "/opt/c\n",
		"usr/lib/x86_64-linux-gnu/x": "",
	})
	want := []string{"opt/a", "opt/c", "opt/last", "lib", "usr/lib/x86_64-linux-gnu", "usr/lib", "lib64", "usr/lib64"}
	for i := range want {
		want[i] = filepath.Join(root, want[i])
	}
	if diff := cmp.Diff(want, machine{root}.libraryDirs()); diff != "" {
		t.Error(diff)
	}
}

func TestPlugins(t *testing.T) {
	ctx := context.Background()
	start := func(_ context.Context, p plughost.Found) (sdk.Manifest, error) {
		if p.Name == "broken" {
			return sdk.Manifest{}, errors.New("plugin broken: start: exit status 127")
		}
		return sdk.Manifest{Name: p.Name, Version: "1.2", Runtime: "libtorch 9", Stages: []sdk.StageManifest{{Name: "f", Kind: "fusion"}, {Name: "h", Kind: "head"}}}, nil
	}
	found := startPlugins(ctx, []plughost.Found{
		{Name: "good", Path: "/p/good"}, {Name: "broken", Path: "/p/broken"},
		{Name: "folder", Path: "/p/folder", Layout: &plughost.Layout{}}, {Name: "good", Path: "/q/good", ShadowedBy: "/p/good"},
	}, nil, start)
	want(t, found[0], OK, "good 1.2", "f (fusion), h (head)", "libtorch 9")
	want(t, found[1], Fail, "exit status 127", "/p/broken")
	want(t, found[2], OK)
	want(t, found[3], Warn, "hidden by /p/good")
	if hint := startHint(plughost.Found{Path: "/p/folder", Layout: &plughost.Layout{}}); !strings.Contains(hint, "/p/folder") {
		t.Errorf("hint %q", hint)
	}
	want(t, startPlugins(ctx, nil, []string{"/here"}, start)[0], Fail, "/here", "make setup")
}

// TestExamineStartsForReal: a program that is no plugin is found out.
func TestExamineStartsForReal(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"alignedfusion-plugin-fake*": "#!/bin/sh\necho I am no plugin >&2\nexit 3\n", "notes.txt": "not a plugin"})
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	report := Examine(context.Background(), Options{PluginDirs: []string{dir}, WorkDir: t.TempDir()})
	if report.Healthy || report.Failed() == 0 || report.SchemaVersion != 1 {
		t.Errorf("report %+v", report)
	}
	for _, f := range report.Findings {
		if f.Check == "plugin fake" {
			want(t, f, Fail, "I am no plugin")
			return
		}
	}
	t.Errorf("nothing about the plugin: %+v", report.Findings)
}
