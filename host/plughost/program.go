package plughost

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// shimLibrary is gotch's C++ side, which is made for the libtorch of one machine: a plugin
// that was built elsewhere gets this machine's.
const shimLibrary = "libtch.so"

// zstdMagic begins what zstd has compressed.
const zstdMagic = "\x28\xb5\x2f\xfd"

// starts tell files that are no programs of this system by how they begin.
var starts = []struct{ magic, what string }{
	{"PK\x03\x04", "a zip archive: unpack it, and give the program, or the folder with the " + LayoutFile + ", that is in it"},
	{"\x1f\x8b", "a gzip archive: unpack it, and give what is in it"},
	{"\xfd7zXZ", "an xz archive: unpack it, and give what is in it"},
	{"BZh", "a bzip2 archive: unpack it, and give what is in it"},
	{zstdMagic, "a package: `alignedfusion plugin install` takes it, under a name that ends in " + PackageEnding},
	{"MZ", "a Windows program: get the plugin built for " + System},
	{"\xcf\xfa\xed\xfe", "a macOS program: get the plugin built for " + System},
	{"\xca\xfe\xba\xbe", "a macOS program: get the plugin built for " + System},
	{"\xef\xbb\xbf#!", "a script that begins with a byte order mark, which the kernel does not skip: save it as UTF-8 without one"},
	{"<!DOCTYPE", "a web page: download the file itself (its \"raw\" link)"},
	{"<!doctype", "a web page: download the file itself (its \"raw\" link)"},
	{"<html", "a web page: download the file itself (its \"raw\" link)"},
	{"version https://git-lfs", "the stand-in of a file in Git LFS: run `git lfs pull`"},
}

// System is what this program was built for, like linux/amd64.
const System = runtime.GOOS + "/" + runtime.GOARCH

// machines are the ELF names of the processors Go has names for.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390}

// recognise refuses a file that this machine cannot run, and says what it is instead.
func recognise(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	head := make([]byte, 512)
	n, _ := io.ReadFull(file, head) // a shorter file is looked at as far as it goes
	if head = head[:n]; n == 0 {
		return fmt.Errorf("%s is empty", path)
	}
	if what := recogniseArchive(head); what != "" {
		return fmt.Errorf("%s is %s", path, what)
	}
	if script, found := bytes.CutPrefix(head, []byte("#!")); found {
		return recogniseScript(path, script)
	}
	if runtime.GOOS != "linux" {
		return nil
	}
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return fmt.Errorf("%s is neither a program of this system nor a script: a script's first line is #! and its interpreter", path)
	}
	return recogniseELF(path, file, head)
}

// recogniseELF looks at the header of a program for Linux: a download that was cut off has that
// alone.
func recogniseELF(path string, file *os.File, head []byte) error {
	var h elf.Header64
	var order binary.ByteOrder = binary.LittleEndian
	if len(head) > elf.EI_DATA && elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	if binary.Read(bytes.NewReader(head), order, &h) != nil {
		return fmt.Errorf("%s is cut off after %d bytes: get it again", path, len(head))
	}
	if want, known := machines[runtime.GOARCH]; known && elf.Machine(h.Machine) != want {
		return fmt.Errorf("%s is a program for %s, this machine is %s: get the plugin built for it", path, strings.TrimPrefix(elf.Machine(h.Machine).String(), "EM_"), System)
	}
	if elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return nil
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	end := h.Shoff + uint64(h.Shnum)*uint64(h.Shentsize)
	segments := make([]elf.Prog64, h.Phnum)
	if binary.Read(io.NewSectionReader(file, int64(h.Phoff), info.Size()), order, segments) == nil {
		for _, s := range segments {
			end = max(end, s.Off+s.Filesz)
		}
	}
	if end > uint64(info.Size()) {
		return fmt.Errorf("%s is cut off: it has %d of %d bytes; get it again", path, info.Size(), end)
	}
	return nil
}

// tarMagicAt is where a tar archive says that it is one.
const tarMagicAt = 257

