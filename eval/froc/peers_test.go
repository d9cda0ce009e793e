package froc

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readPeers reads cases with what another tool gives for them; testdata/peers.py writes them.
func readPeers[T any](t *testing.T, name string) (cases []struct {
	Case T
	Want []float64
}) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 300 {
		t.Fatalf("%d cases, want 300", len(cases))
	}
	return cases
}

func cornerBox(v []float64) Region { return Box(v[0], v[1], v[0]+v[2], v[1]+v[3]) }

type cocoCase struct {
	Images, Classes int
	Lesions, Marks  [][]float64
}

func (c *cocoCase) read() (*Truth, []Prediction) {
	truth := &Truth{}
	for i := range c.Images {
		truth.Images = append(truth.Images, Image{ID: fmt.Sprint(i + 1)})
	}
	for k := range c.Classes {
		truth.Classes = append(truth.Classes, fmt.Sprint(k+1))
	}
	for _, l := range c.Lesions {
		truth.Lesions = append(truth.Lesions, Lesion{Image: int(l[0]) - 1, Class: int32(l[1]) - 1, Region: cornerBox(l[2:]), Area: l[6], Ignore: l[7] != 0})
	}
	var marks []Prediction
	for _, m := range c.Marks {
		marks = append(marks, Prediction{Image: int(m[0]) - 1, Class: int32(m[1]) - 1, Region: cornerBox(m[2:]), Score: m[6]})
	}
	return truth, marks
}

func (f *COCOFigures) vector() []float64 {
	return []float64{f.AP, f.AP50, f.AP75, f.APSmall, f.APMedium, f.APLarge, f.AR1, f.AR10, f.AR100, f.ARSmall, f.ARMedium, f.ARLarge}
}

func TestCOCOFiguresEqualPycocotools(t *testing.T) {
	for n, c := range readPeers[cocoCase](t, "testdata/coco.json.gz") {
		truth, marks := c.Case.read()
		got, err := COCOeval(truth, marks, InputOrder)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range got.vector() {
			if math.IsNaN(v) {
				v = -1
			}
			if math.Abs(v-c.Want[k]) > 1e-9 {
				t.Errorf("case %d: figure %d is %v, want %v", n, k, v, c.Want[k])
			}
		}
	}
}

// With equal scores as one step the figures do not depend on the order of input.
func TestCOCOFiguresInOneStepIgnoreTheOrder(t *testing.T) {
	for n, c := range readPeers[cocoCase](t, "testdata/coco.json.gz") {
		truth, marks := c.Case.read()
		before, err := COCOeval(truth, marks, OneStep)
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(marks)
		slices.Reverse(truth.Lesions)
		after, err := COCOeval(truth, marks, OneStep)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, after, equalOutcomes); d != "" {
			t.Errorf("case %d:\n%s", n, d)
		}
	}
}

type picaiCase []struct{ Lesions, Marks [][]float64 }

func TestPICAIEqualsPicaiEval(t *testing.T) {
	for n, c := range readPeers[picaiCase](t, "testdata/picai.json.gz") {
		truth := &Truth{}
		var marks []Prediction
		mask := func(v []float64) Region {
			var voxels []int
			for z := range 2 {
				for y := int(v[1]); y < int(v[1]+v[3]); y++ {
					for x := int(v[0]); x < int(v[0]+v[2]); x++ {
						voxels = append(voxels, x+16*(y+16*z))
					}
				}
			}
			m, err := NewMask(16, 16, 2, voxels)
			if err != nil {
				t.Fatal(err)
			}
			return MaskRegion(m)
		}
		for i, one := range c.Case {
			truth.Images = append(truth.Images, Image{ID: fmt.Sprint(i)})
			for _, l := range one.Lesions {
				truth.Lesions = append(truth.Lesions, Lesion{Image: i, Region: mask(l)})
			}
			for _, m := range one.Marks {
				marks = append(marks, Prediction{Image: i, Region: mask(m), Score: m[4]})
			}
		}
		r := mustEvaluate(t, truth, marks, PICAI())
		for k, v := range []float64{r.AP, r.Merit.CaseAUROC, r.Merit.Ranking} {
			if math.Abs(v-c.Want[k]) > 1e-9 {
				t.Errorf("case %d: figure %d is %v, want %v", n, k, v, c.Want[k])
			}
		}
	}
}

// An IoU of exactly 17/20 is a hit at 0.85, where COCOeval's list of IoUs is rounded downwards.
func TestCOCOHitsAtExactlyEachIoU(t *testing.T) {
	for hundredths := 50; hundredths <= 95; hundredths += 5 {
		truth := &Truth{Images: []Image{{ID: "1"}}, Lesions: []Lesion{{Region: Box(0, 0, 100, 100)}}}
		got, err := COCOeval(truth, []Prediction{{Region: Box(0, 0, float64(hundredths), 100), Score: 1}}, InputOrder)
		if err != nil {
			t.Fatal(err)
		}
		if want := float64(hundredths-45) / 50; math.Abs(got.AP-want) > 1e-12 {
			t.Errorf("IoU 0.%d: AP %v, want %v", hundredths, got.AP, want)
		}
	}
}
