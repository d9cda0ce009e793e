package plughost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/gofrs/flock"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// LockFile records, in a plugin folder, what was installed there.
const LockFile = "plugins.lock"

// lockWait bounds the wait for another `plugin install` in the same folder.
const lockWait = 10 * time.Second

// Lock is the content of a LockFile.
type Lock struct {
	SchemaVersion int               `json:"schema_version"`
	Plugins       map[string]Record `json:"plugins"`
}

// Record is an installed plugin.
type Record struct {
	Version   string    `json:"version"`
	Installed time.Time `json:"installed,omitzero"`
	// Source is the path or address it was installed from.
	Source string `json:"source"`
	// SHA256 is, in a project's lock file, the plugin's identity.
	SHA256 string `json:"sha256,omitempty"`
	// Files holds the SHA-256 of every file, by path relative to the plugin's folder.
	Files map[string]string `json:"files,omitempty"`
}

// Errors of checks before a start.
var (
	// ErrUnregistered is returned when a plugin found by name was never installed.
	ErrUnregistered = errors.New("the plugin is not registered")
	// ErrChanged is returned when a file differs from what was installed.
	ErrChanged = errors.New("the plugin has changed since it was installed")
	// ErrUnsafe is returned for symbolic links and files that anyone may write.
	ErrUnsafe = errors.New("the plugin's files are not safe")
)

// Status says how far a plugin on disk can be trusted.
type Status string

// The statuses.
const (
	// Registered: installed, and its files are what they were.
	Registered Status = "registered"
	// Trusted: it lies beside the host's program or was pointed at, and was not installed.
	Trusted Status = "trusted"
	// Unregistered: found by name in a folder anyone could have put it into.
	Unregistered Status = "unregistered"
	// Changed: installed, and its files are not what they were.
	Changed Status = "changed"
	// Unsafe: symbolic links, or files that anyone may write.
	Unsafe Status = "unsafe"
	// Gone: a LockFile names it, and it is not there.
	Gone Status = "gone"
)

// readLock returns an empty lock when the folder has none.
func readLock(dir string) (*Lock, error) {
	path := filepath.Join(dir, LockFile)
	data, err := os.ReadFile(path)
	if _, gone := os.Lstat(path); gone == nil && err != nil { // a folder, or a link to nothing
		return nil, fmt.Errorf("%w: %w; remove it and write it anew", errLock, err)
	} else if errors.Is(err, fs.ErrNotExist) {
		return &Lock{SchemaVersion: 1, Plugins: map[string]Record{}}, nil
	}
	if err != nil {
		return nil, err
	}
	lock := &Lock{}
	if line, err := lock.read(data); err != nil {
		return nil, fmt.Errorf("%w: %s:%d: %w; mend it, or remove it and write it anew: `alignedfusion plugin lock NAME…` a project's, "+
			"`alignedfusion plugin install` that of a folder of plugins", errLock, path, line, err)
	}
	return lock, nil
}

// errLock is returned for a LockFile that cannot be read: what it would refuse is not known.
var errLock = fault.New(fault.Usage, "the lock file is damaged")

// read fails with the line from 1 on which the text is wrong.
func (l *Lock) read(text []byte) (line int, err error) {
	at := 0
	where := func(of string) { at = max(strings.Index(string(text), of), 0) }
	err = json.Unmarshal(text, l)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var day *time.ParseError
	switch {
	case errors.As(err, &syntax):
		at = int(syntax.Offset)
	case errors.As(err, &kind):
		at = int(kind.Offset)
	case errors.As(err, &day):
		where(day.Value)
	case err == nil && l.SchemaVersion != 1:
		where(`"schema_version"`)
		err = fmt.Errorf("schema_version %d, want 1", l.SchemaVersion)
	}
	for _, name := range slices.Sorted(maps.Keys(l.Plugins)) {
		if r := l.Plugins[name]; err == nil && r.SHA256 == "" && len(r.Files) == 0 {
			where(strconv.Quote(name))
			err = fmt.Errorf("plugin %q has neither a sha256 nor files", name)
		}
	}
	if l.Plugins == nil {
		l.Plugins = map[string]Record{}
	}
	return 1 + strings.Count(string(text[:at]), "\n"), err
}

