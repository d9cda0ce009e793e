// Package review writes a page in which a person reads reports beside the cells that were
// read from them, accepts or corrects each, and exports the table that `attributes extract
// --keep` and `train --reports` take back.
package review

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

//go:embed page.html
var page string

var layout = template.Must(template.New("page").Parse(page))

// Recovered is what a run makes of an attribute that a report does not mention.
type Recovered struct {
	Attribute string   `json:"attribute"`
	Values    []string `json:"values"`
	// Probabilities of the values, and how frequent each is in the training cases (nil
	// where that is not known).
	Probabilities []float64 `json:"probabilities"`
	Prior         []float64 `json:"prior,omitempty"`
}

// Input is what the page shows.
type Input struct {
	// Name of the table, for the title and the exported file.
	Name    string
	Table   *report.Table
	Reports []report.Report
	// Recovered values by report, nil without; Calibration says what their probabilities
	// are worth.
	Recovered   map[string][]Recovered
	Calibration string
}

// The page's data.
type (
	document struct {
		Name        string      `json:"name"`
		Attributes  []attribute `json:"attributes"`
		Reports     []entry     `json:"reports"`
		Calibration string      `json:"calibration,omitempty"`
	}
	attribute struct {
		Name   string      `json:"name"`
		Kind   schema.Kind `json:"kind"`
		Values []string    `json:"values"`
	}
	entry struct {
		ID        string                `json:"id"`
		Sections  []section             `json:"sections"`
		Cells     []cell                `json:"cells"`
		Recovered map[string]*Recovered `json:"recovered,omitempty"`
	}
	section struct {
		Name string `json:"name"`
		Text string `json:"text"`
	}
	cell struct {
		Text     string `json:"text"`
		State    string `json:"state"`
		Review   string `json:"review,omitempty"`
		Evidence string `json:"evidence,omitempty"`
		// Section and the span in it, in UTF-16 units as scripts count; Section is -1
		// without evidence.
		Section int `json:"section"`
		Start   int `json:"start"`
		End     int `json:"end"`
	}
)

// Page is the whole page: one HTML file that asks for nothing from anywhere. Evidence that
// is not in its report is an error that names the report.
func Page(in Input) ([]byte, error) {
	doc := document{Name: in.Name, Calibration: in.Calibration}
	for _, a := range in.Table.Schema.Attributes {
		doc.Attributes = append(doc.Attributes, attribute{a.Name, a.Kind, a.Values})
	}
	byID := map[string]report.Report{}
	for _, r := range in.Reports {
		byID[r.ID] = r
	}
	for n, id := range in.Table.IDs {
		r, ok := byID[id]
		if !ok {
			return nil, fmt.Errorf("row %d of the table: no report has the id %q", n+2, id)
		}
		e, err := entryOf(in.Table.Schema, in.Table.Cells[n], r)
		if err != nil {
			return nil, err
		}
		for _, v := range in.Recovered[id] {
			if e.Recovered == nil {
				e.Recovered = map[string]*Recovered{}
			}
			e.Recovered[v.Attribute] = &v
		}
		doc.Reports = append(doc.Reports, *e)
	}
	data, err := json.Marshal(doc) // escapes <, > and &
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = layout.Execute(&out, struct {
		Title string
		Data  template.JS
	}{in.Name, template.JS(data)})
	return out.Bytes(), err
}

func entryOf(s schema.Schema, cells []schema.Cell, r report.Report) (*entry, error) {
	e := &entry{ID: r.ID}
	for _, one := range r.Sections {
		e.Sections = append(e.Sections, section{one.Name, one.Text})
	}
	for i, c := range cells {
		a := s.Attributes[i]
		out := cell{Text: schema.FormatCell(a, c), State: c.State.String(), Review: c.Review, Section: -1}
		if ev := c.Evidence; !ev.IsZero() {
			if !r.Holds(ev) {
				return nil, fmt.Errorf("report %q: the evidence for %q is not in it; correct or clear it", r.ID, a.Name)
			}
			c.Review = ""
			out.Evidence = report.FormatEvidence(c)
			out.Section = slices.IndexFunc(r.Sections, func(s report.Section) bool { return s.Name == ev.Section })
			text := r.Text(ev.Section)
			out.Start, out.End = utf16Len(text[:ev.Start]), utf16Len(text[:ev.End])
		}
		e.Cells = append(e.Cells, out)
	}
	return e, nil
}

// utf16Len is a text's length as scripts count it.
func utf16Len(text string) int {
	n := 0
	for _, r := range text {
		n++
		if r > 0xffff {
			n++
		}
	}
	return n
}
