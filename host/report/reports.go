package report

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Source says where reports lie in a file.
type Source struct {
	// Path is a CSV file, or a folder of .txt files (one report each, named by the
	// file).
	Path string
	// ID is the CSV column of the report's name; "" takes the first of uid, id,
	// report_id, case_id that the file has.
	ID string
	// Text lists the CSV columns with text; nil takes those of findings,
	// impression, report, text that the file has. Other columns are never read: in
	// some corpora they hold the labels.
	Text []string
	// Only keeps the rows with Only[1] in column Only[0]; nil keeps all.
	Only *[2]string
}

// maxReportBytes bounds one report; a longer one is a broken file.
const maxReportBytes = 64 << 20

// Read reads the reports in the order of the file (folders: by name).
// Bytes that are no UTF-8 become U+FFFD, so that evidence can be quoted. Errors
// name file and row, never text.
func Read(src Source) ([]Report, error) {
	var reports []Report
	err := Each(src, func(r Report) error {
		reports = append(reports, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reports, nil
}

// Each is Read for one report after another, which need not be in memory together. It ends
// with the first error, that of do included.
func Each(src Source, do func(Report) error) error {
	info, err := os.Stat(src.Path)
	if err != nil {
		return fmt.Errorf("reports: %w", err)
	}
	n := 0
	count := func(r Report) error {
		n++
		return do(r)
	}
	if info.IsDir() {
		err = readFolder(src.Path, count)
	} else {
		err = readCSV(src, count)
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("reports: %s holds no report", src.Path)
	}
	return err
}

// HasText reports whether a path holds reports: it is a folder, or a CSV file with a column
// of text.
func HasText(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() {
		return err == nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, header, err := openCSV(f, path)
	return slices.ContainsFunc(header, func(name string) bool { return slices.Contains(textColumns, name) }), err
}

func readFolder(dir string, do func(Report) error) error {
	paths, err := filepath.Glob(filepath.Join(strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir), "*.txt"))
	if err != nil {
		return fmt.Errorf("reports: %w", err)
	}
	sort.Strings(paths)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("reports: %w", err)
		}
		if info.Size() > maxReportBytes {
			return fmt.Errorf("reports: %s has %d bytes; want at most %d", path, info.Size(), maxReportBytes)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reports: %w", err)
		}
		one := Report{ID: strings.TrimSuffix(filepath.Base(path), ".txt"), Sections: []Section{{Name: "report", Text: clean(string(data))}}}
		if err := do(one); err != nil {
			return err
		}
	}
	return nil
}

func clean(s string) string {
	s = strings.TrimPrefix(s, "\ufeff")
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// openCSV returns a reader past the header, and the header. Text keeps its spaces: the
// offsets of evidence count them.
func openCSV(r io.Reader, path string) (*table.Reader, []string, error) {
	in, err := table.NewReader(path, r, table.Options{Text: true, AnySeparator: true})
	if err != nil {
		return nil, nil, err
	}
	return in, in.Columns, nil
}

// idColumns are the names a report's column may have when none is given.
var idColumns = []string{"uid", "id", "report_id", "case_id"}

var textColumns = []string{"findings", "impression", "report", "text"}

func readCSV(src Source, do func(Report) error) error {
	f, err := os.Open(src.Path)
	if err != nil {
		return fmt.Errorf("reports: %w", err)
	}
	defer f.Close()
	in, header, err := openCSV(f, src.Path)
	if err != nil {
		return fmt.Errorf("reports: %w", err)
	}
	column := func(name string) (int, error) {
		for i, h := range header {
			if h == name {
				return i, nil
			}
		}
		return -1, fmt.Errorf("reports: %s has no column %q; it has %q", src.Path, name, header)
	}
	id := -1
	if src.ID != "" {
		if id, err = column(src.ID); err != nil {
			return err
		}
	}
	for _, name := range idColumns {
		if id < 0 {
			id, _ = column(name)
		}
	}
	if id < 0 {
		return fmt.Errorf("reports: %s has none of the columns %q; name the reports' column; it has %q", src.Path, idColumns, header)
	}
	var texts []int
	for _, name := range src.Text {
		i, err := column(name)
		if err != nil {
			return err
		}
		texts = append(texts, i)
	}
	if src.Text == nil {
		for _, name := range textColumns {
			if i, err := column(name); err == nil {
				texts = append(texts, i)
			}
		}
	}
	if len(texts) == 0 {
		return fmt.Errorf("reports: %s has none of the columns %q; name the columns with text; it has %q", src.Path, textColumns, header)
	}
	only := -1
	if src.Only != nil {
		if only, err = column(src.Only[0]); err != nil {
			return err
		}
	}
	rows := map[string]int{}
	for row := 2; ; row++ {
		record, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reports: %w", err)
		}
		if only >= 0 && strings.TrimSpace(record[only]) != src.Only[1] {
			continue
		}
		r := Report{ID: strings.Clone(strings.TrimSpace(clean(record[id])))}
		if r.ID == "" {
			return fmt.Errorf("reports: %s: row %d has an empty %s", src.Path, row, header[id])
		}
		if first, dup := rows[r.ID]; dup {
			return fmt.Errorf("reports: %s: rows %d and %d have the same %s", src.Path, first, row, header[id])
		}
		rows[r.ID] = row
		for _, i := range texts {
			// a copy: the row's other columns need not stay in memory with it
			r.Sections = append(r.Sections, Section{Name: header[i], Text: strings.Clone(clean(record[i]))})
		}
		if err := do(r); err != nil {
			return err
		}
	}
}
