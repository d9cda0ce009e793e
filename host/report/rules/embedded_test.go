package rules

import (
	"strings"
	"testing"
)

func TestTheLinterHasNothingToRemarkOnEmbeddedLexicons(t *testing.T) {
	for _, name := range Names() {
		lexicon, err := OpenLexicon(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if lexicon.Source.Name != name {
			t.Errorf("%s calls itself %s", name, lexicon.Source.Name)
		}
		for _, r := range lexicon.Lint() {
			if name != ChestXRay || r.Rule == "blank" || r.Rule == "mark" || r.Rule == "comma" {
				t.Errorf("%s: %s", name, r)
			}
		}
	}
}

func TestLintRemarks(t *testing.T) {
	lexicon, err := ParseLexicon([]byte(`lexicon_version: 1
name: l
attributes:
  - {name: mass, kind: binary, mentions: [mass, lung mass, nodul*, nodule], not: [lung mass effect]}
  - {name: cyst, kind: binary, mentions: [cyst|cysts], not: [renal cyst], absent: [cystless]}
  - name: margin
    kind: categorical
    values: [{name: smooth, mentions: [smooth*]}, {name: rough, mentions: [rough, smoothish]}]
  - {name: haze, kind: binary, mentions: [ground glass|ground glass opacity, "haze, hazy", mist?|fog, gl*ss, "a b|_"]}
  - {name: size, kind: numeric, near: ["haze, blur"], unit: mm, edges: [1]}
abnormal: {mentions: [clip|surgical clip]}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range lexicon.Lint() {
		got = append(got, r.String())
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{`mass: "mass": plural: "masses" is not found`, `mass: "nodule": unreachable: "nodul*" finds the same`, `margin: "smoothish": overlap: "smoothish" means smooth, as "smooth*" says`,
		`haze: "ground glass|ground glass opacity": blank: `, `haze: "haze, hazy": comma: `, `haze: "mist?|fog": mark: `, `haze: "gl*ss": mark: `, `haze: "a b|_": mark: `,
		`size: "haze, blur": comma: `, `abnormal: "clip|surgical clip": blank: `} {
		if !strings.Contains(all, want) {
			t.Errorf("no remark %s in\n%s", want, all)
		}
	}
	if strings.Contains(all, "cyst:") {
		t.Errorf("remarks on a good attribute:\n%s", all)
	}
}

// Sentences of each embedded lexicon, with what they say.
func TestEmbeddedLexiconsRead(t *testing.T) {
	for _, c := range []struct{ lexicon, text, want string }{
		{"ct-lesion", "A 1.2 cm spiculated solid nodule in the right upper lobe, previously 9 mm. No calcification.", "lesion=1 organ=lung lobe=RUL laterality=right size_mm=12 prior_size_mm=9 margin=spiculated density=solid calcification=0"},
		{"ct-lesion", "Multiple hypodense lesions in the liver with rim enhancement.", "lesion=1 organ=liver attenuation=low enhancement=1 enhancement_pattern=rim number=multiple"},
		{"ct-lesion", "Solider Rundherd von 1,2 cm im rechten Oberlappen mit unscharfem Rand. Keine Verkalkung.", "lesion=1 organ=lung lobe=RUL laterality=right size_mm=12 margin=ill-defined density=solid calcification=0"},
		{"ct-lesion", "Nódulo sólido de 9 mm en el lóbulo superior derecho, sin calcificaciones.", "lesion=1 organ=lung lobe=RUL laterality=right size_mm=9 density=solid calcification=0"},
		{"ct-lesion", "Guzek w płucu prawym, bez zwapnień.", ""},
		{"liver", "A 24 mm observation in segment VII with arterial phase hyperenhancement and washout, LR-5.", "lesion=1 segment=VII size_mm=24 lirads=LR-5 arterial_enhancement=1 washout=1"},
		{"liver", "Cirrhotic liver without ascites.", "cirrhosis=1 ascites=0"},
		{"kidney", "Bosniak IIF cyst of the left upper pole, 3.1 cm. No hydronephrosis.", "lesion=1 laterality=left pole=upper size_mm=31 bosniak=IIF hydronephrosis=0"},
		{"kidney", "A 5 mm stone in the right kidney.", "laterality=right stone_mm=5 stone=1"},
		{"prostate", "PI-RADS 4 lesion in the left peripheral zone at the midgland, 11 mm. No extraprostatic extension.", "lesion=1 pirads=4 zone=peripheral level=midgland laterality=left size_mm=11 extraprostatic_extension=0"},
		{"skin", "Asymmetric brown macule with an atypical pigment network and irregular streaks. No blue-white veil.", "pigment_network=atypical blue_white_veil=0 streaks=irregular asymmetry=1 color=brown elementary_lesion=macule"},
		{"skin", "The lesion is 7 mm in diameter, itchy and never bled.", "diameter_mm=7 bleeding=0 itch=1"},
		{"pathology", "Breslow thickness 1.3 mm, Clark level IV. Ulceration: not identified. Margins are clear. pT2a pN0.", "pt=pT2 pn=pN0 margin=clear breslow_mm=1.3 clark_level=IV ulceration=0"},
		{"pathology", "Poorly differentiated carcinoma with lymphovascular invasion. No perineural invasion.", "histologic_grade=G3 lymphovascular_invasion=1 perineural_invasion=0"},
	} {
		x, err := Open(Options{Lexicon: c.lexicon})
		if err != nil {
			t.Error(err)
			continue
		}
		if got := strings.Join(states(x.Lexicon.Schema, x.Extract(one(c.text))), " "); got != c.want {
			t.Errorf("%s: %q:\n got %s\nwant %s", c.lexicon, c.text, got, c.want)
		}
	}
}
