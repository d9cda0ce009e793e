package frocio

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// problems gathers what is wrong with a file: errors in strict mode, counts of
// dropped rows in lenient mode.
type problems struct {
	lenient bool
	first   []string
	total   int
	ofKind  map[string]int
	dropped map[string]int
}

// At most that many rows are shown in all, and of one defect.
const (
	shownProblems = 10
	shownOfAKind  = 2
)

// row notes that the row at the given place cannot be used. kind names the
// defect for the count of dropped rows.
func (p *problems) row(where, kind, format string, args ...any) {
	p.total++
	if p.lenient {
		if p.dropped == nil {
			p.dropped = map[string]int{}
		}
		p.dropped[kind]++
		return
	}
	if p.ofKind == nil {
		p.ofKind = map[string]int{}
	}
	if p.ofKind[kind]++; len(p.first) < shownProblems && p.ofKind[kind] <= shownOfAKind {
		p.first = append(p.first, where+": "+fmt.Sprintf(format, args...))
	}
}

// err returns every problem as one error, nil when there is none or lenient.
func (p *problems) err() error {
	if p.lenient || p.total == 0 {
		return nil
	}
	text := strings.Join(p.first, "\n")
	if more := p.total - len(p.first); more > 0 {
		text += fmt.Sprintf("\nand %d more", more)
	}
	return &DataError{text}
}

// notes describes the dropped rows.
func (p *problems) notes(file string) []string {
	var out []string
	for _, kind := range slices.Sorted(maps.Keys(p.dropped)) {
		out = append(out, fmt.Sprintf("%s: dropped %d rows: %s", file, p.dropped[kind], kind))
	}
	return out
}

// DataError lists the rows of a file that cannot be used, one per line.
type DataError struct{ text string }

func (e *DataError) Error() string { return e.text }
