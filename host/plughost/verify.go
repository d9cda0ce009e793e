package plughost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// eachFile opens a plugin's files, one after the other. It refuses with ErrUnsafe what
// leads elsewhere (symbolic links) and what somebody else could put in its place (files
// and folders that anyone may write, up to the root). A plugin that was given as a path
// may itself be a symbolic link: the user has named it.
func (f *Found) eachFile(visit func(path string, file *os.File) error) error {
	info, err := os.Lstat(f.Path)
	if err != nil {
		return err
	}
	if f.Dir != "" && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%w: %s is a symbolic link; install the plugin itself", ErrUnsafe, f.Path)
	}
	real, err := filepath.EvalSymlinks(f.Path)
	if err != nil {
		return err
	}
	folder := real
	if f.Layout == nil {
		folder = filepath.Dir(real)
	}
	if err := safeFolders(folder); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, path := range f.Files {
		name := filepath.Base(real)
		if f.Layout != nil {
			if name, err = filepath.Rel(f.Path, path); err != nil {
				return err
			}
		}
		file, err := openSafe(root, name)
		if f.Layout != nil && errors.Is(err, fs.ErrNotExist) {
			mend := "put it there, or take it off files:"
			if strings.HasPrefix(name, pythonSDK+"/") {
				mend = "take " + pythonSDK + "/ off files: and the plugin runs with the SDK of the host"
			}
			err = fmt.Errorf("%w, and plugin.yaml lists %s; %s", err, name, mend)
		}
		if err != nil {
			return err
		}
		if err := errors.Join(visit(path, file), file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// safeFolders refuses a folder that lies in one where anyone may rename what others have
// put there.
func safeFolders(folder string) error {
	for dir := folder; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("%w: anyone may write the folder %s (mode %v) and with it change the plugin; chmod o-w it", ErrUnsafe, dir, info.Mode().Perm())
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// openSafe opens a file below root.
func openSafe(root *os.Root, name string) (*os.File, error) {
	parts := strings.Split(filepath.Clean(name), string(filepath.Separator))
	for i := range parts {
		at := filepath.Join(parts[:i+1]...)
		full := filepath.Join(root.Name(), at)
		info, err := root.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing: %w", full, fs.ErrNotExist)
		}
		if err != nil {
			return nil, err
		}
		switch mode := info.Mode(); {
		case mode&fs.ModeSymlink != 0:
			return nil, fmt.Errorf("%w: %s is a symbolic link; put the file itself there", ErrUnsafe, full)
		case i == len(parts)-1 && !mode.IsRegular():
			return nil, fmt.Errorf("%w: %s is not a file", ErrUnsafe, full)
		case mode.Perm()&0o002 != 0:
			return nil, fmt.Errorf("%w: anyone may write %s (mode %v); chmod o-w it", ErrUnsafe, full, mode.Perm())
		}
	}
	return root.Open(name)
}

// Hashes returns the SHA-256 of every file of a plugin, by path. It fails with ErrUnsafe
// where somebody else could change one.
func (f *Found) Hashes() (map[string]string, error) {
	out := map[string]string{}
	err := f.eachFile(func(path string, file *os.File) (err error) {
		out[path], err = copyHashed(io.Discard, file)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", f.Name, err)
	}
	return out, nil
}

// copyHashed copies a file and returns the SHA-256 of what was copied.
func copyHashed(to io.Writer, from *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, h), from); err != nil {
		return "", fmt.Errorf("%s: %w", from.Name(), err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// linkedBytes is the size from which a file that is data is not copied but linked to: a
// gigabyte of weights would cost a second at every start.
const linkedBytes = 64 << 20

// copyTo copies the plugin's files into dir, which must be private, and returns their
// SHA-256 by path: those of the very bytes that were written, whatever becomes of the
// originals. Files beside them that are not listed stay behind. Files of linkedBytes and
// more that do not start the plugin are symbolic links to the originals.
func (f *Found) copyTo(dir string) (map[string]string, error) {
	out := map[string]string{}
	return out, f.eachFile(func(path string, file *os.File) error {
		to := filepath.Join(dir, f.inside(path))
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if info.Size() >= linkedBytes && path != f.Command[0] {
			out[path], err = copyHashed(io.Discard, file)
			return errors.Join(err, os.Symlink(path, to))
		}
		made, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600|info.Mode().Perm()&0o100)
		if err != nil {
			return err
		}
		out[path], err = copyHashed(made, file)
		return errors.Join(err, made.Close())
	})
}

// inside is where a file of the plugin lies in a copy of it.
func (f *Found) inside(path string) string {
	if relative, err := filepath.Rel(f.Path, path); err == nil && f.Layout != nil {
		return relative
	}
	return filepath.Base(f.Path)
}

// pythons are the names of Python's interpreter.
var pythons = regexp.MustCompile(`^python[0-9.]*$`)

// pythonFlags keep what is not the plugin's or the interpreter's own from being loaded:
// variables, the user's site-packages; and compiled files from being kept. The folder of
// the script, which is the copy, stays the first to be searched.
var pythonFlags = []string{"-E", "-s", "-u", "-B"}

// runnable checks that the plugin's command can be started and returns it as it is to be
// run with the plugin's files in the folder copied.
func (f *Found) runnable(copied string) ([]string, error) {
	command := append([]string(nil), f.Command...)
	program := command[0]
	if !filepath.IsAbs(program) {
		path, err := exec.LookPath(program)
		if err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				return nil, fmt.Errorf("its interpreter %q is not installed", program)
			}
			return nil, err
		}
		program = path
	}
	info, err := os.Stat(program)
	if errors.Is(err, fs.ErrNotExist) && !f.owns(program) {
		return nil, fmt.Errorf("its interpreter %s is not installed", program)
	}
	if err != nil {
		return nil, err
	}
	if err := recognise(program); err != nil {
		return nil, err
	}
	if info.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("%s is not executable (mode %v); chmod +x it", program, info.Mode().Perm())
	}
	command[0] = program
	if f.owns(program) {
		command[0] = filepath.Join(copied, f.inside(program))
	} else if pythons.MatchString(filepath.Base(program)) {
		command = append(append(command[:1:1], pythonFlags...), command[1:]...)
	}
	return command, nil
}

// owns reports whether a path is one of the plugin's files.
func (f *Found) owns(path string) bool {
	for _, own := range f.Files {
		if own == path {
			return true
		}
	}
	return false
}

// identity is the SHA-256 by which a run knows the plugin: its program's, or one over all
// files and arguments. What only says what the plugin is (LayoutFile) does not count, so
// that a program is the same before and after it was installed.
func (f *Found) identity(hashes map[string]string) string {
	sums := map[string]string{}
	for path, sum := range hashes {
		if name := f.inside(path); f.Layout == nil || name != LayoutFile {
			sums[name] = sum
		}
	}
	names := sortedKeys(sums)
	if len(names) == 1 && len(f.Command) <= 1 {
		return sums[names[0]]
	}
	h := sha256.New()
	for _, name := range names {
		fmt.Fprintf(h, "%s  %s\n", sums[name], filepath.ToSlash(name))
	}
	if len(f.Command) > 1 {
		fmt.Fprintf(h, "%q\n", f.Command[1:])
	}
	return hex.EncodeToString(h.Sum(nil))
}
