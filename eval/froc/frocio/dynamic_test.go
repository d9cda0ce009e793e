package frocio

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// Candidates of soft maps are those of PI-CAI's own package; testdata/dynamic.py wrote them.
func TestCandidatesOfSoftMapsEqualReportGuidedAnnotation(t *testing.T) {
	raw, err := os.ReadFile("testdata/dynamic.json")
	if err != nil {
		t.Fatal(err)
	}
	var given struct {
		Shape [3]int
		Cases []map[string]json.RawMessage
	}
	if err := json.Unmarshal(raw, &given); err != nil {
		t.Fatal(err)
	}
	found := 0
	for n, c := range given.Cases {
		v := softMap(t, given.Shape, c["map"])
		for _, rule := range []Candidates{CandidatesDynamic, CandidatesDynamicV2, CandidatesDynamicFast} {
			var want [][4]float64 // score, voxels, the first of them, the sum of their places
			if err := json.Unmarshal(c[string(rule)], &want); err != nil {
				t.Fatal(err)
			}
			reader := Truth{options: Options{Candidates: rule}}
			parts, scores, err := reader.marksOf(v, mapMark{})
			if err != nil {
				t.Fatal(err)
			}
			var got [][4]float64
			for k, part := range parts {
				sum := 0
				for _, index := range part {
					sum += index
				}
				got = append(got, [4]float64{scores[k], float64(len(part)), float64(slices.Min(part)), float64(sum)})
			}
			if !slices.Equal(got, want) {
				t.Errorf("case %d, %s: %v, want %v", n, rule, got, want)
			}
			found += len(got)
		}
	}
	if found == 0 {
		t.Error("no map has a candidate")
	}
}

func softMap(t *testing.T, shape [3]int, raw json.RawMessage) *nifti.Mask {
	t.Helper()
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		t.Fatal(err)
	}
	voxels, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	v := &nifti.Mask{Size: shape}
	for i := range len(voxels) / 4 {
		if x := math.Float32frombits(binary.LittleEndian.Uint32(voxels[4*i:])); x != 0 {
			v.Indices, v.Values = append(v.Indices, i), append(v.Values, float64(x))
		}
	}
	return v
}
