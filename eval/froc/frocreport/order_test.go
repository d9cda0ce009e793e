package frocreport_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// tables are the rows of random files with many ties and equal overlaps.
func tables(rng *rand.Rand) map[string][]string {
	box := func() string {
		x, y := rng.IntN(8), rng.IntN(8)
		return fmt.Sprintf("%d,%d,%d,%d", x, y, x+1+rng.IntN(8), y+1+rng.IntN(8))
	}
	images, classes := 3+rng.IntN(10), []string{"mass", "cyst", ""}
	out := map[string][]string{"images.csv": {"image,patient,volume"}, "truth.csv": {"image,x1,y1,x2,y2,class,reader,organ,ignore,lesion_weight"}}
	for i := range images {
		out["images.csv"] = append(out["images.csv"], fmt.Sprintf("scan %c,p%d,v%d", 'a'+i, i/2, i/2))
	}
	seen := map[string]bool{}
	add := func(file, key, rest string) {
		if !seen[file+key] { // what stands twice is warned of by its row
			seen[file+key] = true
			out[file] = append(out[file], key+rest)
		}
	}
	for k := range 4 + rng.IntN(14) {
		add("truth.csv", fmt.Sprintf("scan %c,%s,%s", 'a'+rng.IntN(images), box(), classes[rng.IntN(2+k%2)]),
			fmt.Sprintf(",r%d,%s,%d,%v", rng.IntN(3), []string{"liver", "lung"}[rng.IntN(2)], rng.IntN(6)/5, 0.1*float64(rng.IntN(4))))
	}
	for _, file := range []string{"first.csv", "second.csv"} {
		out[file] = []string{"image,x1,y1,x2,y2,class,score"}
		for range 5 + rng.IntN(40) {
			add(file, fmt.Sprintf("scan %c,%s,%s,%v", 'a'+rng.IntN(images), box(), classes[rng.IntN(3)], 0.1*float64(rng.IntN(6))), "")
		}
	}
	return out
}

// save writes the tables, their rows in another order.
func save(t *testing.T, dir string, rng *rand.Rand, files map[string][]string) {
	t.Helper()
	for _, name := range []string{"images.csv", "truth.csv", "first.csv", "second.csv"} {
		rows := append([]string{}, files[name]...)
		rng.Shuffle(len(rows)-1, func(a, b int) { rows[a+1], rows[b+1] = rows[b+1], rows[a+1] })
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Join(rows, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Figures, intervals, comparisons, strata, classes, notes and warnings are equal to the last
// byte in whatever order images, lesions and marks are written.
func TestResultsDoNotDependOnTheOrderOfRows(t *testing.T) {
	dir := t.TempDir()
	protocols := []func() froc.Protocol{froc.StrictProtocol, froc.DeepLesion, froc.SmallLesion, froc.PICAI, froc.RibFrac, func() froc.Protocol { return froc.COCO(0.5) }}
	evaluated := 0
	for n := range 36 {
		rng := rand.New(rand.NewPCG(uint64(n), 5))
		files := tables(rng)
		o := frocreport.Options{
			Truth:    frocio.Source{GroundTruth: filepath.Join(dir, "truth.csv"), Images: filepath.Join(dir, "images.csv")},
			Read:     frocio.Options{Lenient: true, Readers: []frocio.ReaderRule{"", frocio.ReadersUnion, frocio.ReadersFuse}[n%3]},
			Systems:  []frocreport.System{{Name: "first", Path: filepath.Join(dir, "first.csv")}, {Name: "second", Path: filepath.Join(dir, "second.csv")}},
			Protocol: protocols[n%len(protocols)](), IoUs: []float64{0.3, 0.7}, ByClass: true,
			Strata: []frocreport.Strata{{Column: "organ"}}, StrataRule: froc.StrataIgnore,
			Resample: resample.Options{Replicates: 20, Method: []resample.Method{resample.Percentile, resample.BCa}[n%2]},
		}
		o.Protocol.MaxPerImage = []int{0, 3}[n/2%2]
		if n%5 == 0 {
			o.Protocol.Multiple, o.Protocol.Duplicates, o.Protocol.Assignment = froc.One, froc.Free, froc.ByScore
		}
		var first string
		for range 2 {
			save(t, dir, rng, files)
			r, err := frocreport.Run(t.Context(), o)
			text := fmt.Sprint(err)
			if err == nil {
				evaluated++
				var b bytes.Buffer
				if err := r.WriteJSON(&b); err != nil {
					t.Fatal(err)
				}
				text = b.String()
			}
			if first == "" {
				first = text
			} else if text != first {
				t.Fatalf("case %d, %s: another order of rows gives\n%s\ninstead of\n%s", n, o.Protocol.Name, firstDifference(text, first), firstDifference(first, text))
			}
		}
	}
	if evaluated < 48 {
		t.Errorf("only %d of 72 runs gave a result", evaluated)
	}
}

// firstDifference is what stands in a text where it begins to differ from another.
func firstDifference(a, b string) string {
	k := 0
	for k < min(len(a), len(b)) && a[k] == b[k] {
		k++
	}
	return a[max(0, k-300):min(len(a), k+80)]
}
