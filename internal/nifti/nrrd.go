package nifti

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func isNRRD(path string) bool { return hasEnding(path, ".nrrd", ".nhdr") }

// nrrdTypes are NRRD's names of the types that NIfTI has a code for, less "signed", a last
// "int" and the "_t" of C.
var nrrdTypes = map[string]int{"uchar": 2, "unsigned char": 2, "uint8": 2, "short": 4, "int16": 4, "int": 8, "int32": 8, "float": 16, "double": 64,
	"char": 256, "int8": 256, "ushort": 512, "unsigned short": 512, "uint16": 512, "uint": 768, "unsigned": 768, "uint32": 768,
	"longlong": 1024, "long long": 1024, "int64": 1024, "ulonglong": 1280, "unsigned long long": 1280, "uint64": 1280}

// nrrdSpaces say which way the first two axes of a patient's space point: 1 right and
// anterior, -1 left and posterior. The third one points to the head.
var nrrdSpaces = map[string][2]float64{"right-anterior-superior": {1, 1}, "ras": {1, 1}, "left-anterior-superior": {-1, 1}, "las": {-1, 1},
	"left-posterior-superior": {-1, -1}, "lps": {-1, -1}}

// nrrd is a header of http://teem.sourceforge.net/nrrd/format.html.
type nrrd struct {
	header *Header
	fields map[string]string
}

func (n *nrrd) wrong(field, want string) error {
	return fmt.Errorf("%w: NRRD: %s is %q, want %s", ErrFormat, field, n.fields[field], want)
}

