package frocio

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Stdin is the path that stands for standard input.
const Stdin = "-"

// input is an opened file: unpacked where gzip has packed it, without a byte order mark.
type input struct {
	*bufio.Reader
	name string // as given, for messages
	size int64  // of the file as it will be read; 0: unknown
	file fs.File
	ctx  context.Context
}

// Close closes the file, standard input excepted.
func (in *input) Close() {
	if in.file != os.Stdin {
		_ = in.file.Close() // it was only read
	}
}

var openFile = func(path string) (fs.File, error) { return os.Open(path) } // tests have files in memory

// open opens a file for reading as text, by its content and not its name. Once ctx is done,
// reading fails with its error.
func open(ctx context.Context, path string) (*input, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in := &input{name: path, file: os.Stdin, ctx: ctx}
	if path != Stdin {
		f, err := openFile(path)
		if err != nil {
			return nil, err
		}
		in.file = f
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			in.size = info.Size()
		}
	}
	buffer := 1 << 20
	if in.size > 0 {
		buffer = min(buffer, max(4096, int(in.size)+1))
	}
	in.Reader = table.SkipMark(bufio.NewReaderSize(&stoppable{ctx, in.file}, buffer))
	if start, err := in.Peek(2); err == nil && bytes.Equal(start, []byte{0x1f, 0x8b}) {
		unpacked, err := gzip.NewReader(in.Reader)
		if err != nil {
			in.Close()
			return nil, fmt.Errorf("%s: begins like gzip: %w", path, err)
		}
		in.Reader, in.size = table.SkipMark(unpacked), 0
	}
	if err := in.refuse(); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// stoppable is a file until its context is done.
type stoppable struct {
	ctx  context.Context
	file io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.file.Read(p)
}

// foreign are files of other programs that are no text, by how they begin, with the
// line that converts them.
var foreign = []struct{ magic, what, mend string }{
	{"<", "XML (Pascal VOC, ASAP, CVAT) or HTML", "write its boxes as CSV, image,x1,y1,x2,y2,class"},
	{"PK\x03\x04", "a zip archive or a workbook", "export the sheet as CSV"},
	{"PAR1", "a Parquet file", `convert it: python3 -c "import pandas,sys; pandas.read_parquet(sys.argv[1]).to_csv(sys.argv[2],index=False)" %s out.csv`},
	{"\x89HDF", "an HDF5 file", "write its arrays with numpy.savez"},
	{"BZh", "packed by bzip2", "unpack it (bunzip2), or pack it by gzip"}, {"\xfd7zXZ", "packed by xz", "unpack it (unxz), or pack it by gzip"},
	{"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it (unzstd), or pack it by gzip"}, {"7z\xbc\xaf", "a 7-zip archive", "unpack it"},
	{"\xd0\xcf\x11\xe0", "an Excel workbook of the old kind", "export the sheet as CSV"}, {"%PDF", "a PDF file", "want a table or JSON"},
	{"\x93NUMPY", "a single NumPy array", "save boxes, scores and image together with numpy.savez"},
	{"\x80\x02", "a Python pickle", pickleMend}, {"\x80\x03", "a Python pickle", pickleMend},
	{"\x80\x04", "a Python pickle", pickleMend}, {"\x80\x05", "a Python pickle", pickleMend},
}

const pickleMend = "unpickling runs code, so it is not read; convert it where you trust it: " +
	`python3 -c "import json,pickle,sys; json.dump(pickle.load(open(sys.argv[1],'rb')),open(sys.argv[2],'w'),default=lambda v:v.tolist())" %s out.json`

// refuse says what a file is that cannot be read as text.
func (in *input) refuse() error {
	start, _ := in.Peek(8)
	for _, f := range foreign {
		if !bytes.HasPrefix(start, []byte(f.magic)) {
			continue
		}
		mend := f.mend
		if strings.Contains(mend, "%s") {
			mend = fmt.Sprintf(mend, in.name)
		}
		return fmt.Errorf("%s: is %s; %s", in.name, f.what, mend)
	}
	return nil
}

// format is what a file is by its content.
type format int

const (
	tableFormat  format = iota
	linesFormat         // JSON Lines
	objectFormat        // a JSON object
	arrayFormat         // a JSON array
	yoloFormat          // class cx cy w h [score], no header
	markFormat          // CAMELYON16: score,x,y, no header
)

// format recognises a file by its ending and its first lines.
func (in *input) format() format {
	start, _ := in.Peek(1 << 16)
	start = bytes.TrimLeft(start, " \t\r\n")
	switch extension(in.name) {
	case ".jsonl", ".ndjson":
		return linesFormat
	}
	if len(start) == 0 {
		if extension(in.name) == ".json" {
			return objectFormat
		}
		return tableFormat
	}
	switch start[0] {
	case '[':
		return arrayFormat
	case '{':
		line, rest, _ := bytes.Cut(start, []byte("\n"))
		if rest = bytes.TrimLeft(rest, " \t\r\n"); bytes.HasPrefix(rest, []byte("{")) && json.Valid(line) {
			return linesFormat
		}
		return objectFormat
	}
	if extension(in.name) == ".json" {
		return objectFormat
	}
	line, _, _ := bytes.Cut(start, []byte("\n"))
	if numbers := numbersOf(strings.Fields(string(line))); len(numbers) == 5 || len(numbers) == 6 || len(numbers) > 6 && extension(in.name) == ".txt" {
		return yoloFormat
	}
	if numbers := numbersOf(strings.Split(strings.TrimSpace(string(line)), ",")); len(numbers) == 3 && numbers[0] >= 0 && numbers[0] <= 1 {
		return markFormat
	}
	return tableFormat
}

// numbersOf returns what the texts are as numbers, nil where one of them is none.
func numbersOf(texts []string) []float64 {
	out := make([]float64, len(texts))
	for i, text := range texts {
		v, err := number(strings.TrimSpace(text))
		if err != nil {
			return nil
		}
		out[i] = v
	}
	return out
}

// extension is a file's ending in small letters, without the .gz of a packed one.
func extension(path string) string {
	return strings.ToLower(filepath.Ext(strings.TrimSuffix(path, ".gz")))
}

// decodeWhole reads one JSON value and refuses what stands behind it; want is for messages.
func decodeWhole(name, want string, r io.Reader, into any) error {
	decoder := json.NewDecoder(r)
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%s: want %s: at byte %d: %w", name, want, decoder.InputOffset(), plainJSON(err))
	}
	return atEnd(name, decoder)
}

// plainJSON says in the words of JSON, not of Go, why something could not be decoded.
func plainJSON(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		want := map[reflect.Kind]string{reflect.Float64: "a number", reflect.Int: "a whole number", reflect.String: "a text", reflect.Slice: "a list",
			reflect.Array: "a list", reflect.Map: "an object", reflect.Struct: "an object", reflect.Bool: "true or false"}[kind.Type.Kind()]
		return fmt.Errorf("%s is a JSON %s, want %s", cmp.Or(kind.Field, "the value"), kind.Value, want)
	case errors.As(err, &syntax) && (strings.Contains(err.Error(), "'N'") || strings.Contains(err.Error(), "'I'")):
		return fmt.Errorf("%w: JSON has neither NaN nor Infinity; leave such marks out", err)
	}
	return err
}

// atEnd refuses what stands behind a JSON value.
func atEnd(name string, decoder *json.Decoder) error {
	if _, err := decoder.Token(); err != io.EOF {
		return fmt.Errorf("%s: something stands behind the JSON value, at byte %d; is the file damaged, or JSON Lines (.jsonl)?", name, decoder.InputOffset())
	}
	return nil
}
