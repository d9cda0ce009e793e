package froc

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
)

// splitmix repeats the random numbers of testdata/deeplesion.py.
type splitmix uint64

func (s *splitmix) below(n uint64) uint64 {
	*s += 0x9E3779B97F4A7C15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return (z ^ z>>31) % n
}

func drawDeepLesion(number int) (*Truth, []Prediction) {
	r := splitmix(number)
	draw := func(n uint64) float64 { return float64(r.below(n)) }
	t := &Truth{}
	var predictions []Prediction
	for image := range int(1 + r.below(5)) {
		t.Images = append(t.Images, Image{ID: fmt.Sprint(image)})
		first := len(t.Lesions)
		for range r.below(3) {
			x, y := draw(20), draw(20)
			x2, y2 := x+4+draw(12), y+4
			t.Lesions = append(t.Lesions, Lesion{Image: image, Region: Box(x, y, x2, y2+draw(12))})
		}
		here := t.Lesions[first:]
		for range r.below(5) {
			var c [4]float64
			if len(here) > 0 && r.below(2) == 0 {
				l := here[r.below(uint64(len(here)))].Region
				low, high := l.Bounds()
				for i, v := range []float64{low[0], low[1], high[0], high[1]} {
					c[i] = v + draw(5) - 2
				}
			} else {
				c[0], c[1] = draw(30), draw(30)
				c[2] = c[0] + draw(16)
				c[3] = c[1] + draw(16)
			}
			var score float64
			if number%2 == 0 {
				score = draw(6) / 8
			} else {
				score = draw(1<<40) / (1 << 40)
			}
			predictions = append(predictions, Prediction{Image: image, Region: Box(c[0], c[1], c[2], c[3]), Score: score})
		}
	}
	if len(t.Lesions) == 0 {
		t.Lesions = append(t.Lesions, Lesion{Image: 0, Region: Box(3, 3, 12, 12)})
	}
	return t, predictions
}

func TestDeepLesionPresetEqualsThePublishedRuleOnTenThousandCases(t *testing.T) {
	file, err := os.Open("testdata/deeplesion.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	protocol := DeepLesion()
	protocol.FPPI = []float64{0.25, 0.5, 1, 2, 4}
	lines := bufio.NewScanner(z)
	number := 0
	for ; lines.Scan(); number++ {
		want := strings.Split(lines.Text(), ",")
		truth, predictions := drawDeepLesion(number)
		r, err := Evaluate(truth, predictions, protocol)
		if err != nil {
			t.Fatalf("case %d: %v", number, err)
		}
		if got := fmt.Sprintf("%d,%d", r.Counts.Found, r.Counts.FalsePositives); got != want[0]+","+want[1] {
			t.Fatalf("case %d: found and false positives %s, want %s,%s", number, got, want[0], want[1])
		}
		for i, p := range r.OperatingPoints {
			s, err := strconv.ParseFloat(want[2+i], 64)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(p.Sensitivity-s) > 1e-11 {
				t.Fatalf("case %d: sensitivity at %v is %v, want %v", number, p.FPPI, p.Sensitivity, s)
			}
		}
	}
	if err := lines.Err(); err != nil || number != 10000 {
		t.Fatalf("%d cases, error %v, want 10000", number, err)
	}
}