// Check hashes a plugin's files and compares them with the lock file of its folder.
// The error wraps ErrUnsafe, ErrChanged or ErrUnregistered and goes with the status;
// allowUnregistered turns the last into a pass.
func (f *Found) Check(allowUnregistered bool) (Status, map[string]string, error) {
	hashes, err := f.Hashes()
	if err != nil {
		return Unsafe, nil, err
	}
	status, err := f.compare(hashes, allowUnregistered)
	return status, hashes, err
}

// compare compares the hashes of a plugin's files with the lock file of its folder.
func (f *Found) compare(hashes map[string]string, allowUnregistered bool) (Status, error) {
	if f.Dir == "" {
		return Trusted, nil
	}
	if info, err := os.Lstat(filepath.Join(f.Dir, LockFile)); err == nil && (info.Mode()&fs.ModeSymlink != 0 || info.Mode().Perm()&0o002 != 0) {
		return Unsafe, fmt.Errorf("%w: anyone may write %s; chmod o-w it", ErrUnsafe, filepath.Join(f.Dir, LockFile))
	}
	lock, err := readLock(f.Dir)
	if err != nil {
		return Unregistered, err
	}
	record, ok := lock.Plugins[filepath.Base(f.Path)]
	if !ok {
		if f.trusted {
			return Trusted, nil
		}
		if allowUnregistered {
			return Unregistered, nil
		}
		return Unregistered, fmt.Errorf("%w: %s; `alignedfusion plugin install %s` registers it, --allow-unregistered runs it once",
			ErrUnregistered, f.Path, f.Path)
	}
	now := map[string]string{}
	for path, sum := range hashes {
		relative, err := filepath.Rel(f.Path, path)
		if err != nil {
			return Changed, err
		}
		now[relative] = sum
	}
	for _, name := range sortedKeys(now, record.Files) {
		switch was, is := record.Files[name], now[name]; {
		case is == "":
			return Changed, fmt.Errorf("%w: %s is gone from %s; install it again", ErrChanged, name, f.Path)
		case was == "":
			return Changed, fmt.Errorf("%w: %s is new in %s; install it again", ErrChanged, name, f.Path)
		case was != is:
			return Changed, fmt.Errorf("%w: %s has SHA-256 %.12s…, installed was %.12s…; if that is right, install it again",
				ErrChanged, filepath.Join(f.Path, name), is, was)
		}
	}
	return Registered, nil
}

