// Package schema defines what is known about a case: attributes with value
// sets, and cells that keep four states apart (stated, negated, uncertain,
// unmentioned). It builds schemas from table columns, writes the prompts of
// AlignedFusion Eq. 5 and encodes tables for the report ports.
package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Version is the schema_version written to JSON.
const Version = 1

// State says what a report tells about an attribute, as the port report.state does.
type State = ports.State

// The four states. Only Unmentioned is reconstructed by a fusion stage.
const (
	Unmentioned = ports.Unmentioned
	Stated      = ports.Stated
	Negated     = ports.Negated
	Uncertain   = ports.Uncertain
)

// Kind says how an attribute's values are to be read.
type Kind string

// The kinds of attribute.
const (
	// Categorical attributes take one of K named values.
	Categorical Kind = "categorical"
	// Binary attributes have exactly two values, the absence first. A cell that
	// says the absence is Negated with Value 0.
	Binary Kind = "binary"
	// Numeric attributes are numbers, binned by inner edges.
	Numeric Kind = "numeric"
	// Text attributes are words of a report as they stand; no cell is one of the values.
	Text Kind = "text"
)

// Attribute is one thing a report may speak of.
type Attribute struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Values is the value set, in index order: K >= 2 strings. Binary: the
	// absence, then the presence. Numeric: the bins' ranges as words.
	Values []string `json:"values"`
	// Edges are the K-1 strictly increasing inner bin edges of a numeric
	// attribute: bin k holds Edges[k-1] <= v < Edges[k].
	Edges []float64 `json:"edges,omitempty"`
	// Ordinal says that neighbouring values are alike, so that a loss may smooth
	// over them.
	Ordinal bool `json:"ordinal,omitempty"`
}

// TextAttribute is one of kind Text.
func TextAttribute(name string) Attribute {
	return Attribute{Name: name, Kind: Text, Values: []string{"absent", "present"}}
}

// Schema is an ordered list of attributes. The order is that of the A axis of
// the report ports.
type Schema struct {
	Attributes []Attribute
}

// Evidence is the place in a report that a cell was read from.
type Evidence struct {
	// Section names the report column or file the span lies in.
	Section string
	// Start and End are byte offsets into the section's text, End exclusive.
	Start, End int
	// Quote is text[Start:End], verbatim.
	Quote string
}

// IsZero reports whether there is no evidence.
func (e Evidence) IsZero() bool { return e == Evidence{} }

// Cell is what one report says about one attribute.
type Cell struct {
	State State
	// Value is the index into the attribute's value set, -1 when unknown: always
	// for Unmentioned, for a value that training never showed, and for the
	// negation of an attribute that has no value for its absence.
	Value int
	// Raw is the value as it was written, for values outside the value set.
	Raw      string
	Evidence Evidence
	// Review says what a person did with the cell: Accepted, Corrected or nothing.
	Review string
	// Origin is the place in a table that the cell was read from, file:line; "" when it
	// was read from a report.
	Origin string
}

// What a person may have done with a cell that was read from a report.
const (
	Accepted  = "accepted"
	Corrected = "corrected"
)

// Foreign reports whether the cell holds a value outside the attribute's value set.
func (c Cell) Foreign() bool {
	return c.Value < 0 && (c.State == Stated || c.State == Uncertain)
}

// Known reports whether the cell carries a value of the value set as a fact: a
// target that reconstruction can be trained and measured on.
func (c Cell) Known() bool {
	return c.Value >= 0 && (c.State == Stated || c.State == Negated)
}

// Index returns the position of the attribute called name, or -1.
func (s *Schema) Index(name string) int {
	for i := range s.Attributes {
		if s.Attributes[i].Name == name {
			return i
		}
	}
	return -1
}

// Names returns the attribute names in order.
func (s *Schema) Names() []string {
	names := make([]string, len(s.Attributes))
	for i, a := range s.Attributes {
		names[i] = a.Name
	}
	return names
}

