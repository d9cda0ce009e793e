package nifti

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nrrdHeader places a 3 x 2 x 2 volume obliquely, as SimpleITK writes it.
const nrrdHeader = "NRRD0004\n# a comment: none\ntype: %s\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 2 2\n" +
	"space directions: (0.5,0,0) (0,1.6,1.2) (0,-2.4,3.2)\nkinds: domain domain domain\nendian: %s\nencoding: %s\nspace origin: (10,20,30)\n%s\n"

func gzipped(raw []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(raw)
	_ = z.Close()
	return b.Bytes()
}

// TestNRRDsAreReadInPlace: every encoding gives the same voxels, and they lie where SimpleITK
// 2.5 says that they lie: its axes point left and back.
func TestNRRDsAreReadInPlace(t *testing.T) {
	dir := t.TempDir()
	little, big := metaVoxels(binary.LittleEndian), metaVoxels(binary.BigEndian)
	text := []byte("0 0 7\n0 0 0\n0 -2 0\n0 0 0\n")
	head := func(kind, endian, encoding, more string) []byte {
		return fmt.Appendf(nil, nrrdHeader, kind, endian, encoding, more)
	}
	digits := hex.EncodeToString(little[:10]) + "\n" + hex.EncodeToString(little[10:])
	for name, content := range map[string][]byte{
		"raw.nrrd":     append(head("short", "little", "raw", ""), little...),
		"big.nrrd":     append(head("signed short int", "big", "raw", ""), big...),
		"int16.nrrd":   append(head("int16_t", "little", "gz", "content: x\n"), gzipped(little)...),
		"ascii.nrrd":   append(head("int16", "little", "ascii", ""), text...),
		"hex.nrrd":     append(head("short", "little", "hex", ""), digits...),
		"apart.nhdr":   head("short", "little", "gzip", "data file: apart.raw.gz\n"),
		"skip.nhdr":    bytes.TrimSuffix(head("short", "little", "raw", "byte skip: -1\ndatafile: skip.raw\n"), []byte("\n")),
		"lines.nrrd":   append(append(head("short", "little", "raw", "line skip: 2\nbyteskip: 3\n"), "a\nb\nxyz"...), little...),
		"layer.nrrd":   append(bytes.Replace(bytes.Replace(bytes.Replace(head("short", "little", "raw", ""), []byte("dimension: 3"), []byte("dimension: 4"), 1), []byte("sizes: "), []byte("sizes: 1 "), 1), []byte("directions: "), []byte("directions: none "), 1), little...),
		"windows.nrrd": append(bytes.ReplaceAll(head("short", "little", "raw", ""), []byte("\n"), []byte("\r\n")), little...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string][]byte{"apart.raw.gz": gzipped(little), "skip.raw": append([]byte("some header"), little...)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.n*r*"))
	if len(files) != 10 {
		t.Fatalf("%q", files)
	}
	for _, path := range files {
		m, err := ReadMask(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if !slices.Equal(m.Indices, []int{2, 7}) || !slices.Equal(m.Values, []float64{7, -2}) || m.Size != [3]int{3, 2, 2} {
			t.Errorf("%s: %v %v of %v", path, m.Indices, m.Values, m.Size)
		}
		if got := m.PointOf([3]float64{2, 1, 1}); !slices.EqualFunc(got[:], []float64{-11, -19.2, 34.4}, func(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 }) {
			t.Errorf("%s: voxel 2 1 1 lies at %v, want -11 -19.2 34.4", path, got)
		}
	}
}

func TestNRRDsThatAreRefused(t *testing.T) {
	whole := fmt.Sprintf(nrrdHeader, "short", "little", "raw", "") + string(metaVoxels(binary.LittleEndian))
	for name, test := range map[string]struct{ old, new, want string }{
		"another file":       {"NRRD0004", "NRRX0004", "does not begin with NRRD000"},
		"no end":             {"(10,20,30)\n\n", "(10,20,30)", "does not end with an empty line"},
		"packed otherwise":   {"encoding: raw", "encoding: bzip2", `encoding is "bzip2", want raw, gzip, ascii or hex`},
		"colours":            {"dimension: 3", "dimension: 5", `dimension is "5"`},
		"as it is":           {"", "", ""},
		"no byte order":      {"endian: little\n", "", `endian is ""`},
		"blocks":             {"type: short", "type: block", `type is "block"`},
		"more than there is": {"sizes: 3 2 2", "sizes: 300 200 200", "the file holds at most"},
		"another folder":     {"encoding: raw", "encoding: raw\ndata file: ../up.raw", `data file is "../up.raw"`},
		"a list of files":    {"encoding: raw", "encoding: raw\ndata file: LIST", `data file is "LIST"`},
		"no vectors":         {"(0.5,0,0)", "(0.5,0)", "space directions is"},
		"an axis of colours": {"(0.5,0,0)", "none", "an axis of colours, layers or times"},
		"half a voxel":       {"sizes: 3 2 2", "sizes: 3.5 2 2", "whole numbers from 1"},
	} {
		path := filepath.Join(t.TempDir(), "x.nrrd")
		if err := os.WriteFile(path, []byte(strings.Replace(whole, test.old, test.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func FuzzNRRD(f *testing.F) {
	for _, encoding := range []string{"raw", "gzip", "ascii", "hex"} {
		raw := metaVoxels(binary.LittleEndian)
		if encoding == "gzip" {
			raw = gzipped(raw)
		}
		f.Add(append(fmt.Appendf(nil, nrrdHeader, "short", "little", encoding, ""), raw...))
	}
	path := filepath.Join(f.TempDir(), "x.nrrd")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := ReadMask(path)
		if err == nil && len(m.Indices) != len(m.Values) {
			t.Errorf("%d voxels, %d values", len(m.Indices), len(m.Values))
		}
	})
}
