// Package problem says what is wrong with somebody's data, and where.
package problem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// ErrData is wrapped by every error that bad input data causes.
var ErrData = errors.New("bad input data")

// Problem is one thing wrong with the data, and where.
type Problem struct {
	// File is the table or image; Line counts from 1 as an editor does, 0 where a
	// file has no lines.
	File    string `json:"file"`
	Line    int    `json:"row,omitempty"`
	Column  string `json:"column,omitempty"`
	Message string `json:"message"`
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(filepath.ToSlash(p.File))
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Column != "" {
		b.WriteString(": " + p.Column)
	}
	b.WriteString(": " + p.Message)
	return b.String()
}

// shown is how many problems an error text lists.
const shown = 20

// List is the error of data with one or more problems; errors.Is(err, ErrData).
type List []Problem

// Error lists the first problems, one per line where there are several.
func (l List) Error() string {
	if len(l) == 1 {
		return l[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems in the data:", len(l))
	for i, one := range l {
		if i == shown {
			fmt.Fprintf(&b, "\n  … and %d more", len(l)-i)
			break
		}
		b.WriteString("\n  " + one.String())
	}
	return b.String()
}

// Is makes errors.Is(err, ErrData) true.
func (l List) Is(target error) bool { return target == ErrData }

// Add appends a problem.
func (l *List) Add(file string, line int, column, format string, args ...any) {
	*l = append(*l, Problem{file, line, column, fmt.Sprintf(format, args...)})
}

// AddError appends err, keeping the places a List already names.
func (l *List) AddError(file string, line int, column string, err error) {
	var known List
	if errors.As(err, &known) {
		*l = append(*l, known...)
		return
	}
	l.Add(file, line, column, "%v", err)
}

// Err is nil for an empty list.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	return l
}

// At is an error of a single Problem.
func At(file string, line int, column, format string, args ...any) error {
	return List{{file, line, column, fmt.Sprintf(format, args...)}}
}

// File says why a file cannot be read, without repeating its path.
func File(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return At(path, 0, "", "no such file or folder%s", nearest.File(path))
	case errors.Is(err, os.ErrPermission):
		return At(path, 0, "", "no permission to read it")
	}
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return At(path, 0, "", "%v", err)
}

// Clip shortens what a message quotes to n bytes.
func Clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

// Quote lists names for a message, the first forty of many.
func Quote(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(Clip(n, 60))
	}
	if len(quoted) == 0 {
		return "none"
	}
	if len(quoted) > 40 {
		quoted = append(quoted[:40], fmt.Sprintf("… (%d in all)", len(names)))
	}
	return strings.Join(quoted, ", ")
}
