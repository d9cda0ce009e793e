package synth

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// SlidesOptions steer Slides.
type SlidesOptions struct {
	// Patients; 0 means 48. Every fourth has two slides, the others one.
	Patients int
	// Patches of a slide on average, 4 to 20000; 0 means 24. A slide has half to one and a half
	// times as many.
	Patches int
	// Size is the side of a patch in pixels, 16 to 512; 0 means 32.
	Size int
	// Missing is the probability that an attribute is missing; negative means none, 0 means 0.3.
	Missing float64
	Seed    uint64
}

// positiveShare of the patches of a slide with tumour show it.
const positiveShare = 0.15

// slideAttributes are the fourteen attributes, and how often each is "yes" in slides of high and
// of low grade. The last seven tell nothing.
var slideAttributes = []struct {
	name      string
	high, low float64
}{
	{"mitoses", 0.95, 0.05}, {"ulceration", 0.8, 0.2}, {"necrosis", 0.75, 0.25}, {"lymphovascular_invasion", 0.6, 0.1},
	{"perineural_invasion", 0.5, 0.1}, {"nodal_metastasis", 0.5, 0.2}, {"in_situ_component", 0.3, 0.6},
	{"margin_involved", 0.3, 0.3}, {"solar_elastosis", 0.4, 0.4}, {"regression", 0.2, 0.2}, {"pigmented", 0.5, 0.5},
	{"inflammation", 0.5, 0.5}, {"head_or_neck", 0.4, 0.4}, {"over_sixty", 0.5, 0.5},
}

// slide is a slide that is written.
type slide struct {
	id, patient, split string
	tumour, high       bool
	rows               [][]string // of patches.csv
	cells              []string   // of slideAttributes
}

func (s *slide) label() string {
	switch {
	case !s.tumour:
		return "benign"
	case s.high:
		return "high"
	}
	return "low"
}

