package nifti

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// IsNIfTI reports whether a path has the ending of a NIfTI file.
func IsNIfTI(path string) bool { return hasEnding(path, ".nii", ".nii.gz") }

// IsVolume reports whether a path has the ending of a file that [Read] and [ReadMask] read.
func IsVolume(path string) bool { return IsNIfTI(path) || isMeta(path) || isPair(path) || isNRRD(path) }

func isMeta(path string) bool { return hasEnding(path, ".mha", ".mhd") }
func isPair(path string) bool { return hasEnding(path, ".hdr", ".hdr.gz", ".img", ".img.gz") }

func hasEnding(path string, endings ...string) bool {
	lower := strings.ToLower(path)
	for _, e := range endings {
		if strings.HasSuffix(lower, e) {
			return true
		}
	}
	return false
}

// readPair reads a NIfTI-1 header (.hdr) and its voxels (.img), either of which is given.
func readPair[T any](path string, use func(*Header, *countingReader) (*T, error)) (*T, error) {
	base, packed := strings.CutSuffix(path, ".gz")
	base = base[:len(base)-len(filepath.Ext(base))]
	name := func(ending string) string {
		if packed {
			ending += ".gz"
		}
		return base + ending
	}
	h, err := readFile(name(".hdr"), func(r io.Reader, _ int64) (*Header, error) { return parsePair(r) })
	if err != nil {
		return nil, err
	}
	h.Files = []string{name(".hdr"), name(".img")}
	return readFile(name(".img"), func(r io.Reader, available int64) (*T, error) {
		if err := h.fits(available); err != nil {
			return nil, err
		}
		return use(h, &countingReader{r: r})
	})
}

// metaTypes are MetaImage's names of the types that NIfTI has a code for.
var metaTypes = map[string]int{"MET_UCHAR": 2, "MET_SHORT": 4, "MET_INT": 8, "MET_FLOAT": 16, "MET_DOUBLE": 64, "MET_CHAR": 256, "MET_USHORT": 512,
	"MET_UINT": 768, "MET_LONG_LONG": 1024, "MET_ULONG_LONG": 1280}

// readMeta reads a MetaImage, ITK's .mha or .mhd with its data beside it.
func readMeta[T any](path string, use func(*Header, *countingReader) (*T, error)) (*T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(f, 1<<16)
	h, fields, err := parseMeta(r)
	if err != nil {
		return nil, err
	}
	size := info.Size()
	var data io.Reader = r
	if file := fields["elementdatafile"]; !strings.EqualFold(file, "LOCAL") {
		if file == "" || strings.ContainsAny(file, "%*") || file != filepath.Base(file) {
			return nil, fmt.Errorf("%w: ElementDataFile is %q, want LOCAL or a file beside the header", ErrFormat, file)
		}
		raw, err := os.Open(filepath.Join(filepath.Dir(path), file))
		if err != nil {
			return nil, err
		}
		defer raw.Close()
		h.Files = []string{path, raw.Name()}
		if info, err = raw.Stat(); err != nil {
			return nil, err
		}
		data, size = bufio.NewReaderSize(raw, 1<<16), info.Size()
	}
	if strings.EqualFold(fields["compresseddata"], "true") {
		if data, err = zlib.NewReader(data); err != nil {
			return nil, fmt.Errorf("%w: CompressedData: %w", ErrFormat, err)
		}
		size *= maxInflation
	}
	if err := h.fits(size); err != nil {
		return nil, err
	}
	return use(h, &countingReader{r: data})
}

// fits checks a header's claim against what the file can hold.
func (h *Header) fits(available int64) error {
	if need := h.offset + int64(h.Dim[0])*int64(h.Dim[1])*int64(h.Dim[2])*int64(voxelBytes(h.Datatype)); need > available {
		return fmt.Errorf("%w: the header claims %d x %d x %d voxels, %d bytes in all; the file holds at most %d",
			ErrFormat, h.Dim[0], h.Dim[1], h.Dim[2], need, available)
	}
	return nil
}

// parseMeta reads a MetaImage's lines "Key = value" up to ElementDataFile, the last.
func parseMeta(r *bufio.Reader) (*Header, map[string]string, error) {
	fields := map[string]string{}
	for fields["elementdatafile"] == "" {
		line, err := r.ReadSlice('\n')
		key, value, ok := bytes.Cut(line, []byte("="))
		if !ok || err != nil && err != io.EOF || len(fields) > 100 {
			return nil, nil, fmt.Errorf("%w: no MetaImage: want lines \"Key = value\" up to ElementDataFile", ErrFormat)
		}
		fields[strings.ToLower(strings.TrimSpace(string(key)))] = strings.TrimSpace(string(value))
	}
	numbers := func(n int, keys ...string) ([]float64, error) {
		for _, key := range keys {
			text := strings.Fields(fields[key])
			if len(text) == 0 {
				continue
			}
			out := make([]float64, len(text))
			for i := range text {
				v, err := strconv.ParseFloat(text[i], 64)
				if err != nil || len(text) != n {
					return nil, fmt.Errorf("%w: %s is %q, want %d numbers", ErrFormat, key, fields[key], n)
				}
				out[i] = v
			}
			return out, nil
		}
		return nil, nil
	}
	n, err := strconv.Atoi(fields["ndims"])
	if err != nil || n < 2 || n > 3 {
		return nil, nil, fmt.Errorf("%w: NDims is %q, want 2 or 3", ErrFormat, fields["ndims"])
	}
	if c := fields["elementnumberofchannels"]; c != "" && c != "1" {
		return nil, nil, fmt.Errorf("%w: %s channels, want one", ErrFormat, c)
	}
	f := rawFields{datatype: metaTypes[strings.ToUpper(fields["elementtype"])], slope: 1, sform: 1}
	f.dim[0] = 3
	f.dim[3] = 1
	dim, err := numbers(n, "dimsize")
	if err != nil || dim == nil {
		return nil, nil, fmt.Errorf("%w: DimSize is %q, want %d numbers", ErrFormat, fields["dimsize"], n)
	}
	spacing, err := numbers(n, "elementspacing", "elementsize")
	if err != nil {
		return nil, nil, err
	}
	origin, err := numbers(n, "offset", "position", "origin")
	if err != nil {
		return nil, nil, err
	}
	turn, err := numbers(n*n, "transformmatrix", "rotation", "orientation")
	if err != nil {
		return nil, nil, err
	}
	f.srow[10] = 1
	for a := range n {
		f.dim[a+1], f.pixdim[a+1] = int64(dim[a]), 1
		if spacing != nil {
			f.pixdim[a+1] = spacing[a]
		}
		for row := range n {
			v := 0.0
			if turn != nil {
				v = turn[a*n+row] // the matrix lists the axes' directions one after another
			} else if a == row {
				v = 1
			}
			if row < 2 {
				v = -v // MetaImage's axes point left and back, as DICOM's
			}
			f.srow[4*row+a] = v * f.pixdim[a+1]
		}
		if origin != nil {
			f.srow[4*a+3] = origin[a]
			if a < 2 {
				f.srow[4*a+3] = -origin[a]
			}
		}
	}
	h := &Header{order: binary.LittleEndian}
	if strings.EqualFold(fields["binarydatabyteordermsb"], "true") || strings.EqualFold(fields["elementbyteordermsb"], "true") {
		h.order = binary.BigEndian
	}
	return h, fields, h.set(f)
}
