package frocio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// rowFile is a CSV or JSON Lines file, read row by row.
type rowFile struct {
	file   string // as given, for messages
	header []string
	next   func() ([]string, error) // as table.Reader.Next
	line   func() int               // of the last row
	read   func() int64             // bytes read so far
	size   int64                    // of the file; 0: unknown
	close  func()
	ctx    context.Context

	csv       *table.Reader // nil: JSON Lines
	separator rune          // between the cells of a CSV file
	bare      bool          // the first row is data: there is no header
}

// where names the last row.
func (t *rowFile) where() string { return fmt.Sprintf("%s:%d", t.file, t.line()) }

// openTable opens a CSV or JSON Lines file and reads its header. With
// headerless, a first row that names no image column is data of a single column
// "image".
func openTable(ctx context.Context, path string, headerless bool) (*rowFile, error) {
	in, err := open(ctx, path)
	if err != nil {
		return nil, err
	}
	t, err := tableOf(in, headerless)
	if err != nil {
		in.Close()
	}
	return t, err
}

// tableOf reads the header of an opened file.
func tableOf(in *input, headerless bool) (t *rowFile, err error) {
	if in.format() == arrayFormat {
		return nil, fmt.Errorf("%s: is a JSON array, want a table: CSV, or JSON Lines with an object a row", in.name)
	}
	if in.format() == linesFormat || in.format() == objectFormat {
		t, err = jsonTable(in.name, in.Reader)
	} else {
		t, err = csvTable(in.name, in.Reader, headerless)
	}
	if err != nil {
		return nil, err
	}
	t.close, t.size, t.ctx = in.Close, in.size, in.ctx
	return t, nil
}

// rowsLeft guesses how many rows are still to come from the number of rows read,
// so that memory for them is taken once.
func (t *rowFile) rowsLeft(rows int) int {
	done := t.read()
	if done <= 0 || t.size <= done {
		return 0
	}
	return int(float64(rows) * float64(t.size-done) / float64(done))
}

func csvTable(name string, r io.Reader, headerless bool) (*rowFile, error) {
	o := table.Options{Foreign: true}
	bare := false
	if headerless {
		o.Headerless = func(first []string) []string {
			if len(first) == 1 && !isImageName(first[0]) {
				bare = true
				return []string{"image"}
			}
			return nil
		}
	}
	reader, err := table.NewReader(name, r, o)
	if err != nil {
		return nil, err
	}
	return &rowFile{file: name, header: reader.Columns, next: reader.Next, line: reader.Line, read: reader.Offset,
		csv: reader, separator: reader.Separator, bare: bare}, nil
}

// jsonTable reads one JSON object per line. The first object sets the columns;
// a later one may leave keys out but not add any.
func jsonTable(name string, r io.Reader) (*rowFile, error) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<24)
	line, done := 0, int64(0)
	t := &rowFile{file: name, line: func() int { return line }, read: func() int64 { return done }}
	read := func() (map[string]json.RawMessage, error) {
		for scanner.Scan() {
			line++
			done += int64(len(scanner.Bytes())) + 1
			text := bytes.TrimSpace(scanner.Bytes())
			if len(text) == 0 {
				continue
			}
			var object map[string]json.RawMessage
			if err := json.Unmarshal(text, &object); err != nil {
				return nil, fmt.Errorf("%s: want one JSON object per line: %w", t.where(), err)
			}
			return object, nil
		}
		if err := scanner.Err(); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line+1, err)
		}
		return nil, io.EOF
	}
	first, err := read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is empty, want one JSON object per line", name)
	}
	if err != nil {
		return nil, err
	}
	t.header = slices.Sorted(maps.Keys(first))
	keys := slices.Sorted(maps.Keys(first))
	row := make([]string, len(keys))
	convert := func(object map[string]json.RawMessage) ([]string, error) {
		used := 0
		for i, key := range keys {
			raw, there := object[key]
			if there {
				used++
			}
			text, err := scalar(raw)
			if err != nil {
				return nil, fmt.Errorf("%s: key %q: %w", t.where(), key, err)
			}
			row[i] = text
		}
		if used < len(object) {
			for key := range object {
				if !slices.Contains(keys, key) {
					return nil, fmt.Errorf("%s: key %q is not in the first object, which sets the columns", t.where(), key)
				}
			}
		}
		return row, nil
	}
	t.next = func() ([]string, error) {
		object := first
		if first = nil; object == nil {
			var err error
			if object, err = read(); err != nil {
				return nil, err
			}
		}
		return convert(object)
	}
	return t, nil
}

var listOfNumbers = regexp.MustCompile(`^\[[-+0-9.eE,\s]+\]$`)

// scalar writes a JSON value as a table would: strings without quotes, null as empty.
func scalar(raw json.RawMessage) (string, error) {
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return "", nil
	case raw[0] == '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case raw[0] == '[':
		if listOfNumbers.Match(raw) {
			return string(raw), nil // a box
		}
		fallthrough
	case raw[0] == '{':
		return "", fmt.Errorf("want a number, a string or null, not %s", raw[:1])
	}
	return string(raw), nil
}
