//go:build linux

package plughost

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"golang.org/x/sys/unix"
)

// writeFolder writes a plugin of files into a new folder.
func writeFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plugin")
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// said starts a plugin that only talks, and returns what it said.
func said(t *testing.T, o Options, ref string) string {
	t.Helper()
	_, err := newHost(t, o).Start(t.Context(), ref)
	return strings.Join(wantFailure(t, err).Stderr, "\n")
}

func TestFilesThatAreNotListedAreOutOfReach(t *testing.T) {
	shell := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [./run.sh]\nfiles: [run.sh, data/a]\n",
		"run.sh": "#!/bin/sh\nfind . -type f | sort >&2\n", "data/a": "", "data/b": "", "unlisted": ""})
	if out := said(t, Options{}, shell); out != "./data/a\n./plugin.yaml\n./run.sh" {
		t.Errorf("it sees\n%s", out)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no Python here")
	}
	t.Setenv(EnvPass, "PYTHONPATH")
	elsewhere := writeFolder(t, map[string]string{"ast.py": "print('ELSEWHERE')"})
	t.Setenv("PYTHONPATH", elsewhere)
	script := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [" + python + ", p.py]\nfiles: [p.py, mine.py]\n",
		"p.py":    "import sys, mine, numbers, ast\nprint('flags', sys.flags.dont_write_bytecode, sys.flags.no_user_site, file=sys.stderr)\n",
		"mine.py": "import sys\nprint('mine', file=sys.stderr)", "numbers.py": "raise SystemExit('UNLISTED')", "__pycache__/mine.cpython-311.pyc": "planted"})
	if out := said(t, Options{}, script); out != "mine\nflags 1 1" {
		t.Errorf("it says\n%s", out)
	}
}

func TestAListedFileThatIsNotThereIsNamed(t *testing.T) {
	for missing, mend := range map[string]string{"weights.bin": "put it there, or take it off files:", "alignedfusion_sdk/stage.py": "take alignedfusion_sdk/ off files:"} {
		dir := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [./run.sh]\nfiles: [run.sh, " + missing + "]\n", "run.sh": "#!/bin/sh\n"})
		_, err := newHost(t, Options{}).Start(t.Context(), dir)
		wantFailure(t, err, "plugin.yaml lists "+missing, mend)
	}
}

func TestTheBytesThatWereHashedRun(t *testing.T) {
	dir := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [./run.sh]\nfiles: [run.sh]\n", "run.sh": "#!/bin/sh\n"})
	found, err := Find(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	hashes, err := found.copyTo(copied)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "run.sh"), []byte("#!/bin/sh\nevil"), 0o755); err != nil {
		t.Fatal(err)
	}
	command, err := found.runnable(copied)
	if err != nil || command[0] != filepath.Join(copied, "run.sh") {
		t.Fatalf("it runs %v, %v", command, err)
	}
	file, err := os.Open(command[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if sum, err := copyHashed(io.Discard, file); err != nil || sum != hashes[filepath.Join(dir, "run.sh")] {
		t.Errorf("what runs has SHA-256 %s, %v; hashed was %s", sum, err, hashes[filepath.Join(dir, "run.sh")])
	}
	p := start(t, newHost(t, Options{}), "linear")
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID())); err != nil || filepath.Dir(exe) != p.code {
		t.Errorf("the process runs %s, %v; want the copy in %s", exe, err, p.code)
	}
}

