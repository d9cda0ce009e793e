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
	columns := []string{"id", "path", "patient", "split", "series", "source"}
	rows := map[string]map[string]string{}
	path := filepath.Join(dir, "volumes.csv")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		before, err := table.Read(path)
		if err != nil {
			return err
		}
		if err := before.Need("id"); err != nil {
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
			rows[row["id"]] = row
		}
	}
	for _, s := range scans {
		row := rows[s.id]
		if row == nil {
			row = map[string]string{}
			rows[s.id] = row
		}
		row["id"], row["path"], row["patient"] = s.id, volumePath(s.id), s.patient
		row["series"], row["source"] = s.series, filepath.Base(s.source)
	}
	var out [][]string
	for _, id := range slices.Sorted(maps.Keys(rows)) {
		line := make([]string, len(columns))
		for k, c := range columns {
			line[k] = rows[id][c]
		}
		out = append(out, line)
	}
	if err := table.Write(path, columns, out); err != nil || !withBoxes {
		return err
	}
	return writeBoxes(filepath.Join(dir, "boxes.csv"), boxes)
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
