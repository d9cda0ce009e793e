package nifti

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadAgainstNumpy compares every datatype, byte order, version and orientation
// with what testdata/make_fixtures.py computed.
func TestReadAgainstNumpy(t *testing.T) {
	raw, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]struct {
		Shape   [3]int       `json:"shape"`
		Data    []float64    `json:"data"`
		Spacing [3]float64   `json:"spacing_mm"`
		World   *[12]float64 `json:"world_ras"`
	}
	if err := json.Unmarshal(raw, &expected); err != nil {
		t.Fatal(err)
	}
	if len(expected) < 20 {
		t.Fatalf("%d fixtures", len(expected))
	}
	for name, want := range expected {
		t.Run(name, func(t *testing.T) {
			v, err := Read(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			if got := [3]int{v.Depth, v.Height, v.Width}; got != want.Shape {
				t.Fatalf("shape %v, want %v", got, want.Shape)
			}
			for i, w := range want.Data {
				if float64(v.Data[i]) != float64(float32(w)) {
					t.Fatalf("voxel %d is %g, want %g", i, v.Data[i], w)
				}
			}
			for i, w := range want.Spacing {
				if math.Abs(v.SpacingMM[i]-w) > 1e-5 {
					t.Errorf("spacing %v, want %v", v.SpacingMM, want.Spacing)
				}
			}
			if want.World != nil {
				for i, w := range want.World {
					if math.Abs(v.WorldRAS[i]-w) > 1e-4 {
						t.Errorf("world %v, want %v", v.WorldRAS, *want.World)
						break
					}
				}
			}
		})
	}
}

// header makes a valid little-endian header of one 4 x 3 x 2 int16 volume.
func header() []byte {
	h := make([]byte, 352)
	le := binary.LittleEndian
	le.PutUint32(h, 348)
	for i, d := range []uint16{3, 4, 3, 2, 1, 1, 1, 1} {
		le.PutUint16(h[40+2*i:], d)
	}
	le.PutUint16(h[70:], 4)
	for i := range 4 {
		le.PutUint32(h[76+4*i:], math.Float32bits(1))
	}
	le.PutUint32(h[108:], math.Float32bits(352))
	copy(h[344:], "n+1\x00")
	return append(h, make([]byte, 4*3*2*2)...)
}

func TestBadFilesAreRefused(t *testing.T) {
	le := binary.LittleEndian
	set16 := func(at int, v int) func([]byte) []byte {
		return func(h []byte) []byte { le.PutUint16(h[at:], uint16(v)); return h }
	}
	setF := func(at int, v float32) func([]byte) []byte {
		return func(h []byte) []byte { le.PutUint32(h[at:], math.Float32bits(v)); return h }
	}
	zip := func(h []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(h)
		w.Close()
		return b.Bytes()
	}
	for _, c := range []struct {
		name, want string
		change     func([]byte) []byte
	}{
		{"empty", "0 bytes", func(h []byte) []byte { return nil }},
		{"cut in the header", "header is cut off", func(h []byte) []byte { return h[:200] }},
		{"cut in the voxels", "holds at most 370", func(h []byte) []byte { return h[:370] }},
		{"sizeof_hdr", "begins with", func(h []byte) []byte { h[0] = 1; return h }},
		{"dim[0] 9", "dim[0] is 9", set16(40, 9)},
		{"dim[0] 0", "dim[0] is 0", set16(40, 0)},
		{"negative dim", "dim[2] is -3", set16(44, -3)},
		{"huge dims", "at most", func(h []byte) []byte {
			for _, at := range []int{42, 44, 46} {
				le.PutUint16(h[at:], 16384)
			}
			return h
		}},
		{"series", "series of volumes", func(h []byte) []byte { le.PutUint16(h[40:], 4); le.PutUint16(h[48:], 7); return h }},
		{"datatype", "datatype 128", set16(70, 128)},
		{"vox_offset past the end", "holds at most", setF(108, 1e6)},
		{"vox_offset NaN", "vox_offset", setF(108, float32(math.NaN()))},
		{"vox_offset in the header", "vox_offset", setF(108, 10)},
		{"two files", "magic", func(h []byte) []byte { copy(h[344:], "ni1\x00"); return h }},
		{"gzip bomb header", "holds at most", func(h []byte) []byte {
			le.PutUint16(h[42:], 512)
			le.PutUint16(h[44:], 512)
			le.PutUint16(h[46:], 512)
			return zip(h)
		}},
		{"gzip cut", "cut off", func(h []byte) []byte { z := zip(h); return z[:len(z)-20] }},
		{"gzip checksum", "damaged", func(h []byte) []byte { z := zip(h); z[len(z)-8] ^= 1; return z }},
		{"gzip nothing", "nifti", func(h []byte) []byte { return []byte{0x1f, 0x8b, 1, 2} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "v.nii")
			if err := os.WriteFile(path, c.change(header()), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Read(path)
			if err == nil || !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestGzipIsKnownByItsSignatureAndTrailingBytesAreIgnored(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	h := header()
	le := binary.LittleEndian
	le.PutUint16(h[352:], 41)
	if _, err := w.Write(h); err != nil {
		t.Fatal(err)
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "named_wrongly.nii")
	if err := os.WriteFile(path, append(b.Bytes(), "junk"...), 0o644); err != nil {
		t.Fatal(err)
	}
	v, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if v.Data[0] != 41 {
		t.Errorf("first voxel %g", v.Data[0])
	}
}

// FuzzRead: no input panics or allocates more than its size warrants, and what is
// accepted has the voxels that its frame says.
func FuzzRead(f *testing.F) {
	f.Add(header())
	for _, name := range []string{"scaled.nii.gz", "ras_v2.nii.gz", "ras_v2_big.nii", "lps_qfac.nii", "type64_big.nii"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 1<<16 {
			return
		}
		r, size, err := unpack(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		v, err := unpacked(r, size, (*Header).volume)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("error %v does not wrap ErrFormat", err)
			}
			return
		}
		if len(v.Data) != v.Width*v.Height*v.Depth || len(v.Data) == 0 {
			t.Errorf("%d voxels in a frame of %d x %d x %d", len(v.Data), v.Width, v.Height, v.Depth)
		}
	})
}
