package dataset

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func fingerprint(t *testing.T, d *Dataset, c *Case) string {
	t.Helper()
	sum, err := d.Fingerprint(c)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// What a case is called and where it lies does not matter; what it shows does, also where
// a file is too large to be read whole.
func TestFingerprintIsOfTheContent(t *testing.T) {
	dir := t.TempDir()
	image := func(name string, content []byte) *Case {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o666); err != nil {
			t.Fatal(err)
		}
		return &Case{ID: name, Images: map[string]string{"image.rgb": path}}
	}
	changed := func(at int) []byte {
		content := bytes.Repeat([]byte{7}, 5*fingerprintBytes/2)
		if at >= 0 {
			content[at] = 8
		}
		return content
	}
	d := &Dataset{}
	first := fingerprint(t, d, image("a", changed(-1)))
	if got := fingerprint(t, d, image("b", changed(-1))); got != first {
		t.Error("the same content under another name has another fingerprint")
	}
	for name, content := range map[string][]byte{
		"first byte": changed(0), "last byte of the start": changed(fingerprintBytes - 1),
		"first byte of the end": changed(3 * fingerprintBytes / 2), "last byte": changed(5*fingerprintBytes/2 - 1),
		"length": changed(-1)[1:],
	} {
		if fingerprint(t, d, image(name, content)) == first {
			t.Errorf("%s: another content has the same fingerprint", name)
		}
	}
	// A file between one and two pieces long is read whole.
	short := bytes.Repeat([]byte{7}, 3*fingerprintBytes/2)
	before := fingerprint(t, d, image("short", short))
	short[fingerprintBytes+1] = 8
	if fingerprint(t, d, image("short", short)) == before {
		t.Error("a byte behind the first piece does not count")
	}
	if _, err := d.Fingerprint(&Case{ID: "gone", Images: map[string]string{"image.rgb": filepath.Join(dir, "gone")}}); err == nil {
		t.Error("an image that is not there has a fingerprint")
	}
}

func TestFingerprintTellsSlicesOfAVolumeAndCasesWithoutImagesApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume.nii")
	if err := os.WriteFile(path, []byte("volume"), 0o666); err != nil {
		t.Fatal(err)
	}
	d := &Dataset{stacks: map[string]*stack{"v": {nifti: path, depth: 2}}}
	slice := func(n int) *Case { return &Case{Stack: "v", KeySlice: n, Images: map[string]string{Volume: path}} }
	if fingerprint(t, d, slice(0)) == fingerprint(t, d, slice(1)) {
		t.Error("two slices of a volume have one fingerprint")
	}
	if fingerprint(t, d, &Case{ID: "a", Labels: map[string]int{"mole": 0}}) == fingerprint(t, d, &Case{ID: "a", Labels: map[string]int{"mole": 1}}) {
		t.Error("two labels have one fingerprint")
	}
}

func TestFlatCountsCasesWithoutNeighbours(t *testing.T) {
	d := &Dataset{stacks: map[string]*stack{
		"one": {files: map[int]string{4: "4.png"}}, "two": {files: map[int]string{4: "4.png", 5: "5.png"}},
		"nifti": {nifti: "v.nii", depth: 9}, "thin": {nifti: "t.nii", depth: 1},
	}}
	mm := [3]float64{2, 1, 1}
	cases := []Case{{Stack: "one", SpacingMM: mm}, {Stack: "two", SpacingMM: mm}, {Stack: "two"}, {Stack: "nifti", SpacingMM: mm},
		{Stack: "thin", SpacingMM: mm}, {ID: "picture"}, {Stack: "slice", Images: map[string]string{Volume: "s.png"}}}
	if n := d.Flat(cases); n != 4 {
		t.Errorf("%d flat cases, want 4: the single slice, the only slice, the unknown distance, the volume of one slice", n)
	}
}