// recogniseArchive says what a file that begins so is, when it is known not to be a program;
// "" otherwise.
func recogniseArchive(head []byte) string {
	for _, s := range starts {
		if bytes.HasPrefix(head, []byte(s.magic)) {
			return s.what
		}
	}
	if len(head) > tarMagicAt && bytes.HasPrefix(head[tarMagicAt:], []byte("ustar")) {
		return "a tar archive: unpack it, and give what is in it"
	}
	return ""
}

// recogniseScript looks at what stands behind a script's #!.
func recogniseScript(path string, script []byte) error {
	line, _, _ := bytes.Cut(script, []byte("\n"))
	if bytes.HasSuffix(line, []byte("\r")) {
		return fmt.Errorf("%s has Windows line endings, and no interpreter is called %q: take the carriage returns out (sed -i 's/\\r$//' %s)",
			path, strings.TrimSpace(string(bytes.TrimSuffix(line, []byte("\r"))))+`\r`, path)
	}
	interpreter, _, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
	if _, err := os.Stat(interpreter); interpreter == "" || err != nil {
		return fmt.Errorf("%s begins with #!%s, and there is no such program here", path, interpreter)
	}
	return nil
}

// libraryFolders are where a plugin's program finds its libraries although it runs as a
// copy: lib/ of the copy, what its run path says from where it was found, and, when
// libtch.so lies in none of them, the host's own.
func (f *Found) libraryFolders(copied string) []string {
	var out []string
	add := func(dirs ...string) {
		for _, dir := range dirs {
			if info, err := os.Stat(dir); err == nil && info.IsDir() && !slices.Contains(out, dir) {
				out = append(out, dir)
			}
		}
	}
	if !f.owns(f.Command[0]) {
		return nil
	}
	add(filepath.Join(copied, "lib"))
	program, runPath, needed := f.linked()
	searched := append(slices.Clone(out), runPath...)
	for _, dir := range runPath {
		if strings.HasPrefix(dir, filepath.Dir(program)) {
			add(dir)
		}
	}
	has := func(dir string) bool { _, err := os.Stat(filepath.Join(dir, shimLibrary)); return err == nil }
	if slices.Contains(needed, shimLibrary) && !slices.ContainsFunc(append(searched, filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))...), has) {
		for _, dir := range hostLibraries() {
			if has(dir) {
				add(dir)
			}
		}
	}
	return out
}

// linked is the plugin's program where it was found, links followed, the folders that its
// libraries are searched in from there, and the libraries that it names; a script has none.
func (f *Found) linked() (program string, runPath, needed []string) {
	program = f.Command[0]
	if f.origin != "" {
		program = f.origin
	}
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real
	}
	file, err := elf.Open(program)
	if err != nil {
		return program, nil, nil
	}
	defer file.Close()
	origin := strings.NewReplacer("${ORIGIN}", filepath.Dir(program), "$ORIGIN", filepath.Dir(program))
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, _ := file.DynString(tag)
		for _, dir := range filepath.SplitList(strings.Join(paths, ":")) {
			runPath = append(runPath, origin.Replace(dir))
		}
	}
	needed, _ = file.ImportedLibraries()
	return program, runPath, needed
}

// hostLibraries are where libtch.so lies when it came with the host's program.
func hostLibraries() []string {
	program, err := os.Executable()
	if err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(program); err == nil {
		program = real
	}
	dir := filepath.Dir(program)
	return []string{filepath.Join(dir, "..", "build", "lib"), filepath.Join(dir, "..", "lib"), filepath.Join(dir, "lib")}
}

// withLibraries puts folders before those that LD_LIBRARY_PATH has in an environment.
func withLibraries(environment []string, folders []string) []string {
	if len(folders) == 0 {
		return environment
	}
	const name = "LD_LIBRARY_PATH="
	i := slices.IndexFunc(environment, func(v string) bool { return strings.HasPrefix(v, name) })
	if i < 0 {
		return append(environment, name+strings.Join(folders, ":"))
	}
	environment[i] = name + strings.Join(append(folders, strings.TrimPrefix(environment[i], name)), ":")
	return environment
}