// Slides writes synthetic slides in patches into the new folder out, in the layout patches:
// patches.csv, slides.csv and patches/SLIDE/. A few patches of a slide show a tumour, side by
// side, or none does; whether it is of low or of high grade the attributes alone tell. It fails
// when out exists and is not empty.
func Slides(ctx context.Context, out string, opt SlidesOptions) (*Summary, error) {
	setDefault(&opt.Patients, 48)
	setDefault(&opt.Patches, 24)
	setDefault(&opt.Size, 32)
	setDefault(&opt.Missing, 0.3)
	if opt.Patients < 3 || opt.Patients > 99999 || opt.Patches < 4 || opt.Patches > 20000 || opt.Size < 16 || opt.Size > 512 || opt.Missing > 1 {
		return nil, fault.Errorf(fault.Usage, "synthetic slides: %d patients, %d patches, size %d, missing %g: want 3 to 99999, 4 to 20000, 16 to 512, at most 1",
			opt.Patients, opt.Patches, opt.Size, opt.Missing)
	}
	splits := splitPatients(opt.Patients, opt.Seed)
	summary := &Summary{Patients: opt.Patients, Cases: map[string]int{}}
	var made []*slide
	for i, split := range splits {
		for n := range 1 + btoi(i%4 == 0) {
			made = append(made, &slide{id: fmt.Sprintf("S%05d_%d", i+1, n+1), patient: fmt.Sprintf("P%05d", i+1), split: split})
			summary.Cases[split]++
		}
	}
	err := atomicfile.Folder(out, func(dir string) error {
		if err := each(ctx, len(made), func(i int) error { return made[i].write(ctx, dir, i, opt) }); err != nil {
			return err
		}
		patches := [][]string{{"patch", "slide", "x", "y", "label"}}
		slides := [][]string{{"slide", "patient", "split", "label"}}
		for _, a := range slideAttributes {
			slides[0] = append(slides[0], a.name)
		}
		for _, s := range made {
			patches = append(patches, s.rows...)
			slides = append(slides, append([]string{s.id, s.patient, s.split, s.label()}, s.cells...))
		}
		summary.Files = len(patches) - 1
		for name, rows := range map[string][][]string{"patches.csv": patches, "slides.csv": slides} {
			if err := writeCSV(filepath.Join(dir, name), rows); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(dir, "README.txt"), []byte(slidesReadme(opt, summary)), 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("synthetic slides: %w", err)
	}
	return summary, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// write draws a slide's attributes and patches.
func (s *slide) write(ctx context.Context, dir string, index int, opt SlidesOptions) error {
	rng := rand.New(rand.NewPCG(opt.Seed, uint64(index)+1))
	s.tumour, s.high = rng.Float64() < 2.0/3, rng.IntN(2) == 1
	for _, a := range slideAttributes {
		p, value := a.low, "no"
		if s.high {
			p = a.high
		}
		if rng.Float64() < p {
			value = "yes"
		}
		if rng.Float64() < opt.Missing {
			value = ""
		}
		s.cells = append(s.cells, value)
	}
	places := tissue(rng, max(2, int(math.Round(float64(opt.Patches)*(0.5+rng.Float64())))))
	positive := map[[2]int]bool{}
	if s.tumour {
		focus := places[rng.IntN(len(places))]
		near := slices.Clone(places)
		slices.SortStableFunc(near, func(a, b [2]int) int { return distance(a, focus) - distance(b, focus) })
		for _, at := range near[:max(1, int(positiveShare*float64(len(near))))] {
			positive[at] = true
		}
	}
	folder := filepath.Join(dir, "patches", s.id)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	var buffer bytes.Buffer
	for _, at := range places {
		if err := ctx.Err(); err != nil {
			return err
		}
		buffer.Reset()
		if err := encoder.Encode(&buffer, drawPatch(rng, opt.Size, positive[at])); err != nil {
			return err
		}
		name := fmt.Sprintf("%d_%d.png", at[0], at[1])
		if err := os.WriteFile(filepath.Join(folder, name), buffer.Bytes(), 0o644); err != nil {
			return err
		}
		s.rows = append(s.rows, []string{"patches/" + s.id + "/" + name, s.id, strconv.Itoa(at[0] * opt.Size), strconv.Itoa(at[1] * opt.Size),
			map[bool]string{false: "stroma", true: "tumour"}[positive[at]]})
	}
	return nil
}

// tissue are n places of a grid in a round piece, row by row.
func tissue(rng *rand.Rand, n int) (places [][2]int) {
	side := int(math.Ceil(math.Sqrt(float64(n) * 4 / math.Pi)))
	middle := [2]int{side, side} // in halves of a place
	for y := range side {
		for x := range side {
			places = append(places, [2]int{x, y})
		}
	}
	rng.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	slices.SortStableFunc(places, func(a, b [2]int) int {
		return distance([2]int{2*a[0] + 1, 2*a[1] + 1}, middle) - distance([2]int{2*b[0] + 1, 2*b[1] + 1}, middle)
	})
	places = places[:n]
	slices.SortFunc(places, func(a, b [2]int) int { return (a[1]-b[1])*side + a[0] - b[0] })
	return places
}

func distance(a, b [2]int) int { return (a[0]-b[0])*(a[0]-b[0]) + (a[1]-b[1])*(a[1]-b[1]) }

// drawPatch paints tissue: pale with a few small nuclei or, of a tumour, many large dark ones.
func drawPatch(rng *rand.Rand, size int, tumour bool) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, size, size))
	shade := 8 * rng.NormFloat64()
	for at := 0; at < len(img.Pix); at += 4 {
		noise := shade + float64(rng.IntN(13)) - 6
		for k, v := range [3]float64{228, 180, 208} {
			img.Pix[at+k] = uint8(max(0, min(v+noise, 255)))
		}
		img.Pix[at+3] = 255
	}
	nuclei, radius, colour := 4+rng.IntN(5), float64(size)/20, [3]uint8{150, 110, 175}
	if tumour {
		nuclei, radius, colour = 9+rng.IntN(6), float64(size)/13, [3]uint8{95, 50, 130}
	}
	for range nuclei {
		cx, cy, r := rng.Float64()*float64(size), rng.Float64()*float64(size), radius*(0.8+0.4*rng.Float64())
		for y := max(0, int(cy-r)); y <= min(size-1, int(cy+r)); y++ {
			for x := max(0, int(cx-r)); x <= min(size-1, int(cx+r)); x++ {
				if math.Hypot(float64(x)-cx, float64(y)-cy) <= r {
					copy(img.Pix[y*img.Stride+4*x:], colour[:])
				}
			}
		}
	}
	return img
}

func slidesReadme(opt SlidesOptions, s *Summary) string {
	return fmt.Sprintf(`SYNTHETIC DATA. Nothing here was seen in a patient.

Computer-made pathology slides in patches, in the layout patches:, written by "alignedfusion
data synth --layout slides".

seed %d, %d patients, slides: train %d, val %d, test %d (every fourth patient has two)
%d patches of %d x %d pixels, about %d a slide, half to one and a half times as many

patches.csv  patch,slide,x,y,label: stroma or tumour
slides.csv   slide,patient,split,label and fourteen attributes, yes or no

A slide is benign (a third) or has a tumour: %.0f %% of its patches, side by side, have more, larger
and darker nuclei. Its grade, low or high, is in the attributes alone: mitoses, ulceration,
necrosis, invasion, metastasis and in_situ_component follow it more or less, the others tell
nothing. Benign slides have such attributes too. Each is missing with probability %.2f,
independently of everything (MCAR).
`, opt.Seed, opt.Patients, s.Cases["train"], s.Cases["val"], s.Cases["test"], s.Files, opt.Size, opt.Size, opt.Patches, 100*positiveShare, max(0, opt.Missing))
}
