package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// A distribution's libtorch may name libraries that it uses nothing of: Debian's names OpenCV's,
// and with them come GDAL, Qt, FFmpeg and 200 more, whose loading is half of a plugin's start.
// In their place stand empty libraries of the same names, in a folder that the run path of
// libtch.so has before libtorch's. Where the folder is missing the real ones are loaded.

// unusedFolder lies beside libtch.so.
const unusedFolder = "unused"

// runPath is where libtorch's dependencies are searched from libtch.so.
func (l *libtorch) runPath() string { return "$ORIGIN/" + unusedFolder + ":" + l.LibDir }

// linked is a library as the loader sees it.
type linked struct {
	machine            elf.Machine
	needed             []string
	defined, undefined map[string]bool
}

var loadedLine = regexp.MustCompile(`(?m)^\s*(\S+) => (/\S+) \(`)

// replaceUnused writes the empty libraries for the shim in a folder and returns their names.
func replaceUnused(out string) ([]string, error) {
	folder := filepath.Join(out, unusedFolder)
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	shim := filepath.Join(out, shimLibrary+".so")
	loaded, err := exec.Command("ldd", shim).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", shim, err)
	}
	all := map[string]*linked{}
	if all[""], err = readLinked(shim); err != nil {
		return nil, err
	}
	cpu := ""
	for _, m := range loadedLine.FindAllStringSubmatch(string(loaded), -1) {
		if all[m[1]], err = readLinked(m[2]); err != nil {
			return nil, err
		}
		if strings.HasPrefix(m[1], "libtorch_cpu.so") {
			cpu = m[1]
		}
	}
	names := unused(all, cpu)
	if len(names) == 0 {
		return nil, nil
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := atomicfile.WriteBytes(filepath.Join(folder, name), emptyLibrary(name, all[""].machine)); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// sayUnused is replaceUnused where without it everything works as well, only later.
func sayUnused(out string, log io.Writer) {
	names, err := replaceUnused(out)
	switch {
	case err != nil:
		fmt.Fprintf(log, "plugins load whatever libtorch names: %v\n", err)
	case len(names) > 0:
		fmt.Fprintf(log, "%d libraries that libtorch names and uses nothing of are not loaded\n", len(names))
	}
}

func readLinked(path string) (*linked, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	l := &linked{machine: f.Machine, defined: map[string]bool{}, undefined: map[string]bool{}}
	if l.needed, err = f.ImportedLibraries(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF {
			l.undefined[s.Name] = true
		} else {
			l.defined[s.Name] = true
		}
	}
	return l, nil
}

// reachable are the libraries that are loaded with a root when some are left out.
func reachable(all map[string]*linked, without map[string]bool, root string) map[string]bool {
	seen := map[string]bool{root: true}
	for next := []string{root}; len(next) > 0; next = next[1:] {
		for _, name := range all[next[0]].needed {
			if all[name] != nil && !seen[name] && !without[name] {
				seen[name] = true
				next = append(next, name)
			}
		}
	}
	return seen
}

// unused are the libraries that a library names and that nothing needs: none that stays names
// them, or uses a symbol that comes with them alone. The root is "".
func unused(all map[string]*linked, of string) []string {
	out := map[string]bool{}
	if all[of] == nil {
		return nil
	}
	for _, name := range all[of].needed {
		if all[name] != nil {
			out[name] = true
		}
	}
	for {
		before := len(out)
		stay := reachable(all, out, "")
		missing, have := map[string]bool{}, map[string]bool{}
		for name := range stay {
			maps.Copy(missing, all[name].undefined)
			maps.Copy(have, all[name].defined)
			if name != of {
				maps.DeleteFunc(out, func(candidate string, _ bool) bool { return slices.Contains(all[name].needed, candidate) })
			}
		}
		maps.DeleteFunc(missing, func(symbol string, _ bool) bool { return have[symbol] })
		for _, candidate := range all[of].needed { // a symbol is the first's that has it
			if out[candidate] && all[candidate].defines(missing) {
				delete(out, candidate)
				maps.DeleteFunc(missing, func(symbol string, _ bool) bool { return all[candidate].defined[symbol] })
			}
		}
		if len(out) == before { // what is missing still may come with one from farther away
			maps.DeleteFunc(out, func(candidate string, _ bool) bool {
				for name := range reachable(all, nil, candidate) {
					if all[name].defines(missing) {
						return true
					}
				}
				return false
			})
		}
		if len(out) == before {
			return slices.Sorted(maps.Keys(out))
		}
	}
}

// defines reports whether a library has any of some symbols.
func (l *linked) defines(symbols map[string]bool) bool {
	for symbol := range symbols {
		if l.defined[symbol] {
			return true
		}
	}
	return false
}

// emptyLibrary is a shared library of a name with nothing in it.
func emptyLibrary(name string, machine elf.Machine) []byte {
	const header, program, entry, symbol = 64, 56, 16, 24
	text := append([]byte{0}, name+"\x00"...)
	dynamicAt := uint64(header + 3*program)
	dynamics := [][2]uint64{{uint64(elf.DT_SONAME), 1}, {uint64(elf.DT_HASH), 0}, {uint64(elf.DT_SYMTAB), 0}, {uint64(elf.DT_STRTAB), 0},
		{uint64(elf.DT_STRSZ), uint64(len(text))}, {uint64(elf.DT_SYMENT), symbol}, {uint64(elf.DT_NULL), 0}}
	symbolsAt := dynamicAt + uint64(len(dynamics))*entry
	hashAt := symbolsAt + symbol
	hash := []uint32{1, 1, 0, 0} // a bucket and a chain for the one symbol that every table begins with
	textAt := hashAt + uint64(4*len(hash))
	end := textAt + uint64(len(text))
	dynamics[1][1], dynamics[2][1], dynamics[3][1] = hashAt, symbolsAt, textAt
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}, Type: uint16(elf.ET_DYN),
			Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Phoff: header, Ehsize: header, Phentsize: program, Phnum: 3},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Filesz: end, Memsz: end, Align: 0x10000},
		elf.Prog64{Type: uint32(elf.PT_DYNAMIC), Flags: uint32(elf.PF_R | elf.PF_W), Off: dynamicAt, Vaddr: dynamicAt, Paddr: dynamicAt,
			Filesz: symbolsAt - dynamicAt, Memsz: symbolsAt - dynamicAt, Align: 8},
		elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16}, // a stack that holds no code
		dynamics, elf.Sym64{}, hash, text,
	} {
		_ = binary.Write(&b, binary.LittleEndian, part) // memory, and sizes that are fixed
	}
	return b.Bytes()
}
