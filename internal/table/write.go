package table

import (
	"encoding/csv"
	"io"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// Write writes a CSV file with a header, whole or not at all.
func Write(path string, columns []string, rows [][]string) error {
	return atomicfile.Write(path, func(w io.Writer) error {
		c := csv.NewWriter(w)
		if err := c.Write(columns); err != nil {
			return err
		}
		return c.WriteAll(rows)
	})
}
