package predictions

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow/detect"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func TestCombineMergesBoxesCaseByCase(t *testing.T) {
	a, b := &dataset.Case{ID: "a"}, &dataset.Case{ID: "b"}
	first := []Prediction{{Case: a, Boxes: []Box{found(0, 0, 10, 10, 0.8, 0)}}, {Case: b}}
	second := []Prediction{{Case: a, Boxes: []Box{found(2, 0, 12, 10, 0.8, 0)}}, {Case: b, Boxes: []Box{found(1, 1, 5, 5, 0.6, 0)}}}
	got, err := Combine(config.Detect, MergeFusion, [][]Prediction{first, second})
	if err != nil {
		t.Fatal(err)
	}
	want := [][]Box{{found(1, 0, 11, 10, 0.8, 0)}, {found(1, 1, 5, 5, 0.3, 0)}}
	for i, p := range got {
		if diff := cmp.Diff(want[i], p.Boxes, cmpopts.EquateApprox(1e-9, 1e-9)); diff != "" {
			t.Error(diff)
		}
	}
	if len(first[1].Boxes) != 0 {
		t.Error("the first source was changed")
	}
	if got, err = Combine(config.Detect, MergeSuppression, [][]Prediction{first, second}); err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]Box{{found(0, 0, 10, 10, 0.8, 0)}, {found(1, 1, 5, 5, 0.6, 0)}} {
		if diff := cmp.Diff(want, got[i].Boxes); diff != "" {
			t.Errorf("nms: %s", diff)
		}
	}
	var configError *config.Error
	if _, err := Combine(config.Detect, MergeFusion, [][]Prediction{first, second[1:]}); !errors.As(err, &configError) {
		t.Errorf("sources over other cases: %v", err)
	}
}

func TestCombineAveragesProbabilities(t *testing.T) {
	a := &dataset.Case{ID: "a"}
	first := []Prediction{{Case: a, Probabilities: [][]float64{{0.8, 0.2}}}}
	second := []Prediction{{Case: a, Probabilities: [][]float64{{0.4, 0.6}}}}
	got, err := Combine(config.Classify, "", [][]Prediction{first, second})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]float64{{0.6, 0.4}}, got[0].Probabilities, cmpopts.EquateApprox(1e-9, 1e-9)); diff != "" {
		t.Error(diff)
	}
	if first[0].Probabilities[0][0] != 0.8 {
		t.Error("the first source was changed")
	}
	var configError *config.Error
	if _, err := Combine(config.Classify, "", [][]Prediction{first, nil}); !errors.As(err, &configError) {
		t.Errorf("sources over other cases: %v", err)
	}
}

func TestFindingsMergeTheSlicesOfEachVolume(t *testing.T) {
	slice := func(stack string, z int, boxes ...Box) Prediction {
		id := stack + "#" + string(rune('0'+z))
		return Prediction{Case: &dataset.Case{ID: id, Stack: stack, KeySlice: z, Patient: "p" + stack}, Boxes: boxes}
	}
	predictions := []Prediction{
		slice("v", 1, found(0, 0, 10, 10, 0.5, 0)), slice("v", 2, found(1, 0, 11, 10, 0.75, 0)), slice("w", 3, found(1, 0, 11, 10, 0.25, 0)),
		{Case: &dataset.Case{ID: "alone.png"}, Boxes: []Box{found(5, 5, 6, 6, 0.125, 0)}},
	}
	found, err := Findings(predictions, []sdk.LabelSet{{Classes: []string{"lesion"}}}, detect.MergeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "findings.csv")
	if err := WriteFindings(path, found); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "image,x1,y1,x2,y2,z1,z2,score,label,key_image,slices,patient\n" +
		"v,0,0,11,10,1,2,0.75,lesion,v#2,2,pv\n" +
		"w,1,0,11,10,3,3,0.25,lesion,w#3,1,pw\n" +
		"alone.png,5,5,6,6,0,0,0.125,lesion,alone.png,1,\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	path = filepath.Join(t.TempDir(), "findings.json")
	if err := WriteFindings(path, nil); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"findings": []`) {
		t.Errorf("%s %v", text, err)
	}
	if err := WriteFindings("x.txt", found); err == nil {
		t.Error("an ending .txt is accepted")
	}
}
