package froc

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

func TestNothingGivenIsAnError(t *testing.T) {
	p := StrictProtocol()
	truth := &Truth{Images: images(1), Lesions: []Lesion{{Region: lesionBox}}, Strata: []string{"s"}}
	made := mustEvaluate(t, truth, nil, p)
	few := resample.Options{Replicates: 10}
	for name, call := range map[string]func() error{
		"Evaluate without truth":       func() error { _, err := Evaluate(nil, nil, p); return err },
		"Evaluate with empty truth":    func() error { _, err := Evaluate(&Truth{}, nil, p); return err },
		"Evaluate without protocol":    func() error { _, err := Evaluate(truth, nil, Protocol{}); return err },
		"Evaluate of undefined marks":  func() error { _, err := Evaluate(truth, make([]Prediction, 1), p); return err },
		"Evaluate of no mask":          func() error { _, err := Evaluate(truth, []Prediction{{Region: MaskRegion(nil)}}, p); return err },
		"Evaluate of an empty mask":    func() error { _, err := Evaluate(truth, []Prediction{{Region: MaskRegion(&Mask{})}}, p); return err },
		"Strata without truth":         func() error { _, err := Strata(nil, nil, p, "s", nil, StrataIgnore); return err },
		"Strata without rule":          func() error { _, err := Strata(truth, nil, p, "s", nil, ""); return err },
		"AP at IoU without truth":      func() error { _, err := AveragePrecisionAt(nil, nil, p, []float64{0.5}); return err },
		"Compare nothing":              func() error { _, err := Compare(nil, CompareOptions{}); return err },
		"Compare without results":      func() error { _, err := Compare(make([]Named, 2), CompareOptions{}); return err },
		"Compare with an empty result": func() error { _, err := Compare([]Named{{"a", made}, {"b", &Result{}}}, CompareOptions{}); return err },
		"Bootstrap of no result":       func() error { _, err := (*Result)(nil).Bootstrap(few); return err },
		"Bootstrap of an empty result": func() error { _, err := (&Result{}).Bootstrap(few); return err },
		"Band of no result":            func() error { _, err := (*Result)(nil).Band(0.1, 1, 5, few); return err },
		"Band of no points":            func() error { _, err := made.Band(0.1, 1, 0, few); return err },
		"Band of too many points":      func() error { _, err := made.Band(0.1, 1, math.MaxInt, few); return err },
		"Band from NaN":                func() error { _, err := made.Band(math.NaN(), 1, 5, few); return err },
		"no protocol":                  func() error { return (*Protocol)(nil).Check() },
		"no truth":                     func() error { return (*Truth)(nil).Check() },
		"no region":                    func() error { return (*Region)(nil).Check() },
		"no hit rule":                  func() error { _, err := ParseHit(""); return err },
		"a mask without voxels' grid":  func() error { _, err := NewMask(0, 1, 1, nil); return err },
		"a mask beyond int":            func() error { _, err := NewMask(math.MaxInt, 2, 1, nil); return err },
		"a mask beyond int in depth":   func() error { _, err := NewMask(2, 2, math.MaxInt/2, []int{0}); return err },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Evaluate(nil, nil, p); !errors.Is(err, ErrNoImages) {
		t.Errorf("error %v, want ErrNoImages", err)
	}
}

func TestResultsThatEvaluateHasNotMadeAreEmpty(t *testing.T) {
	for name, r := range map[string]*Result{"nil": nil, "zero": {}} {
		if at := r.At(1); !math.IsNaN(at.Sensitivity) || at.FPPI != 1 {
			t.Errorf("%s: %+v", name, at)
		}
		if r.Clusters() != 0 || r.LesionOutcomes() != nil || r.PredictionOutcomes() != nil {
			t.Errorf("%s: not empty", name)
		}
	}
	undefined := Region{}
	if low, high := undefined.Bounds(); low != high || undefined.Radius() != 0 || undefined.String() == "" || undefined.Mask() != nil {
		t.Errorf("an undefined region has bounds %v, %v", low, high)
	}
}

// A protocol is one constructor and one line of the table: no other file of the program
// spells a preset's name, but for the reference that the program writes itself.
func TestAProtocolStandsInAtMostTwoFiles(t *testing.T) {
	root := filepath.Join("..", "..")
	spelled := regexp.MustCompile("[\"`|]lens[\"`|]")
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "build" || d.Name() == "bin"):
			return fs.SkipDir
		case d.IsDir() || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		if ext := filepath.Ext(path); ext != ".go" && ext != ".md" && ext != ".py" && ext != ".yaml" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil && spelled.Match(text) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 || len(files) > 2 {
		t.Errorf("lens is spelled in %v, want protocol.go and at most one file more", files)
	}
}

func TestPresetsPassAndAreFoundByName(t *testing.T) {
	names := map[string]bool{}
	for i, p := range Protocols() {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
		found, err := ProtocolByName(p.Name)
		if err != nil || found.Source != p.Source || names[p.Name] || ProtocolNames()[i] != p.Name || p.Description == "" {
			t.Errorf("%q: found %q (%v)", p.Name, found.Name, err)
		}
		names[p.Name] = true
	}
	if _, err := ProtocolByName("luna"); err == nil || !strings.Contains(err.Error(), "luna16") {
		t.Errorf("error %v, want the names there are", err)
	}
}