// A plugin in Python need not carry the SDK: it runs with the host's, or with its own.
func TestPythonPluginsAreLentTheSDK(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no Python here")
	}
	const script = "import importlib.util, os, sys\nfound = importlib.util.find_spec('alignedfusion_sdk').origin\nprint(os.path.dirname(found) == os.path.join(os.getcwd(), 'alignedfusion_sdk'), os.path.getsize(found) > 0, file=sys.stderr)\n"
	for files, want := range map[string]string{"[p.py]": "True True", "[p.py, alignedfusion_sdk/__init__.py]": "True False"} {
		dir := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [" + python + ", p.py]\nfiles: " + files + "\n", "p.py": script, "alignedfusion_sdk/__init__.py": ""})
		if out := said(t, Options{}, dir); out != want {
			t.Errorf("files %s: beside it, with content: %s, want %s", files, out, want)
		}
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir, err := PythonSDK()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := PythonSDK(); err != nil || again != dir {
		t.Errorf("the second time %s, %v, want %s", again, err, dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "alignedfusion_sdk", "stage.binpb")); err != nil {
		t.Error(err)
	}
}

// What leads out of a plugin's folder is not followed: a private file would become a
// readable one of the plugin's.
func TestSymbolicLinksAreNotInstalled(t *testing.T) {
	private := writeFolder(t, map[string]string{"key": "PRIVATE"})
	for name, target := range map[string]string{"key": filepath.Join(private, "key"), "sub": private, "dangling": "/no/such"} {
		listed := name
		if name == "sub" {
			listed = "sub/key"
		}
		dir := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [./run.sh]\nfiles: [run.sh, " + listed + "]\n", "run.sh": "#!/bin/sh\n"})
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		into := t.TempDir()
		_, _, err := Install(t.Context(), dir, InstallOptions{Dir: into})
		if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "is a symbolic link") {
			t.Errorf("%s: %v, want ErrUnsafe", name, err)
		}
		if _, err := os.Stat(filepath.Join(into, "x")); err == nil {
			t.Errorf("%s: something was installed", name)
		}
	}
	fifo := writeFolder(t, map[string]string{LayoutFile: "name: x\ncommand: [./run.sh]\nfiles: [run.sh, pipe]\n", "run.sh": "#!/bin/sh\n"})
	if err := unix.Mkfifo(filepath.Join(fifo, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Install(t.Context(), fifo, InstallOptions{Dir: t.TempDir()}); !errors.Is(err, ErrUnsafe) {
		t.Errorf("a pipe: %v", err)
	}
}

func TestCopiesAreNoMoreReadable(t *testing.T) {
	dir := writeFolder(t, map[string]string{"key": "PRIVATE"})
	if err := os.Chmod(filepath.Join(dir, "key"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	to := filepath.Join(t.TempDir(), "copy")
	if err := copyFile(root, "key", to); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(to); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy has mode %v, %v", info.Mode(), err)
	}
}

func TestFoldersThatAnyoneMayWriteAreRefused(t *testing.T) {
	isolate(t)
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b")
	f := install(t, "linear", dir)
	for _, open := range []string{f.Path, dir, filepath.Join(top, "a")} {
		if err := os.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
		_, err := newHost(t, Options{Dirs: []string{dir}}).Start(t.Context(), "linear")
		if !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s open to all: %v", open, err)
		}
		wantFailure(t, err, "anyone may write", open, "chmod o-w")
		if err := os.Chmod(open, 0o777|os.ModeSticky); err == nil && open != f.Path {
			if _, err := newHost(t, Options{Dirs: []string{dir}}).Start(t.Context(), "linear"); err != nil {
				t.Errorf("%s like /tmp: %v", open, err)
			}
		}
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, LockFile), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := newHost(t, Options{Dirs: []string{dir}}).Start(t.Context(), "linear"); !errors.Is(err, ErrUnsafe) {
		t.Errorf("a lock file that anyone may write: %v", err)
	}
}

func TestFilesThatAreNoProgramsAreCalledWhatTheyAre(t *testing.T) {
	program, err := os.ReadFile(filepath.Join(testBinaries, "linear"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte(nil), program[:4096]...)
	binary.LittleEndian.PutUint16(foreign[18:], uint16(elf.EM_AARCH64))
	if machines["arm64"] == machines[System[strings.Index(System, "/")+1:]] {
		binary.LittleEndian.PutUint16(foreign[18:], uint16(elf.EM_X86_64))
	}
	for _, test := range []struct{ content, want string }{
		{"PK\x03\x04rest", "is a zip archive: unpack it"},
		{"\x1f\x8b\x08rest", "is a gzip archive"},
		{"\x28\xb5\x2f\xfdrest", "is a package: `alignedfusion plugin install`"},
		{"MZ\x90\x00", "is a Windows program: get the plugin built for " + System},
		{"\xcf\xfa\xed\xfe", "is a macOS program"},
		{string(foreign), "this machine is " + System},
		{string(program[:4096]), "is cut off: it has 4096 of "},
		{string(program[:20]), "is cut off after 20 bytes"},
		{"#!/bin/sh\r\necho\r\n", `Windows line endings, and no interpreter is called "/bin/sh\\r"`},
		{"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"},
		{"#!/no/such/interpreter -x\n", "#!/no/such/interpreter, and there is no such program"},
		{"<!DOCTYPE html>", "is a web page"},
		{"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
		{"", "is empty"},
		{"print(1)\n", "neither a program of this system nor a script"},
		{strings.Repeat("x", tarMagicAt) + "ustar", "is a tar archive"},
	} {
		path := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(path, []byte(test.content), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := newHost(t, Options{}).Start(t.Context(), path)
		if wantFailure(t, err); !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.12q: %v, want %q", test.content, err, test.want)
		}
		if _, _, err := Install(t.Context(), path, InstallOptions{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.12q installed: %v, want %q", test.content, err, test.want)
		}
	}
}

func TestLayoutAndProgramAgreeOnNameAndVersion(t *testing.T) {
	program, err := os.ReadFile(filepath.Join(testBinaries, "linear"))
	if err != nil {
		t.Fatal(err)
	}
	for layout, want := range map[string]string{"name: other\n": `name: other, the program calls itself "linear"`, "name: linear\nversion: 9.0.0\n": `version: 9.0.0, the program says "1.0.0"`, "name: linear\nversion: 1.0.0\n": "", "name: linear\nkinds: [text]\n": "kinds: [text], the program has [head]", "name: linear\nprotocol: [2]\n": "this host speaks 1"} {
		dir := writeFolder(t, map[string]string{LayoutFile: layout + "command: [./linear]\nfiles: [linear]\n", "linear": string(program)})
		_, errStart := newHost(t, Options{}).Start(t.Context(), dir)
		_, _, errInstall := Install(t.Context(), dir, InstallOptions{Dir: t.TempDir()})
		for _, err := range []error{errStart, errInstall} {
			if got := fmt.Sprint(err); (want == "") != (err == nil) || !strings.Contains(got, want) && want != "" {
				t.Errorf("%q: %v, want %q", layout, err, want)
			}
		}
	}
}

// attacks say HELD when they fail. HOST is the host's process, OUT a folder beside.
var attacks = map[string]string{
	"environment":    "cat /proc/HOST/environ > /dev/null 2>&1 && echo BROKEN || echo HELD",
	"memory":         "head -c 1 /proc/HOST/mem > /dev/null 2>&1; cat /proc/HOST/maps > /dev/null 2>&1 && echo BROKEN || echo HELD",
	"signal":         "kill -0 HOST 2> /dev/null && echo BROKEN || echo HELD",
	"write":          "echo x 2> /dev/null > OUT/file && echo BROKEN || echo HELD",
	"write home":     "echo x 2> /dev/null > $HOME/.profile && echo BROKEN || echo HELD",
	"write itself":   "echo x 2> /dev/null >> $0 && echo BROKEN || echo HELD",
	"mode of a file": "chmod 777 OUT/theirs 2> /dev/null && echo BROKEN || echo HELD",
	"time of a file": "touch -d @0 OUT/theirs 2> /dev/null && echo BROKEN || echo HELD",
	"write sysctl":   "echo x 2> /dev/null > /proc/sys/kernel/hostname && echo BROKEN || echo HELD",
	"internet":       "PYTHON -c 'import socket; s=socket.socket(); s.settimeout(2); s.connect((\"ADDRESS\", PORT))' 2> /dev/null && echo BROKEN || echo HELD",
	"datagram":       "PYTHON -c 'import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((\"192.0.2.1\", 9)); s.send(b\"x\")' 2> /dev/null && echo BROKEN || echo HELD",
	"read":           "cat /etc/passwd > /dev/null && echo HELD",
	"own folder":     "echo x > $TMPDIR/mine && echo HELD",
	"null, threads":  "echo > /dev/null && echo HELD",
}

// listen is a server on this machine.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return listener, port
}

// attack runs all attacks in one plugin and returns those that came through.
func attack(t *testing.T, o Options) (broken []string) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		python = "false"
	}
	listener, port := listen(t)
	defer listener.Close()
	out := t.TempDir()
	if err := os.WriteFile(filepath.Join(out, "theirs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer("HOST", fmt.Sprint(os.Getpid()), "OUT", out, "PYTHON", python, "ADDRESS", "127.0.0.1", "PORT", port)
	var script strings.Builder
	for name, command := range attacks {
		fmt.Fprintf(&script, "printf '%%s ' \"%s: $( %s );\" >&2\n", name, replace.Replace(command))
	}
	path := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script.String()), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", t.TempDir())
	h := newHost(t, o)
	_, err = h.Start(t.Context(), path)
	lines := strings.Join(wantFailure(t, err).Stderr, "\n") + "\n"
	for name := range attacks {
		if !strings.Contains(lines, name+": HELD;") {
			broken = append(broken, name)
		}
	}
	if len(broken) > 0 {
		t.Logf("%v said\n%s", err, lines)
	}
	return broken
}

func TestPluginsAreIsolated(t *testing.T) {
	supported(t, "read-only files")
	supported(t, "no network")
	if broken := attack(t, Options{Isolation: Isolation{NoNetwork: true, ReadOnly: true}}); len(broken) > 0 {
		t.Errorf("insisted on: %v came through", broken)
	}
	if broken := attack(t, Options{}); len(broken) > 0 {
		t.Errorf("by default: %v came through", broken)
	}
}

// withoutNamespaces is a kernel that refuses them, as in many containers.
func withoutNamespaces(t *testing.T) {
	before := namespaces
	namespaces = func() (syscall.SysProcAttr, error) { return syscall.SysProcAttr{}, errors.New("not today") }
	t.Cleanup(func() { namespaces = before })
}

func TestPluginsAreIsolatedWithoutNamespaces(t *testing.T) {
	supported(t, "read-only files")
	withoutNamespaces(t)
	if broken := attack(t, Options{}); len(broken) > 0 {
		t.Errorf("%v came through", broken)
	}
	p := start(t, newHost(t, Options{}), "linear")
	if !strings.Contains(p.Isolation(), "not today") || !strings.Contains(strings.Join(p.Warnings(), ""), "plugins run without processes of its own (not today)") {
		t.Errorf("the run says %q, %q", p.Isolation(), p.Warnings())
	}
}

// Rights that the tests' own user may not have make a trusted plugin's attacks fail; what
// it may do it does.
func TestTrustOpensUpAndIsSaid(t *testing.T) {
	broken := strings.Join(attack(t, Options{Trust: []string{"probe"}}), " ")
	for _, want := range []string{"write", "write home"} {
		if !strings.Contains(broken, want) {
			t.Errorf("%s is kept from a trusted plugin", want)
		}
	}
	p := start(t, newHost(t, Options{Trust: []string{"linear"}}), "linear")
	if p.Isolation() != "none: trusted" || !strings.Contains(strings.Join(p.Warnings(), ""), "plugin linear is trusted") {
		t.Errorf("the run says %q, %q", p.Isolation(), p.Warnings())
	}
}

// A child that has left the session, the group and its parent, and has no environment, ends
// with the plugin all the same.
func TestDaemonsEndWithTheirPlugin(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T) Options{
		"isolated":   func(*testing.T) Options { return Options{} },
		"trusted":    func(*testing.T) Options { return Options{Trust: []string{"probe"}} },
		"no support": func(t *testing.T) Options { withoutNamespaces(t); return Options{} },
	} {
		t.Run(name, func(t *testing.T) {
			mark := fmt.Sprint(100000 + time.Now().UnixNano()%100000)
			path := filepath.Join(t.TempDir(), "probe")
			script := "#!/bin/sh\n(env -i setsid sleep " + mark + " > /dev/null 2>&1 < /dev/null &)\nsleep 0.3\nexit 3\n"
			if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := newHost(t, prepare(t)).Start(t.Context(), path)
			wantFailure(t, err, "exit code 3")
			if left, _ := exec.Command("pgrep", "-f", "sleep "+mark).Output(); len(left) > 0 {
				t.Errorf("process %s is left", left)
			}
		})
	}
}

func TestDescribeIsIsolatedToo(t *testing.T) {
	supported(t, "read-only files")
	out := filepath.Join(t.TempDir(), "file")
	path := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho x > "+out+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := Find(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DescribeJSON(t.Context(), f); err == nil {
		t.Error("no failure")
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("--describe wrote a file")
	}
}

