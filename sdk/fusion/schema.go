// Package fusion holds what every fusion stage has in common: reading the
// attribute schema, making report tokens (Eq. 5), projecting modalities to one
// width and back.
package fusion

import (
	"encoding/json"
	"fmt"

	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Attribute is one entry of the attribute schema.
type Attribute struct {
	Name    string   `json:"name"`
	Kind    string   `json:"kind"`
	Values  []string `json:"values"`
	Ordinal bool     `json:"ordinal"`
}

// Known reports whether a cell carries a value as a fact. Only such cells are
// masked and reconstructed in training.
func Known(state ports.State, value int64) bool {
	return (state == ports.Stated || state == ports.Negated) && value >= 0
}

// ParseSchema reads the JSON of OpenRequest.AttributeSchema. Empty data is a
// pipeline without attributes and gives none.
func ParseSchema(data []byte) ([]Attribute, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var doc struct {
		Version    int         `json:"schema_version"`
		Attributes []Attribute `json:"attributes"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("attribute schema: %w", err)
	}
	if doc.Version != 1 {
		return nil, fmt.Errorf("attribute schema: schema_version is %d, want 1", doc.Version)
	}
	for i, a := range doc.Attributes {
		if len(a.Values) < 2 {
			return nil, fmt.Errorf("attribute schema: attribute %d (%q) has %d values, want at least 2", i, a.Name, len(a.Values))
		}
	}
	return doc.Attributes, nil
}

// checkCells checks the report ports' contents. The value of an unmentioned
// attribute is never read, so that it cannot leak.
func checkCells(attributes []Attribute, state, value []int64) error {
	for i, st := range state {
		a := attributes[i%len(attributes)]
		row := i / len(attributes)
		v := value[i]
		switch {
		case st < int64(ports.Unmentioned) || st > int64(ports.Uncertain):
			return fmt.Errorf("report.state of case %d, attribute %q is %d, want 0 (unmentioned) to 3 (uncertain)", row, a.Name, st)
		case v < -1 || v >= int64(len(a.Values)):
			return fmt.Errorf("report.value of case %d, attribute %q is %d, want -1 to %d", row, a.Name, v, len(a.Values)-1)
		}
	}
	return nil
}
