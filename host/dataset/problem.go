package dataset

import (
	"fmt"
	"path/filepath"
	"strings"
)

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

// shownProblems is how many problems an error text lists.
const shownProblems = 20

// Problems is the error of data with one or more problems; errors.Is(err, ErrData).
type Problems []Problem

// Error lists the first problems, one per line where there are several.
func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems in the data:", len(p))
	for i, one := range p {
		if i == shownProblems {
			fmt.Fprintf(&b, "\n  … and %d more", len(p)-i)
			break
		}
		b.WriteString("\n  " + one.String())
	}
	return b.String()
}

// Is makes errors.Is(err, ErrData) true.
func (p Problems) Is(target error) bool { return target == ErrData }

func (p *Problems) add(file string, line int, column, format string, args ...any) {
	*p = append(*p, Problem{file, line, column, fmt.Sprintf(format, args...)})
}

// addError records err, keeping the place a Problem already names.
func (p *Problems) addError(file string, line int, column string, err error) {
	if known, ok := err.(Problems); ok {
		*p = append(*p, known...)
		return
	}
	p.add(file, line, column, "%v", err)
}

func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// problem is an error of a single Problem.
func problem(file string, line int, column, format string, args ...any) error {
	return Problems{{file, line, column, fmt.Sprintf(format, args...)}}
}
