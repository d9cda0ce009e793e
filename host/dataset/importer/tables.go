package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/internal/table"
)

// writeTables writes volumes.csv and, where boxes were given, boxes.csv. Rows and columns
// that volumes.csv has already, a split above all, are kept, and the boxes of other scans.
func writeTables(dir string, scans []*scan, boxes []box3, withBoxes bool) (notes []string, err error) {
	rows := map[string]map[string]string{}
	for _, s := range scans {
		rows[s.id] = map[string]string{"id": s.id, "path": volumePath(s.id), "patient": s.patient, "series": s.series, "source": filepath.Base(s.source)}
	}
	others, err := mergeTable(filepath.Join(dir, "volumes.csv"), []string{"id", "path", "patient", "split", "series", "source"}, rows)
	if err != nil {
		return nil, err
	}
	if others > 0 {
		notes = append(notes, fmt.Sprintf("%d volumes of an import before are not among these scans: they stay in the data set", others))
	}
	path := filepath.Join(dir, "boxes.csv")
	if withBoxes {
		return notes, writeBoxes(path, boxes, func(id string) bool { return rows[id] != nil })
	}
	if _, err := os.Stat(path); err == nil {
		notes = append(notes, "boxes.csv is of an import before: scans without a box in it are taken to be free of lesions")
	}
	return notes, nil
}

// mergeTable writes rows, by the value of their first column, into a table that may be there:
// its other rows, which are counted, and columns are kept, and where they are filled the cells of
// some columns.
func mergeTable(path string, columns []string, rows map[string]map[string]string, kept ...string) (others int, err error) {
	key := columns[0]
	merged := map[string]map[string]string{}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		before, err := table.Read(path)
		if err != nil {
			return 0, err
		}
		if err := before.Need(key); err != nil {
			return 0, err
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
			if merged[row[key]] = row; rows[row[key]] == nil {
				others++
			}
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
	return others, table.Write(path, columns, out)
}

// replaceRows writes rows, by the value of their first column, into a table that may be there: rows
// of what is not imported now are kept, behind them.
func replaceRows(path string, columns []string, rows [][]string, imported func(id string) bool) error {
	_, err := os.Stat(path)
	if there := err == nil; there {
		before, err := table.Read(path)
		if before == nil {
			return err
		}
		known := len(columns)
		for _, c := range before.Columns {
			if !slices.Contains(columns, c) {
				columns = append(columns, c)
			}
		}
		for k := range rows {
			rows[k] = append(rows[k], make([]string, len(columns)-known)...)
		}
		for _, r := range before.Rows {
			if imported(before.Get(r, columns[0])) {
				continue
			}
			line := make([]string, len(columns))
			for k, c := range columns {
				line[k] = before.Get(r, c)
			}
			rows = append(rows, line)
		}
	}
	return table.Write(path, columns, rows)
}

func writeBoxes(path string, boxes []box3, imported func(id string) bool) error {
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
	return replaceRows(path, columns, out, imported)
}