// readNRRD reads a .nrrd file, or a .nhdr with its data beside it.
func readNRRD[T any](path string, use func(*Header, *countingReader) (*T, error)) (*T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	n, err := parseNRRD(r)
	if err != nil {
		return nil, err
	}
	if file := n.fields["data file"]; file != "" {
		if strings.ContainsAny(file, "% ") || file == "LIST" || !filepath.IsLocal(file) {
			return nil, n.wrong("data file", "one file beside the header")
		}
		if f, err = os.Open(filepath.Join(filepath.Dir(path), file)); err != nil {
			return nil, err
		}
		defer f.Close()
		n.header.Files = []string{path, f.Name()}
		r = bufio.NewReaderSize(f, 1<<16)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data, err := n.voxels(r, info.Size())
	if err != nil {
		return nil, err
	}
	return use(n.header, &countingReader{r: data})
}

// parseNRRD reads the header up to the empty line.
func parseNRRD(r *bufio.Reader) (*nrrd, error) {
	n := &nrrd{fields: map[string]string{}}
	for first := true; ; first = false {
		raw, err := r.ReadSlice('\n')
		line := strings.TrimRight(string(raw), "\r\n")
		switch {
		case first && !strings.HasPrefix(line, "NRRD000"):
			return nil, fmt.Errorf("%w: no NRRD: it does not begin with NRRD000", ErrFormat)
		case err != nil && !(err == io.EOF && n.fields["data file"]+n.fields["datafile"] != ""), len(n.fields) > 100:
			return nil, fmt.Errorf("%w: NRRD: the header does not end with an empty line", ErrFormat)
		}
		if key, value, ok := strings.Cut(line, ": "); ok && !first && line[0] != '#' {
			n.fields[strings.ToLower(key)] = strings.TrimSpace(value)
		}
		if line == "" || err == io.EOF {
			break
		}
	}
	for short, long := range map[string]string{"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"} {
		if v, ok := n.fields[short]; ok {
			n.fields[long] = v
		}
	}
	return n, n.describe()
}

// numbers reads the numbers of a field, commas and brackets left out; "none" is NaN.
func (n *nrrd) numbers(field string, count int) ([]float64, error) {
	text := strings.Fields(strings.NewReplacer("(", " ", ")", " ", ",", " ").Replace(n.fields[field]))
	var out []float64
	for _, t := range text {
		v, err := strconv.ParseFloat(t, 64)
		if t != "none" && err != nil {
			return nil, n.wrong(field, fmt.Sprintf("%d numbers", count))
		}
		if t == "none" {
			v = math.NaN()
		}
		out = append(out, v)
	}
	if len(out) != count {
		return nil, n.wrong(field, fmt.Sprintf("%d numbers", count))
	}
	return out, nil
}

// describe makes a Header of the fields. An axis that does not lie in space has to have one
// sample.
func (n *nrrd) describe() error {
	dimension, err := strconv.Atoi(n.fields["dimension"])
	if err != nil || dimension < 2 || dimension > 4 {
		return n.wrong("dimension", "2, 3, or 4 with an axis of one sample")
	}
	sizes, err := n.numbers("sizes", dimension)
	if err != nil {
		return err
	}
	directions := strings.Fields(strings.NewReplacer(", ", ",", "( ", "(", " )", ")").Replace(n.fields["space directions"]))
	if len(directions) > 0 && len(directions) != dimension {
		return n.wrong("space directions", fmt.Sprintf("%d vectors", dimension))
	}
	var spacings []float64
	if n.fields["spacings"] != "" {
		if spacings, err = n.numbers("spacings", dimension); err != nil {
			return err
		}
	}
	kind := strings.TrimSuffix(strings.TrimPrefix(strings.ToLower(n.fields["type"]), "signed "), "_t")
	if longer := strings.TrimSuffix(kind, " int"); nrrdTypes[longer] != 0 {
		kind = longer
	}
	f := rawFields{datatype: nrrdTypes[kind], slope: 1}
	if f.datatype == 0 {
		return n.wrong("type", "a whole number of 8 to 64 bits, float or double")
	}
	axis := 0
	f.dim[0], f.dim[3], f.srow[10] = 3, 1, 1
	signs, known := nrrdSpaces[strings.ToLower(n.fields["space"])]
	if known = known && len(directions) > 0; known {
		f.sform = 1
	}
	for a, size := range sizes {
		outside := len(directions) > 0 && directions[a] == "none"
		if size != math.Trunc(size) || size < 1 || size > maxSide {
			return n.wrong("sizes", fmt.Sprintf("whole numbers from 1 to %d", maxSide))
		}
		if size == 1 && (outside || dimension == 4 && axis == 3) {
			continue // one layer of several that there could be
		}
		if outside || axis == 3 {
			return n.wrong("sizes", "one volume: an axis of colours, layers or times has to have one sample")
		}
		f.dim[axis+1], f.pixdim[axis+1] = int64(size), 1
		if spacings != nil && spacings[a] > 0 {
			f.pixdim[axis+1] = spacings[a]
		}
		if known {
			v, err := vector(directions[a])
			if err != nil {
				return n.wrong("space directions", "vectors of three numbers such as (0.8,0,0)")
			}
			f.pixdim[axis+1] = math.Sqrt(v[0]*v[0] + v[1]*v[1] + v[2]*v[2])
			f.srow[axis], f.srow[4+axis], f.srow[8+axis] = signs[0]*v[0], signs[1]*v[1], v[2]
		}
		axis++
	}
	if known && n.fields["space origin"] != "" {
		o, err := n.numbers("space origin", 3)
		if err != nil {
			return err
		}
		f.srow[3], f.srow[7], f.srow[11] = signs[0]*o[0], signs[1]*o[1], o[2]
	}
	n.header = &Header{order: binary.LittleEndian}
	switch endian := strings.ToLower(n.fields["endian"]); {
	case endian == "big":
		n.header.order = binary.BigEndian
	case endian != "little" && voxelBytes(f.datatype) > 1 && n.binary():
		return n.wrong("endian", "little or big")
	}
	return n.header.set(f)
}

// vector reads (x,y,z).
func vector(text string) (v [3]float64, err error) {
	inner, ok := strings.CutPrefix(text, "(")
	parts := strings.Split(strings.TrimSuffix(inner, ")"), ",")
	if !ok || len(parts) != 3 {
		return v, fmt.Errorf("%q is no vector", text)
	}
	for k, p := range parts {
		if v[k], err = strconv.ParseFloat(p, 64); err != nil {
			return v, err
		}
	}
	return v, nil
}

// Encodings of the voxels.
var (
	nrrdText = []string{"ascii", "text", "txt"}
	nrrdGzip = []string{"gzip", "gz"}
)

func (n *nrrd) binary() bool {
	return !slices.Contains(nrrdText, strings.ToLower(n.fields["encoding"]))
}

// voxels are the bytes of the voxels; size is how long the file is that holds them.
func (n *nrrd) voxels(r *bufio.Reader, size int64) (io.Reader, error) {
	h := n.header
	need := int64(h.Dim[0]) * int64(h.Dim[1]) * int64(h.Dim[2]) * int64(voxelBytes(h.Datatype))
	var skip [2]int64
	for k, field := range []string{"line skip", "byte skip"} {
		if text := n.fields[field]; text != "" {
			v, err := strconv.ParseInt(text, 10, 64)
			if err != nil || v < int64(-k) || v > 1<<40 {
				return nil, n.wrong(field, "a number of lines or bytes")
			}
			skip[k] = v
		}
	}
	for range skip[0] {
		if _, err := r.ReadSlice('\n'); err != nil {
			return nil, fmt.Errorf("%w: NRRD: the file ends within the lines to skip", ErrFormat)
		}
	}
	var data io.Reader = r
	switch encoding := strings.ToLower(n.fields["encoding"]); {
	case encoding == "raw":
		if skip[1] < 0 { // the voxels are the end of a file of their own
			if skip[1] = size - need; n.fields["data file"] == "" || skip[1] < 0 {
				return nil, n.wrong("byte skip", "-1 with a data file that holds all voxels")
			}
		}
	case slices.Contains(nrrdGzip, encoding):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("%w: NRRD: encoding gzip: %w", ErrFormat, err)
		}
		data, size = z, size*maxInflation
	case encoding == "hex":
		data, size = hex.NewDecoder(&digits{r}), size/2
	case slices.Contains(nrrdText, encoding):
		words := bufio.NewScanner(r)
		words.Split(bufio.ScanWords)
		data, size = &textVoxels{words: words}, size*int64(voxelBytes(h.Datatype)) // a digit and a blank each, at least
		h.Datatype, h.order = typeFloat64, binary.LittleEndian
	default:
		return nil, n.wrong("encoding", "raw, gzip, ascii or hex")
	}
	if skip[1] > 0 {
		if _, err := io.CopyN(io.Discard, data, skip[1]); err != nil {
			return nil, fmt.Errorf("%w: NRRD: the file ends within the bytes to skip", ErrFormat)
		}
	}
	if need > size {
		return nil, fmt.Errorf("%w: the header claims %d x %d x %d voxels, %d bytes in all; the file holds at most %d", ErrFormat, h.Dim[0], h.Dim[1], h.Dim[2], need, size)
	}
	return data, nil
}

// typeFloat64 is the NIfTI code of the type that texts are read as.
const typeFloat64 = 64

// digits leaves white space out.
type digits struct{ r *bufio.Reader }

func (d *digits) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c, err := d.r.ReadByte()
		if err != nil {
			if n > 0 {
				err = nil
			}
			return n, err
		}
		if c > ' ' {
			p[n] = c
			n++
		}
	}
	return n, nil
}

// textVoxels reads numbers as text and gives them as float64.
type textVoxels struct {
	words *bufio.Scanner
	left  []byte
}

func (t *textVoxels) Read(p []byte) (int, error) {
	if len(t.left) == 0 {
		if !t.words.Scan() {
			return 0, io.EOF
		}
		v, err := strconv.ParseFloat(t.words.Text(), 64)
		if err != nil {
			return 0, fmt.Errorf("%w: NRRD: %q is no number", ErrFormat, t.words.Text())
		}
		t.left = binary.LittleEndian.AppendUint64(nil, math.Float64bits(v))
	}
	n := copy(p, t.left)
	t.left = t.left[n:]
	return n, nil
}
