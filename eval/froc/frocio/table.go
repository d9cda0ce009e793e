package frocio

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// table is a CSV or JSON Lines file, read row by row.
type table struct {
	file   string // as given, for messages
	header []string
	next   func() ([]string, error) // the slice is reused; io.EOF after the last row
	line   func() int               // of the last row
	read   func() int64             // bytes read so far
	size   int64                    // of the file; 0: unknown
	close  func() error
}

// where names the last row.
func (t *table) where() string { return fmt.Sprintf("%s:%d", t.file, t.line()) }

// openTable opens a CSV or JSON Lines file and reads its header. With
// headerless, a first row that names no image column is data of a single column
// "image".
func openTable(path string, headerless bool) (*table, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var t *table
	switch strings.ToLower(filepath.Ext(path)) {
	case ".jsonl", ".ndjson":
		t, err = jsonTable(path, f)
	default:
		t, err = csvTable(path, f, headerless)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	t.close = f.Close
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		t.size = info.Size()
	}
	return t, nil
}

// rowsLeft guesses how many rows are still to come from the number of rows read,
// so that memory for them is taken once.
func (t *table) rowsLeft(rows int) int {
	done := t.read()
	if done <= 0 || t.size <= done {
		return 0
	}
	return int(float64(rows) * float64(t.size-done) / float64(done))
}

func csvTable(name string, r io.Reader, headerless bool) (*table, error) {
	reader := csv.NewReader(bufio.NewReaderSize(skipBOM(r), 1<<20))
	reader.ReuseRecord = true
	reader.TrimLeadingSpace = true
	t := &table{file: name, read: reader.InputOffset}
	t.line = func() int { line, _ := reader.FieldPos(0); return line }
	first, err := reader.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is empty, want a header", name)
	}
	if err != nil {
		return nil, csvError(name, err)
	}
	first = slices.Clone(first)
	t.next = func() ([]string, error) {
		row, err := reader.Read()
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, csvError(name, err)
		}
		return row, err
	}
	if headerless && len(first) == 1 && !slices.Contains(imageNames, strings.ToLower(strings.TrimSpace(first[0]))) {
		t.header = []string{"image"}
		rest, given := t.next, false
		t.next = func() ([]string, error) {
			if !given {
				given = true
				return first, nil
			}
			return rest()
		}
		return t, nil
	}
	t.header = first
	return t, checkHeader(t)
}

func csvError(name string, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: %w", name, parse.Line, parse.Err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

func skipBOM(r io.Reader) io.Reader {
	b := bufio.NewReader(r)
	if start, err := b.Peek(3); err == nil && bytes.Equal(start, []byte("\xef\xbb\xbf")) {
		if _, err := b.Discard(3); err != nil {
			return b
		}
	}
	return b
}

func checkHeader(t *table) error {
	seen := map[string]bool{}
	for i, name := range t.header {
		t.header[i] = strings.TrimSpace(name)
		if key := strings.ToLower(t.header[i]); seen[key] {
			return fmt.Errorf("%s:1: column %q stands twice", t.file, name)
		} else {
			seen[key] = true
		}
	}
	return nil
}

// jsonTable reads one JSON object per line. The first object sets the columns;
// a later one may leave keys out but not add any.
func jsonTable(name string, r io.Reader) (*table, error) {
	scanner := bufio.NewScanner(skipBOM(r))
	scanner.Buffer(nil, 1<<24)
	line, done := 0, int64(0)
	t := &table{file: name, line: func() int { return line }, read: func() int64 { return done }}
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
	if err := checkHeader(t); err != nil {
		return nil, err
	}
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

// scalar writes a JSON value as a table would: strings without quotes, null as empty.
func scalar(raw json.RawMessage) (string, error) {
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return "", nil
	case raw[0] == '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case raw[0] == '{' || raw[0] == '[':
		return "", fmt.Errorf("want a number, a string or null, not %s", raw[:1])
	}
	return string(raw), nil
}
