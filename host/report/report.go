// Package report reads medical reports and the tables of what is known from them. The
// rooms below it make such a table: schema says what an attribute and a cell are, rules
// and llm read cells from text, embed turns them into vectors, corpus measures.
package report

import (
	"strings"
	"unicode"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// Report is one report as it was given.
type Report struct {
	ID       string
	Sections []Section
}

// Section is a named part of a report.
type Section struct {
	Name, Text string
}

// Empty reports whether no section has a letter or digit.
func (r Report) Empty() bool {
	for _, s := range r.Sections {
		if strings.ContainsFunc(s.Text, func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) }) {
			return false
		}
	}
	return true
}

// Text is that of the section called name, "" when there is none.
func (r Report) Text(name string) string {
	for _, s := range r.Sections {
		if s.Name == name {
			return s.Text
		}
	}
	return ""
}

// Holds reports whether the evidence is in the report: the quote verbatim at its span of
// its section.
func (r Report) Holds(e schema.Evidence) bool {
	text := r.Text(e.Section)
	return e.Start >= 0 && e.End <= len(text) && e.Start <= e.End && text[e.Start:e.End] == e.Quote
}
