package importer

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// writeTables writes volumes.csv and, where boxes were given, boxes.csv. Rows and columns
// that volumes.csv has already, a split above all, are kept.
func writeTables(dir string, scans []*scan, boxes []box3, withBoxes bool) error {
	rows := map[string]map[string]string{}
	for _, s := range scans {
		rows[s.id] = map[string]string{"id": s.id, "path": volumePath(s.id), "patient": s.patient, "series": s.series, "source": filepath.Base(s.source)}
	}
	err := mergeTable(filepath.Join(dir, "volumes.csv"), []string{"id", "path", "patient", "split", "series", "source"}, rows)
	if err != nil || !withBoxes {
		return err
	}
	return writeBoxes(filepath.Join(dir, "boxes.csv"), boxes)
}

// mergeTable writes rows, by the value of their first column, into a table that may be there:
// its other rows and columns are kept, and where they are filled the cells of some columns.
func mergeTable(path string, columns []string, rows map[string]map[string]string, kept ...string) error {
	key := columns[0]
	merged := map[string]map[string]string{}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		before, err := table.Read(path)
		if err != nil {
			return err
		}
		if err := before.Need(key); err != nil {
			return err
		}
		for _, c := range before.Columns {
			if !slices.Contains(columns, c) {
				columns = append(columns, c)
			}
		}
		for _, r := range before.Rows {
			row := map[string]string{}
			for _, c := range before.Columns {
				row[c] = before.Get(r, c)
			}
			merged[row[key]] = row
		}
	}
	for name, row := range rows {
		if merged[name] == nil {
			merged[name] = map[string]string{}
		}
		for c, text := range row {
			if merged[name][c] == "" || !slices.Contains(kept, c) {
				merged[name][c] = text
			}
		}
	}
	var out [][]string
	for _, name := range slices.Sorted(maps.Keys(merged)) {
		line := make([]string, len(columns))
		for k, c := range columns {
			line[k] = merged[name][c]
		}
		out = append(out, line)
	}
	return table.Write(path, columns, out)
}

func writeBoxes(path string, boxes []box3) error {
	extra := map[string]bool{}
	for _, b := range boxes {
		for c := range b.extra {
			extra[c] = true
		}
	}
	more := slices.Sorted(maps.Keys(extra))
	columns := append([]string{"id", "x1", "y1", "z1", "x2", "y2", "z2", "class", "ignore"}, more...)
	var out [][]string
	for _, b := range boxes {
		line := []string{b.id}
		for _, corner := range [][3]float64{b.low, b.top} {
			for _, v := range corner {
				line = append(line, strconv.FormatFloat(v, 'g', 9, 64))
			}
		}
		line = append(line, b.class, b.ignore)
		for _, c := range more {
			line = append(line, b.extra[c])
		}
		out = append(out, line)
	}
	return table.Write(path, columns, out)
}
