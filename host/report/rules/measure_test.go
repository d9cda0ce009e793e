package rules

import (
	"fmt"
	"testing"
)

// TestQuantitiesInTheirSpellings reads each unit in the ways that reports write it.
func TestQuantitiesInTheirSpellings(t *testing.T) {
	for _, c := range []struct{ unit, text, want string }{
		{"mm", "12 mm", "[12]"}, {"mm", "12mm", "[12]"}, {"mm", "1.2cm", "[12]"}, {"mm", "1,2 cm", "[12]"}, {"mm", "0·8 cm", "[8]"}, {"mm", ".8 cm", "[8]"},
		{"mm", "12-mm", "[12]"}, {"mm", "11x9 mm", "[11 9]"}, {"mm", "1.1 x 0.9cm", "[11 9]"}, {"mm", "2 cm x 8 mm", "[20 8]"}, {"mm", "4 × 3,5 × 3 cm", "[40 35 30]"},
		{"mm", "5-8 mm", "[8]"}, {"mm", "5 to 8 mm", "[8]"}, {"mm", "between 2 and 6 mm", "[6]"}, {"mm", "21, 14 and 9 mm", "[21]"}, {"mm", "8 ± 1 mm", "[8]"},
		{"mm", "9 +/- 1 mm", "[9]"}, {"mm", "1 1/2 cm", "[15]"}, {"mm", "one and a half cm", "[15]"}, {"mm", "1,234 mm", "[1234]"}, {"mm", "350 microns", "[0.35]"},
		{"mm", "310 mm3", ""}, {"mm", "40 mmHg", ""}, {"mm", "5 mm/h", ""}, {"mm", "in 2019 and 6 mm", "[6]"}, {"mm", "9999 cm", ""}, {"mm", "image 45, 6 mm", "[6]"},
		{"HU", "43 HU", "[43]"}, {"HU", "-8 HU", "[-8]"}, {"HU", "of \u22128 HU", "[-8]"}, {"HU", "34 Hounsfield units", "[34]"}, {"HU", "HU: 12", "[12]"}, {"HU", "10 to 20 HU", "[20]"}, {"HU", "5000 HU", ""},
		{"SUV", "SUVmax 6.8", "[6.8]"}, {"SUV", "SUV max: 14.1", "[14.1]"}, {"SUV", "an SUV of 3,2", "[3.2]"}, {"SUV", "5.4 SUV", "[5.4]"}, {"SUV", "6.8", ""},
		{"%", "30%", "[30]"}, {"%", "30 %", "[30]"}, {"%", "15 percent", "[15]"}, {"%", "10-15%", "[15]"}, {"%", "130 %", ""},
		{"ml", "45 cc", "[45]"}, {"ml", "0.42 ml", "[0.42]"}, {"ml", "1.5 l", "[1500]"},
		{"/mm2", "3 per mm2", "[3]"}, {"/mm2", "5 / mm²", "[5]"}, {"/mm2", "<1/mm2", "[1]"}, {"/mm2", "3 mitoses per square millimeter", "[3]"}, {"/mm2", "4 per 2 mm2", "[2]"}, {"/mm2", "0/mm2", "[0]"}, {"/mm2", "3 mm2", ""},
		{"/10HPF", "4 per 10 HPF", "[4]"}, {"/10HPF", "12/10 high power fields", "[12]"}, {"/10HPF", "3 mitoses per 10 high-power fields", "[3]"}, {"/10HPF", "2/HPF", "[20]"}, {"/10HPF", "4 in 10 HPFs", "[4]"},
	} {
		tokens := Tokenize(c.text)
		got := ""
		for _, m := range units[c.unit].measurements(tokens, Span{0, len(tokens)}) {
			got += fmt.Sprintf("%.4g", m.values)
		}
		if got != c.want {
			t.Errorf("%s in %q: %s, want %s", c.unit, c.text, got, c.want)
		}
	}
}

// TestWhenAndWhose says of sentences what is measured now and what was before.
func TestWhenAndWhose(t *testing.T) {
	x, err := Open(Options{Lexicon: "ct-lesion"})
	if err != nil {
		t.Fatal(err)
	}
	now, before := x.Lexicon.Schema.Index("size_mm"), x.Lexicon.Schema.Index("prior_size_mm")
	for _, c := range []struct{ text, now, before string }{
		{"Nodule 8 mm, last year 6 mm.", "8", "6"},
		{"Stable since the prior exam, 8 mm nodule.", "8", ""},
		{"Nodule 9 mm -> 12 mm.", "12", "9"},
		{"Nodule 9 mm (12.04.2019: 6 mm).", "9", "6"},
		{"Nodule: 9 mm (6 mm on 2019-04-12).", "9", "6"},
		{"The nodule has decreased to 7 mm from 12 mm.", "7", "12"},
		{"The nodule was 6 mm previously, 9 mm now.", "9", "6"},
		{"The mass was 34 mm at baseline and 21 mm at follow-up.", "21", "34"},
		{"Nodule in the lingula. Previously 6 mm, now 9 mm.", "9", "6"},
		{"Nodule 9 mm vs. 6 mm.", "9", "6"},
		{"The nodule measured 8 mm.", "8", ""},
		{"The aorta is 4 cm in diameter and the nodule is unchanged.", "", ""},
		{"Right kidney 11.2 cm in length with a 2.4 cm mass.", "24", ""},
		{"On 2 mm slices a 10 mm nodule is seen.", "10", ""},
		{"The mass compresses the cava to 5 mm.", "", ""},
		{"The mass touches the aorta over a length of 3 cm.", "", ""},
		{"Distance of the nodule to the fissure: 4 mm.", "", ""},
		{"Mass 4 cm in AP, 3 cm in transverse and 6 cm in craniocaudal dimension.", "60", ""},
		{"Nodules larger than 6 mm should be followed.", "", ""},
		{"A nodule larger than 6 mm.", "6", ""},
	} {
		cells := x.Extract(one(c.text))
		if got := [2]string{cells[now].Raw, cells[before].Raw}; got != [2]string{c.now, c.before} {
			t.Errorf("%q: now and before %q, want %q", c.text, got, [2]string{c.now, c.before})
		}
	}
}

func TestOwnTriggersTakeTheSizesOfTheirLanguage(t *testing.T) {
	engine, err := ParseTriggers([]byte("triggers_version: 1\nnegated: {forward: [pas de]}\nclauses: {negators: [pas]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	x := extractor(t, "lexicon_version: 1\nname: fr\nattributes:\n  - {name: size_mm, kind: numeric, near: [masse], unit_mm: 1, edges: [6]}\n")
	x.Engine, x.AnyLanguage = engine, true
	if c := x.Extract(one("Pas de lésion. Masse de 12 mm du foie."))[0]; c.Raw != "12" {
		t.Errorf("%+v", c)
	}
	if c := x.Extract(one("There is a 12 mm lymph node and a masse."))[0]; c.Raw != "" { // English stays as strict as it is
		t.Errorf("%+v", c)
	}
}