// Restrict is the schema with those of its attributes that are among names.
func (s *Schema) Restrict(names []string) *Schema {
	out := &Schema{}
	for _, a := range s.Attributes {
		if slices.Contains(names, a.Name) {
			out.Attributes = append(out.Attributes, a)
		}
	}
	return out
}

// Validate reports everything that is wrong with the schema, one line each.
func (s *Schema) Validate() error {
	var errs []error
	if len(s.Attributes) == 0 {
		errs = append(errs, errors.New("schema has no attributes; want at least one"))
	}
	seen := map[string]int{}
	for i, a := range s.Attributes {
		at := fmt.Sprintf("attribute %d (%q)", i, a.Name)
		bad := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
		}
		if strings.TrimSpace(a.Name) == "" {
			bad("the name is empty")
		} else if a.Name != strings.TrimSpace(a.Name) || strings.ContainsAny(a.Name, "\r\n\x00") {
			bad("the name has surrounding blanks or line breaks")
		}
		key := strings.ToLower(a.Name)
		if first, dup := seen[key]; dup {
			bad("the name is already used by attribute %d; names must differ by more than case", first)
		} else {
			seen[key] = i
		}
		if len(a.Values) < 2 {
			bad("%d value(s); an attribute needs at least 2 to tell anything", len(a.Values))
		}
		values := map[string]bool{}
		for _, v := range a.Values {
			k := fold(v)
			if k == "" || strings.ContainsAny(v, "\r\n\x00") {
				bad("value %q is empty or has line breaks", v)
			}
			if values[k] {
				bad("value %q occurs twice (case and blanks aside)", v)
			}
			values[k] = true
		}
		switch a.Kind {
		case Categorical, Binary, Text:
			if len(a.Edges) != 0 {
				bad("kind %s has %d edges; only numeric attributes have them", a.Kind, len(a.Edges))
			}
			if a.Kind == Binary && len(a.Values) != 2 {
				bad("kind binary has %d values; want 2, the absence first", len(a.Values))
			}
		case Numeric:
			if len(a.Edges) != len(a.Values)-1 {
				bad("kind numeric has %d values and %d edges; want one edge less than values", len(a.Values), len(a.Edges))
			}
			for k, e := range a.Edges {
				if math.IsNaN(e) || math.IsInf(e, 0) {
					bad("edge %d is %v; want a finite number", k, e)
				} else if k > 0 && !(e > a.Edges[k-1]) {
					bad("edge %d (%v) is not above edge %d (%v)", k, e, k-1, a.Edges[k-1])
				}
			}
		default:
			bad("kind %q; want categorical, binary, numeric or text", a.Kind)
		}
	}
	return errors.Join(errs...)
}

type schemaJSON struct {
	SchemaVersion int         `json:"schema_version"`
	Attributes    []Attribute `json:"attributes"`
}

// MarshalJSON writes {"schema_version": 1, "attributes": [...]}.
func (s Schema) MarshalJSON() ([]byte, error) {
	return json.Marshal(schemaJSON{Version, s.Attributes})
}

// UnmarshalJSON reads what MarshalJSON writes and validates it. Unknown fields
// are refused, since a misspelt one would silently change the attribute.
func (s *Schema) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	var raw schemaJSON
	if err := dec.Decode(&raw); err != nil {
		return fmt.Errorf("attribute schema: %w", err)
	}
	if raw.SchemaVersion != Version {
		return fmt.Errorf("attribute schema: schema_version %d; this program reads %d", raw.SchemaVersion, Version)
	}
	parsed := Schema{raw.Attributes}
	if err := parsed.Validate(); err != nil {
		return fmt.Errorf("attribute schema: %w", err)
	}
	*s = parsed
	return nil
}

// Hash identifies the schema: sha256 of its JSON, in hex.
func (s *Schema) Hash() string {
	data, err := json.Marshal(s)
	if err != nil { // only an edge that is NaN or infinite, which Validate refuses
		data = []byte(fmt.Sprintf("%#v", s.Attributes))
	}
	return digest.Of(data)
}

// fold is the form in which values are compared: lower case, single blanks.
func fold(s string) string {
	return strings.ToLower(strings.Join(strings.Fields(s), " "))
}
