package schema

import "testing"

func TestANumberInACellMayHaveTheUnitThatTheNameEndsIn(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       float64
		bad        bool
	}{
		{name: "size_mm", text: "1,2 cm", want: 12},
		{name: "attenuation_hu", text: "-20 HU", want: -20},
		{name: "ki67_percent", text: "18%", want: 18},
		{name: "volume_ml", text: "48 ml", want: 48},
		{name: "attenuation_hu", text: "12 mm", bad: true},
		{name: "size_mm", text: "9 HU", bad: true},
	} {
		got, err := Attribute{Name: c.name, Kind: Numeric}.Number(c.text)
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%s %q: %g, %v", c.name, c.text, got, err)
		}
	}
}
