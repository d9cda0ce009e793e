package npz

import (
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNumbersOfEveryType(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	given := map[string]*Array{}
	for descr, data := range map[string][]byte{
		"|b1": {1}, "|u1": {200}, "|i1": {0xff}, "<u2": {0, 0x80}, "<i2": {0xff, 0xff}, "<u4": {0, 0, 0, 0x80}, "<i4": {0xfe, 0xff, 0xff, 0xff},
		"<u8": {0, 0, 0, 0, 0, 0, 0, 0x80}, "<i8": {0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"<f2": {0, 0xc1}, "<f4": {0, 0, 0x20, 0x40}, "<f8": {0, 0, 0, 0, 0, 0, 0xe0, 0x3f},
	} {
		given[descr] = &Array{Type: descr, Shape: []int64{1}, Data: data}
	}
	if err := Write(path, given); err != nil {
		t.Fatal(err)
	}
	read, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	for descr, want := range map[string]float64{
		"|b1": 1, "|u1": 200, "|i1": -1, "<u2": 1 << 15, "<i2": -1, "<u4": 1 << 31, "<i4": -2, "<u8": 1 << 63, "<i8": -3, "<f2": -2.5, "<f4": 2.5, "<f8": 0.5,
	} {
		a := read[descr]
		if v, err := a.Numbers(); err != nil || len(v) != 1 || v[0] != want || a.Float() != (descr[1] == 'f') {
			t.Errorf("%s: %v (%v), float %v; want %v", descr, v, err, a.Float(), want)
		}
	}
	for _, a := range []*Array{{Type: "<c8", Data: make([]byte, 8)}, {Type: "<U3", Strings: []string{"abc"}}, {}} {
		if _, err := a.Numbers(); err == nil {
			t.Errorf("%q are numbers", a.Type)
		}
	}
}

func TestStringsComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.npz")
	want := &Array{Type: "<U9", Shape: []int64{3, 1}, Strings: []string{"métastase", "", "肝"}}
	if err := Write(path, map[string]*Array{"text": want}); err != nil {
		t.Fatal(err)
	}
	a, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	got, err := a.Read("text")
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if none, err := a.Read("absent"); none != nil || err != nil {
		t.Errorf("an absent array is %v (%v)", none, err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent.npz")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want that there is no such file", err)
	}
	if err := Write(path, map[string]*Array{"x": {Type: "odd", Shape: []int64{0}}}); err == nil {
		t.Error("a type that NumPy does not know is written")
	}
}

func TestUnusableFilesAreNamed(t *testing.T) {
	dir := t.TempDir()
	pack := func(name, array string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := zip.NewWriter(f)
		e, err := w.Create("x.npy")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write([]byte(array)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := filepath.Join(dir, "text.npz")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, words := range map[string]string{
		"testdata/complex.npz": "<c8",
		text:                   "text.npz",
		pack("short.npz", string(header("<f4", []int64{4}))+"1234"):            "truncated",
		pack("long.npz", string(header("<f4", []int64{1}))+"12345678"):         "more bytes",
		pack("huge.npz", string(header("<f4", []int64{1 << 40, 1 << 10}))):     "are there",
		pack("overflow.npz", string(header("<f4", []int64{1 << 40, 1 << 40}))): "overflows",
		pack("negative.npz", string(header("<f4", []int64{-1}))):               "negative",
		pack("header.npz", "\x93NUMPY\x02\x00\xff\xff\xff\xff{}"):              "4294967295 bytes",
		pack("nonsense.npz", "\x93NUMPY\x01\x00\x03\x00abc"):                   "header",
	} {
		_, err := Read(path)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: error %v, want ErrFormat with %q", filepath.Base(path), err, words)
		}
	}
}

// Values: numpy.float16 of the bits.
func TestHalfPrecision(t *testing.T) {
	for bits, want := range map[uint16]float64{0: 0, 1: 0x1p-24, 0x03ff: 1023 * 0x1p-24, 0x0400: 0x1p-14, 0x3555: 0.333251953125, 0x7bff: 65504, 0xbc00: -1, 0x7c00: math.Inf(1), 0xfc00: math.Inf(-1)} {
		if got := half(bits); got != want {
			t.Errorf("%#04x: %v, want %v", bits, got, want)
		}
	}
	if !math.IsNaN(half(0x7e00)) {
		t.Error("0x7e00 is a number")
	}
}

// Column by column and the high byte first, as numpy.asfortranarray(x.astype('>i2')) lies in memory.
func TestFortranOrderAndBigEndianAreTurned(t *testing.T) {
	a := &Array{Type: ">i2", Shape: []int64{2, 3}, Data: []byte{0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6}}
	a.turn(true, 2, 0)
	got, err := a.Numbers()
	if d := cmp.Diff([]float64{1, 2, 3, 4, 5, 6}, got); err != nil || d != "" || a.Type != "<i2" {
		t.Errorf("%s %v\n%s", a.Type, err, d)
	}
}

func FuzzReadArray(f *testing.F) {
	f.Add(append(header("<f4", []int64{1}), 1, 2, 3, 4))
	f.Add(header("<U3", []int64{0}))
	f.Add([]byte("\x93NUMPY\x01\x00\x03\x00abc"))
	f.Add([]byte("\x93NUMPY\x01\x00\x16\x00{'descr': '<U1', 'shape"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		h, err := readHeader(r, int64(len(data)))
		if err != nil {
			return
		}
		x, err := readArray(r, h, int64(len(data)))
		if err != nil {
			return
		}
		elements := int64(1)
		for _, n := range x.Shape {
			elements *= n
		}
		if size, kind, _ := layout(x.Type); kind == 0 && int64(len(x.Data)) != size*elements || kind != 0 && int64(len(x.Strings)) != elements {
			t.Errorf("%d bytes and %d strings of shape %v and type %q", len(x.Data), len(x.Strings), x.Shape, x.Type)
		}
		if v, err := x.Numbers(); err == nil && int64(len(v)) != elements {
			t.Errorf("%d numbers of shape %v", len(v), x.Shape)
		}
	})
}