// asNobody in the environment is where the programs of the tests are, built by root.
const asNobody = "PLUGHOST_TEST_BINARIES"

func TestIsolationIsForOrdinaryUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the other tests run as an ordinary user")
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nobody-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const nobody = 65534
	program := filepath.Join(dir, "plughost.test")
	if err := errors.Join(os.WriteFile(program, self, 0o755), os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "tmp"), 0o700), os.Chown(filepath.Join(dir, "tmp"), nobody, nobody), os.Chmod(testBinaries, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run", "TestPluginsAreIsolated|TestAnIsolated|TestTrustOpens|TestDaemons|TestDescribeIs|TestTheBytes", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"), "HOME="+filepath.Join(dir, "tmp"), "XDG_RUNTIME_DIR=", asNobody+"="+testBinaries)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestPluginsAreIsolated") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWhatPluginsSayMovesNoTerminal(t *testing.T) {
	for text, want := range map[string]string{"plain\tü\n": "plain\tü\n", "\x1b]0;title\x07": `\x1b]0;title\x07`, "a\u202eb": `a\u202eb`, "\u009b31m": `\u009b31m`, "\xff": `\xff`, "\r": `\x0d`} {
		if got := printable(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
	var shown strings.Builder
	path := filepath.Join(writeFolder(t, map[string]string{"probe": "#!/bin/sh\nprintf '\\033[2Jgone\\n' >&2; printf '\\033[1mfirst\\n'\n"}), "probe")
	_, err := newHost(t, Options{Log: &shown}).Start(t.Context(), path)
	if all := shown.String() + err.Error(); strings.Contains(all, "\x1b") || !strings.Contains(all, `\x1b[2Jgone`) {
		t.Errorf("shown: %q", all)
	}
	f := writeFolder(t, map[string]string{"probe": "#!/bin/sh\necho '{\"name\":\"x\\u001b[2J\",\"version\":\"1\",\"protocol_major\":1}'\n"})
	found, err := Find(filepath.Join(f, "probe"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Describe(t.Context(), found); err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a manifest with escapes: %q", err)
	}
}

func TestAPackageIsInstalledAsItWasPacked(t *testing.T) {
	isolate(t)
	file, sum, p, err := Pack(t.Context(), filepath.Join(testBinaries, "linear"), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if want := "linear-1.0.0-" + strings.ReplaceAll(System, "/", "_") + ".afp"; filepath.Base(file) != want || len(p.Files) != 2 {
		t.Errorf("packed as %s of %v, want %s", file, p.Files, want)
	}
	if _, again, _, err := Pack(t.Context(), filepath.Join(testBinaries, "linear"), t.TempDir(), ""); err != nil || again != sum {
		t.Errorf("packed twice: %s and %s, %v", sum, again, err)
	}
	told := ""
	f, record, err := InstallPackage(t.Context(), file, sum, InstallOptions{}, func(p *Package) { told = p.Name })
	if err != nil || told != "linear" || record.Source != file {
		t.Fatalf("told of %q, from %q: %v", told, record.Source, err)
	}
	if installed, err := newHost(t, Options{}).Start(t.Context(), "linear"); err != nil || installed.SHA256() != start(t, newHost(t, Options{}), "linear").SHA256() {
		t.Errorf("%s differs from what was packed: %v", f.Path, err)
	}
	if _, _, err := InstallPackage(t.Context(), file, strings.Repeat("0", 64), InstallOptions{}, nil); !errors.Is(err, ErrChanged) {
		t.Errorf("another SHA-256: %v", err)
	}
	for address, want := range map[string]string{"http://example.org/x.afp": "only https", "https://example.org/x.afp": "--sha256", "ftp://example.org/x": "only https"} {
		if _, _, err := InstallPackage(t.Context(), address, "", InstallOptions{}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

// unpackOne packs the named files of a folder, all that p lists when none is named, and
// unpacks them.
func unpackOne(t *testing.T, p *Package, folder string, names ...string) (*Package, error) {
	t.Helper()
	if len(names) == 0 {
		names = []string{LayoutFile, "run.sh"}
	}
	path := filepath.Join(t.TempDir(), "x.afp")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.write(file, folder, names), file.Close()); err != nil {
		t.Fatal(err)
	}
	return unpack(path, t.TempDir())
}

// A package whose files are not what its manifest says is refused, and writes nothing
// outside of the folder it is unpacked into.
func TestPackagesThatLieAreRefused(t *testing.T) {
	folder := writeFolder(t, map[string]string{LayoutFile: "name: x\nversion: \"1\"\nkinds: [head]\ncommand: [./run.sh]\nfiles: [run.sh]\n", "run.sh": "#!/bin/sh\n", "more": "more"})
	good := func() *Package {
		p := &Package{SchemaVersion: 1, Name: "x", Version: "1", Platform: System, Kinds: []string{"head"}, Command: []string{"./run.sh"}, Files: map[string]PackedFile{}}
		for _, name := range []string{LayoutFile, "run.sh"} {
			packed, err := packedFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			p.Files[name] = packed
		}
		return p
	}
	for name, test := range map[string]struct {
		change func(p *Package)
		names  []string
		want   string
	}{
		"other bytes":    {func(p *Package) { f := p.Files["run.sh"]; f.SHA256 = strings.Repeat("0", 64); p.Files["run.sh"] = f }, nil, "the package says 0000"},
		"unlisted":       {nil, []string{LayoutFile, "run.sh", "more"}, `"more" is not what`},
		"missing":        {nil, []string{LayoutFile}, "run.sh is missing"},
		"twice":          {nil, []string{LayoutFile, "run.sh", "run.sh"}, `"run.sh" is not what`},
		"outside":        {func(p *Package) { p.Files["../plugin/more"], _ = packedFile(filepath.Join(folder, "more")) }, []string{"../plugin/more"}, "is not what"},
		"other platform": {func(p *Package) { p.Platform = "linux/riscv64" }, nil, "is for linux/riscv64, this machine is " + System},
		"escapes":        {func(p *Package) { p.License = "\x1b[2J" }, nil, "not for showing"},
		"name":           {func(p *Package) { p.Name = "../x" }, nil, "letters, digits"},
		"newer":          {func(p *Package) { p.SchemaVersion = 2 }, nil, "schema_version 2"},
		"another name":   {func(p *Package) { p.Name = "y" }, nil, "says name y, the plugin.yaml in it x"},
		"newer version":  {func(p *Package) { p.Version = "2" }, nil, "says version 2, the plugin.yaml in it 1"},
		"another kind":   {func(p *Package) { p.Kinds = []string{"text"} }, nil, "says kinds [text], the plugin.yaml in it [head]"},
		"other command":  {func(p *Package) { p.Command = []string{"/bin/sh", "-c", "x"} }, nil, "says command"},
	} {
		p := good()
		if test.change != nil {
			test.change(p)
		}
		if _, err := unpackOne(t, p, folder, test.names...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := unpackOne(t, good(), folder); err != nil {
		t.Errorf("a package that says what is in it: %v", err)
	}
	packed := filepath.Join(t.TempDir(), "x.afp")
	file, err := os.Create(packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := good().write(file, folder, []string{LayoutFile, "run.sh"}); err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(packed, t.TempDir()); fault.Of(err) != fault.Data || !strings.Contains(err.Error(), "more in it after its end") {
		t.Errorf("with bytes after its end: %v", err)
	}
	cutOff := iotest.ErrReader(io.ErrUnexpectedEOF)
	if err := unpackFile(cutOff, filepath.Join(t.TempDir(), "run.sh"), true, ""); fault.Of(err) != fault.Data || !strings.Contains(err.Error(), "run.sh: unexpected EOF; get it again") {
		t.Errorf("cut off: %v", err)
	}
	for text, want := range map[string]string{"": "another file", "PK\x03\x04": "a zip archive", "\x1f\x8b": "a gzip archive", zstdMagic: "EOF", strings.Repeat("x", tarMagicAt) + "ustar": "a tar archive"} {
		path := filepath.Join(writeFolder(t, map[string]string{"x.afp": text}), "x.afp")
		if _, err := ReadPackage(path); err == nil || !strings.Contains(err.Error(), "no package of a plugin, or damaged") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.10q: %v", text, err)
		}
	}
}

// A package says which libtorch it runs with; a machine that has another series refuses it.
func TestAPackageForAnotherLibtorchIsRefused(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(filepath.Dir(program), "lib")
	if err := os.Mkdir(lib, 0o755); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(lib) })
	if err := os.WriteFile(filepath.Join(lib, "libtch.json"), []byte(`{"libtorch": {"version": "2.6.0+cpu"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for made, fits := range map[string]bool{"2.6.0": true, "2.6.1+cu124": true, "1.13.0": false, "2.60.0": false, "": true} {
		err := (&Package{Libtorch: made, LibtorchRange: series(made)}).fitsLibtorch()
		if (err == nil) != fits || err != nil && !strings.Contains(err.Error(), "runs with libtorch "+series(made)+" (made for "+made+"), this machine has 2.6.0+cpu") {
			t.Errorf("made for %q: %v, fits: %v", made, err, fits)
		}
	}
}

// A plugin in Python takes the wheels of its requirements along; where it is installed, what
// is in them lies among its own files, hashed.
func TestAPackageBringsItsPythonPackages(t *testing.T) {
	isolate(t)
	python := "/usr/bin/python3"
	if exec.Command(python, "-m", "pip", "--version").Run() != nil {
		t.Skip("no pip for Python")
	}
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	for _, f := range [][2]string{{"tiny/__init__.py", "name = 'linear'\n"}, {"tiny-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.5\n"},
		{"tiny-1.5.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"tiny-1.5.dist-info/RECORD", "tiny/__init__.py,,\ntiny-1.5.dist-info/METADATA,,\ntiny-1.5.dist-info/WHEEL,,\ntiny-1.5.dist-info/RECORD,,\n"}} {
		w, err := z.Create(f[0])
		if err == nil {
			_, err = w.Write([]byte(f[1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	house := writeFolder(t, map[string]string{"tiny-1.5-py3-none-any.whl": wheel.String()})
	describe, err := exec.Command(filepath.Join(testBinaries, "linear"), "--describe").Output()
	if err != nil {
		t.Fatal(err)
	}
	script := "import os, sys\nsys.path.insert(0, 'packages')\ntry:\n    import tiny\nexcept ImportError:\n    if os.path.exists('wheels'): raise\nprint(open('manifest.json').read())\n"
	project := func(requirement string) string {
		return writeFolder(t, map[string]string{LayoutFile: "name: linear\nversion: \"1.0.0\"\nkinds: [head]\ncommand: [" + python + ", p.py]\nfiles: [p.py, manifest.json, needs.txt]\nrequirements: needs.txt\n",
			"p.py": script, "manifest.json": string(describe), "needs.txt": "# of the test\n" + requirement + "\n"})
	}
	for requirement, want := range map[string]string{"tiny>=1": `needs.txt:2: "tiny>=1", want one version`, "tiny==2.0": "has no wheel of tiny==2.0"} {
		if _, _, _, err := Pack(t.Context(), project(requirement), t.TempDir(), house); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", requirement, err, want)
		}
	}
	file, sum, p, err := Pack(t.Context(), project("Tiny==1.5"), t.TempDir(), house)
	if err != nil || !slices.Equal(p.Requirements, []string{"tiny==1.5"}) {
		t.Fatal(p, err)
	}
	f, record, err := InstallPackage(t.Context(), file, sum, InstallOptions{}, func(*Package) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"wheels/tiny-1.5-py3-none-any.whl", "packages/tiny/__init__.py"} {
		if record.Files[name] == "" || !slices.Contains(f.Files, filepath.Join(f.Path, name)) {
			t.Errorf("%s is not among the plugin's files: %v", name, record.Files)
		}
	}
}

func TestAProjectsLockFileHoldsPluginsFast(t *testing.T) {
	isolate(t)
	install(t, "linear", "")
	if _, err := LockHere(t.Context(), []string{"linear"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := newHost(t, Options{}).Start(t.Context(), "linear"); err != nil {
		t.Error(err)
	}
	lock, err := readLock(".")
	if err != nil || lock.Plugins["linear"].Version != "1.0.0" {
		t.Fatalf("the lock file has %v, %v", lock, err)
	}
	lock.Plugins["linear"] = Record{Version: "1.0.0", SHA256: strings.Repeat("0", 64)}
	if err := writeLock(".", lock); err != nil {
		t.Fatal(err)
	}
	_, err = newHost(t, Options{}).Start(t.Context(), "linear")
	if wantFailure(t, err, "plugins.lock here wants linear 1.0.0", "plugin lock linear"); !errors.Is(err, ErrChanged) {
		t.Errorf("another plugin than the project's: %v", err)
	}
}

// Every attack that security.md lists has a test that is there, here or in the script it names.
func TestEveryListedAttackHasItsTest(t *testing.T) {
	page, err := os.ReadFile("../../docs/explanation/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	for _, name := range tests {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sources.Write(text)
	}
	_, table, _ := strings.Cut(string(page), "| attack |")
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(table, "\n")[2:]
	for _, row := range rows {
		cells := strings.Split(strings.Trim(row, "| "), " | ")
		last, found := cells[len(cells)-1], false
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(last, -1) {
			_, script := os.Stat(filepath.Join("../..", name[1]))
			found = script == nil || strings.Contains(sources.String(), "func "+name[1]+"(t ") || strings.HasPrefix(name[1], "…") && found
			if !found {
				t.Errorf("%s: no test %s", cells[0], name[1])
			}
		}
		if !found && last != "the same" {
			t.Errorf("%s: no test is named", cells[0])
		}
	}
	if len(rows) < 20 {
		t.Errorf("%d rows were read", len(rows))
	}
}
