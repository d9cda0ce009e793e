package dataset_test

import (
	"testing"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
)

func TestAViewerReadsNeighboursUpToTheFirstGap(t *testing.T) {
	dir := t.TempDir()
	if _, err := synth.DeepLesion(t.Context(), dir, synth.DeepLesionOptions{Patients: 4, Size: 96, Seed: 3}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open("deeplesion:"+dir, dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, c := d.Viewer(), &d.Cases[0]
	low, high := v.Slices(c, 100)
	if low >= 0 || high <= 0 {
		t.Fatalf("slices %d to %d", low, high)
	}
	for _, offset := range []int{low, 0, high} {
		p, err := v.Picture(c, dataset.Volume, offset)
		if err != nil || p.Width != 96 || len(p.HU) != 96*96 {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
	if _, err := v.Picture(c, dataset.Volume, high+1); err == nil {
		t.Error("a slice that is not there was read")
	}
	if a, b := v.Slices(c, 1); a != -1 || b != 1 {
		t.Errorf("reach 1: %d to %d", a, b)
	}
}
