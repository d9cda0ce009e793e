package fusion

import (
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

func TestParseSchemaNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"{", "attribute schema"},
		{`{"schema_version": 2, "attributes": []}`, "schema_version is 2, want 1"},
		{`{"schema_version": 1, "attributes": [{"name": "a", "values": ["x"]}]}`, `attribute 0 ("a") has 1 values`},
	} {
		if _, err := ParseSchema([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.text, err, c.want)
		}
	}
	if a, err := ParseSchema(nil); err != nil || a != nil {
		t.Errorf("no schema: %v, %v; want no attributes", a, err)
	}
}

func TestKnownAreFactsWithAValue(t *testing.T) {
	for state, want := range map[ports.State]bool{ports.Unmentioned: false, ports.Stated: true, ports.Negated: true, ports.Uncertain: false} {
		if Known(state, 1) != want || Known(state, -1) {
			t.Errorf("state %d: known = %v, without value %v; want %v, false", state, Known(state, 1), Known(state, -1), want)
		}
	}
}

func FuzzParseSchema(f *testing.F) {
	f.Add([]byte(`{"schema_version": 1, "attributes": [{"name": "a", "kind": "binary", "values": ["no", "yes"], "ordinal": true}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		attributes, err := ParseSchema(data)
		for _, a := range attributes {
			if err == nil && len(a.Values) < 2 {
				t.Fatalf("attribute %q with %d values", a.Name, len(a.Values))
			}
		}
	})
}