func sortedKeys(maps ...map[string]string) []string {
	var out []string
	for _, m := range maps {
		for k := range m {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// InstallOptions of Install.
type InstallOptions struct {
	// Dir to install into; "" is the user's own folder.
	Dir string
	// Replace an installed plugin of the same name and version that differs.
	Replace bool
	// Source is what the record says it came from; "" is the path.
	Source string
}

// Install copies a plugin (a program, or a folder with a LayoutFile) into a plugin
// folder and records the hashes of its files. The program is asked for its manifest. It
// appears whole or not at all.
func Install(ctx context.Context, path string, o InstallOptions) (*Found, Record, error) {
	var record Record
	if o.Dir == "" {
		if o.Dir = UserDir(); o.Dir == "" {
			return nil, record, errors.New("there is no home folder to install into; give --dir")
		}
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, record, err
	}
	source, err := filepath.Abs(path)
	if err != nil {
		return nil, record, err
	}
	if source, err = filepath.EvalSymlinks(source); err != nil {
		return nil, record, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	found, err := inspect(source, "")
	if err != nil {
		return nil, record, err
	}
	if o.Source == "" {
		o.Source = source
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, record, err
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, record, err
	}
	defer unlock()
	lock, err := readLock(dir)
	if err != nil {
		return nil, record, err
	}
	temporary, err := os.MkdirTemp(dir, ".installing-")
	if err != nil {
		return nil, record, err
	}
	defer os.RemoveAll(temporary)
	layout, manifest, err := stage(ctx, found, temporary)
	if err != nil {
		return nil, record, err
	}
	staged, err := inspect(temporary, "")
	if err != nil {
		return nil, record, err
	}
	hashes, err := staged.Hashes()
	if err != nil {
		return nil, record, err
	}
	record = Record{Version: manifest.Version, Installed: time.Now().UTC().Truncate(time.Second), Source: o.Source, Files: map[string]string{}}
	for file, sum := range hashes {
		relative, err := filepath.Rel(temporary, file)
		if err != nil {
			return nil, record, err
		}
		record.Files[relative] = sum
	}
	final := filepath.Join(dir, layout.Name)
	if old, ok := lock.Plugins[layout.Name]; ok && !o.Replace && old.Version == record.Version && !sameFiles(old.Files, record.Files) {
		return nil, record, fmt.Errorf("plugin %s %s is installed with other files; raise its version, or replace it with --replace", layout.Name, old.Version)
	}
	if err := replaceDir(temporary, final); err != nil {
		return nil, record, err
	}
	lock.Plugins[layout.Name] = record
	if err := writeLock(dir, lock); err != nil {
		return nil, record, err
	}
	installed, err := inspect(final, dir)
	return installed, record, err
}

func sameFiles(a, b map[string]string) bool {
	for _, name := range sortedKeys(a, b) {
		if name != LayoutFile && a[name] != b[name] {
			return false
		}
	}
	return true
}

// layoutOf describes an installed plugin: its own LayoutFile, or one made from the
// manifest for a plain program.
func layoutOf(f *Found, m sdk.Manifest) *Layout {
	l := &Layout{}
	if f.Layout != nil {
		*l = *f.Layout
	} else {
		name := filepath.Base(f.Path)
		l.Command, l.Files = []string{"./" + name}, []string{name}
		l.Name, l.License, l.ModelCard = m.Name, m.License, m.ModelCard
	}
	l.Version, l.Protocol, l.Kinds = m.Version, []int{sdk.ProtocolMajor}, kindsOf(m)
	return l
}

// stage copies a plugin's files into a folder, asks the copy for its manifest, and writes
// the layout that both agree on.
func stage(ctx context.Context, f *Found, to string) (*Layout, sdk.Manifest, error) {
	var m sdk.Manifest
	if _, err := f.runnable(""); err != nil { // before a file of any size is copied
		return nil, m, fmt.Errorf("plugin %s: %w", f.Name, err)
	}
	err := f.eachFile(func(path string, file *os.File) error {
		return writeCopy(file, filepath.Join(to, f.inside(path)))
	})
	if err != nil {
		return nil, m, err
	}
	packages, err := f.installWheels(ctx, to)
	if err != nil {
		return nil, m, fmt.Errorf("plugin %s: %w", f.Name, err)
	}
	f = f.with(packages)
	copied := *f
	copied.Path, copied.origin = to, f.Command[0]
	if f.Layout == nil {
		copied.Path = filepath.Join(to, filepath.Base(f.Path))
	}
	copied.relocate(f)
	if m, err = Describe(ctx, &copied); err != nil {
		return nil, m, err
	}
	layout := layoutOf(f, m)
	if !validName(layout.Name) {
		return nil, m, fmt.Errorf("plugin name %q: want letters, digits, - and _", layout.Name)
	}
	text, err := yaml.Marshal(layout)
	if err != nil {
		return nil, m, err
	}
	return layout, m, errors.Join(os.WriteFile(filepath.Join(to, LayoutFile), text, 0o644), os.Chmod(to, 0o755))
}

// copyFile copies a file below root that is no symbolic link.
func copyFile(root *os.Root, name, to string) error {
	in, err := openSafe(root, name)
	if err != nil {
		return err
	}
	return errors.Join(writeCopy(in, to), in.Close())
}

func writeCopy(in *os.File, to string) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// What only its owner may read stays so.
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm()&0o755|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// replaceDir puts a folder in the place of another; a crash in between leaves one of
// the two or none, never a mixture.
func replaceDir(from, to string) error {
	old := to + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(to, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return errors.Join(err, os.Rename(old, to))
	}
	return os.RemoveAll(old)
}

func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	lock := flock.New(filepath.Join(dir, "."+LockFile+".flock"))
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	ok, err := lock.TryLockContext(ctx, 50*time.Millisecond)
	if err != nil || !ok {
		return nil, fmt.Errorf("plugin folder %s is in use by another install: %w", dir, errors.Join(err, ctx.Err()))
	}
	return func() { _ = lock.Unlock() }, nil
}

func writeLock(dir string, lock *Lock) error {
	text, err := json.MarshalIndent(lock, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(dir, LockFile), append(text, '\n'))
}

// Remove removes an installed plugin and its record. It fails with ErrNotFound when the
// folder ("" is the user's own) has no record of it: what was not installed is not
// removed.
func Remove(ctx context.Context, name, dir string) error {
	if dir == "" {
		dir = UserDir()
	}
	if !validName(name) {
		return fmt.Errorf("%w: %q is not a name", ErrNotFound, name)
	}
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%w: %s was not installed: there is no folder %s", ErrNotFound, name, dir)
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := readLock(dir)
	if err != nil {
		return err
	}
	if _, ok := lock.Plugins[name]; !ok {
		return fmt.Errorf("%w: %s was not installed in %s%s", ErrNotFound, name, dir, nearest.Meant(name, slices.Sorted(maps.Keys(lock.Plugins))))
	}
	delete(lock.Plugins, name)
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		return err
	}
	return writeLock(dir, lock)
}

// describeBytes bounds what a program prints as its manifest. Its time is that of a start: a
// program that imports torch from a cold network folder takes as long for the one as for the
// other.
const describeBytes = 4 << 20

// DescribeJSON runs a plugin with --describe, without a handshake and isolated as it is in
// a run, and returns what it prints. The error is a *Failure.
func DescribeJSON(ctx context.Context, f *Found) ([]byte, error) {
	fail := func(reason string, log *logRing, err error) error {
		out := &Failure{Plugin: f.Name, Call: "describe", Reason: reason, Err: err}
		if log != nil {
			out.Stderr = log.tail(failureLines)
		}
		return out
	}
	host, err := New(Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer host.Close()
	p := &Plugin{running: &running{host: host}, found: f}
	cmd, err := p.prepare()
	if err != nil {
		return nil, fail(err.Error(), nil, err)
	}
	ctx, cancel := context.WithTimeout(ctx, host.options.StartTimeout)
	defer cancel()
	cmd.Args = append(cmd.Args, serve.DescribeFlag)
	log := &logRing{name: f.Name}
	out := &limitedBuffer{limit: describeBytes}
	cmd.Stdout, cmd.Stderr = out, log
	cmd.WaitDelay = drainTime
	in, err := host.options.Isolation.start(cmd, []string{p.dir}, 0)
	if err != nil {
		return nil, fail(err.Error(), log, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = process.KillGroup(cmd.Process.Pid) })
	err = cmd.Wait()
	stop()
	_ = process.KillGroup(cmd.Process.Pid)
	reapMarked(p.mark)
	if status := in.ended(); err == nil && (status.Signaled() || status.ExitStatus() != 0) {
		err = fmt.Errorf("exit status %d", status.ExitStatus())
		if status.Signaled() {
			err = fmt.Errorf("killed by signal %q", status.Signal())
		}
	}
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fail(fmt.Sprintf("no manifest within %v", host.options.StartTimeout), log, ctx.Err())
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case out.overflow:
		return nil, fail(fmt.Sprintf("more than %d bytes of manifest", describeBytes), log, nil)
	case err != nil && !errors.Is(err, os.ErrProcessDone) && !strings.Contains(err.Error(), "WaitDelay"):
		return nil, fail(fmt.Sprintf("%s: %v", serve.DescribeFlag, err), log, err)
	}
	return out.data, nil
}

// Describe is DescribeJSON, read and checked.
func Describe(ctx context.Context, f *Found) (sdk.Manifest, error) {
	text, err := DescribeJSON(ctx, f)
	if err != nil {
		return sdk.Manifest{}, err
	}
	return ReadManifest(f, text)
}

// ReadManifest reads and checks what DescribeJSON returns.
func ReadManifest(f *Found, text []byte) (sdk.Manifest, error) {
	m, err := client.ManifestFromJSON(text)
	if err == nil {
		err = f.agrees(m)
	}
	if err != nil {
		return sdk.Manifest{}, &Failure{Plugin: f.Name, Call: "describe", Reason: firstSentence(err), Err: err}
	}
	return m, nil
}

// limitedBuffer keeps the first bytes and swallows the rest.
type limitedBuffer struct {
	data     []byte
	limit    int
	overflow bool
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - len(b.data); n > room {
		p, b.overflow = p[:room], true
	}
	b.data = append(b.data, p...)
	return n, nil
}
