package synth

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
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

// TableOptions steer Table.
type TableOptions struct {
	// Patients, one picture each; 0 means 600.
	Patients int
	// Size is the side of the pictures in pixels, 32 to 512; 0 means 64.
	Size int
	// Missing is the probability that an attribute is missing; negative means none,
	// 0 means 0.3.
	Missing float64
	// Context is Lookup or Additive for squares and bits instead of spots; empty for spots.
	// NoiseTokens are the squares beside the four that count; Size is not for squares.
	Context     string
	NoiseTokens int
	// Questions adds columns that ask other than for one of several classes; only of spots.
	Questions bool
	Seed      uint64
}

var tableHeader = []string{"id", "image", "patient", "split", "label", "growth", "itch", "duration_months", "region", "age"}

// askedHeader are the columns of Questions.
var askedHeader = []string{"label.jagged", "label.grade", "size_mm", "time", "event"}

var regions = []string{"arm", "back", "chest", "face", "hand", "leg"}

// Table writes a synthetic classification set into the new folder out: data.csv and
// images/. The label joins what only the picture shows (a smooth or a jagged border)
// with what only the attributes tell (stable or growing). It fails when out exists and
// is not empty.
func Table(ctx context.Context, out string, opt TableOptions) (*Summary, error) {
	setDefault(&opt.Patients, 600)
	setDefault(&opt.Size, 64)
	setDefault(&opt.Missing, 0.3)
	if opt.Patients < 3 || opt.Patients > 99999 || opt.Size < 32 || opt.Size > 512 || opt.Missing > 1 {
		return nil, fault.Errorf(fault.Usage, "synthetic table: %d patients, size %d, missing %g: want 3 to 99999, 32 to 512, at most 1", opt.Patients, opt.Size, opt.Missing)
	}
	switch opt.Context {
	case "", Lookup, Additive:
	default:
		return nil, fault.Errorf(fault.Usage, "synthetic table: context %q, want %s or %s", opt.Context, Lookup, Additive)
	}
	if most := 1020; opt.NoiseTokens < 0 || opt.NoiseTokens > most || opt.NoiseTokens > 0 && opt.Context == "" {
		return nil, fault.Errorf(fault.Usage, "synthetic table: %d noise tokens, want 0 to %d, and only with a context", opt.NoiseTokens, most)
	}
	if opt.Questions && opt.Context != "" {
		return nil, fault.Errorf(fault.Usage, "synthetic table: questions and context %s given; questions are of spots", opt.Context)
	}
	splits := splitPatients(opt.Patients, opt.Seed)
	summary := &Summary{Patients: opt.Patients, Cases: map[string]int{}, Files: opt.Patients}
	err := atomicfile.Folder(out, func(dir string) error {
		if err := os.Mkdir(filepath.Join(dir, "images"), 0o755); err != nil {
			return err
		}
		rows := make([][]string, opt.Patients+1)
		rows[0] = tableHeader
		if opt.Questions {
			rows[0] = slices.Concat(tableHeader, askedHeader)
		}
		if opt.Context != "" {
			rows[0] = contextHeader()
		}
		for _, split := range splits {
			summary.Cases[split]++
		}
		if err := each(ctx, opt.Patients, func(i int) (err error) {
			rows[i+1], err = writePicture(dir, i, splits[i], opt)
			return err
		}); err != nil {
			return err
		}
		if err := writeCSV(filepath.Join(dir, "data.csv"), rows); err != nil {
			return err
		}
		readme := tableReadme
		if opt.Context != "" {
			readme = contextReadme
		}
		return os.WriteFile(filepath.Join(dir, "README.txt"), []byte(readme(opt, summary)), 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("synthetic table: %w", err)
	}
	return summary, nil
}

func writePicture(dir string, index int, split string, opt TableOptions) ([]string, error) {
	rng := rand.New(rand.NewPCG(opt.Seed, uint64(index)+1))
	one := newSpot(rng)
	draw, label, values := func() *image.NRGBA { return one.draw(rng, opt.Size) }, one.label(), one.values(rng)
	if opt.Context != "" {
		draw, label, values = contextCase(rng, opt)
	}
	for i := range values {
		if rng.Float64() < opt.Missing {
			values[i] = ""
		}
	}
	id := fmt.Sprintf("S%05d", index+1)
	name := filepath.Join("images", id+".png")
	var buffer bytes.Buffer
	if err := png.Encode(&buffer, draw()); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, name), buffer.Bytes(), 0o644); err != nil {
		return nil, err
	}
	row := append([]string{id, filepath.ToSlash(name), fmt.Sprintf("P%05d", index+1), split, label}, values...)
	if opt.Questions {
		row = append(row, one.asked(rng, opt.Size)...)
	}
	return row, nil
}

// spot is a pigmented spot with what is known of it.
type spot struct {
	jagged, growing bool
	radius          float64 // the greater one in pixels, once it is drawn
}

func newSpot(rng *rand.Rand) *spot {
	return &spot{jagged: rng.Float64() < 0.5, growing: rng.Float64() < 0.5}
}

func (s *spot) label() string {
	border, growth := "smooth", "stable"
	if s.jagged {
		border = "jagged"
	}
	if s.growing {
		growth = "growing"
	}
	return border + "_" + growth
}

// values are those of the attributes.
func (s *spot) values(rng *rand.Rand) []string {
	growth, itch, months := "stable", 0.2, 60.0
	if s.growing {
		growth, itch, months = "growing", 0.8, 12
	}
	itches := "no"
	if rng.Float64() < itch {
		itches = "yes"
	}
	return []string{growth, itches, strconv.Itoa(1 + int(months*math.Exp(0.6*rng.NormFloat64()))),
		regions[rng.IntN(len(regions))], strconv.Itoa(int(max(18, min(93, 55+15*rng.NormFloat64()))))}
}

// asked are the values of askedHeader: the diameter of a picture that is 32 mm wide, and a time
// in months that is three times as short for a jagged border and half as long where the spot
// grows, followed for 6 to 60 months.
func (s *spot) asked(rng *rand.Rand, size int) []string {
	grade, jagged, mean := 1, "0", 48.0
	if s.jagged {
		grade, jagged, mean = grade+1, "1", mean/3
	}
	if s.growing {
		grade, mean = grade+1, mean/2
	}
	time, followed, event := mean*rng.ExpFloat64(), 6+54*rng.Float64(), "1"
	if time > followed {
		time, event = followed, "0"
	}
	return []string{jagged, strconv.Itoa(grade), fmt.Sprintf("%.1f", 2*s.radius/float64(size)*32), fmt.Sprintf("%.1f", time), event}
}

// draw paints the spot, with a smooth or a jagged border, on skin.
func (s *spot) draw(rng *rand.Rand, size int) *image.NRGBA {
	skin := [3]float64{205 + 30*rng.Float64(), 160 + 30*rng.Float64(), 130 + 30*rng.Float64()}
	dark := 0.35 + 0.35*rng.Float64()
	side := float64(size)
	cx, cy := side*(0.4+0.2*rng.Float64()), side*(0.4+0.2*rng.Float64())
	rx := side * (0.18 + 0.12*rng.Float64())
	s.radius = rx
	ry := rx * (0.75 + 0.25*rng.Float64())
	turn := 2 * math.Pi * rng.Float64()
	teeth, depth := float64(7+rng.IntN(5)), 0.03
	if s.jagged {
		depth = 0.22
	}
	img := image.NewNRGBA(image.Rect(0, 0, size, size))
	for y := range size {
		for x := range size {
			dx, dy := (float64(x)-cx)/rx, (float64(y)-cy)/ry
			radius := 1 + depth*math.Sin(teeth*math.Atan2(dy, dx)+turn)
			inside := 1 / (1 + math.Exp(-(radius-math.Hypot(dx, dy))*rx*1.5))
			var c [3]uint8
			for k := range c {
				v := skin[k]*(1-inside*(1-dark)) + 6*rng.NormFloat64()
				c[k] = uint8(max(0, min(math.Round(v), 255)))
			}
			img.SetNRGBA(x, y, color.NRGBA{c[0], c[1], c[2], 255})
		}
	}
	return img
}

func tableReadme(opt TableOptions, s *Summary) string {
	asked := ""
	if opt.Questions {
		asked = `
Columns that ask otherwise: label.jagged (a finding, 1 or 0), label.grade (1 to 3: one more for jagged
and for growing), size_mm (the spot's greater diameter; the picture is 32 mm wide), time in months
and event (mean 48 months, three times as short where jagged, half as long where growing; followed
for 6 to 60 months).
`
	}
	return fmt.Sprintf(`SYNTHETIC DATA. Nothing here was seen in a patient.

Computer-made pictures with attributes, written by "alignedfusion data synth".

seed %d, %d patients with one picture of %d x %d pixels each
train %d, val %d, test %d

The label joins two things that are independent of each other:
  border   smooth or jagged: only the picture shows it
  growth   stable or growing: only the attributes tell. growth says it outright; itch
           (80 %% yes where growing, 20 %% where stable) and duration_months (median 12
           or 60) follow it. region and age tell nothing.
Picture alone or attributes alone reach about half. Each attribute is missing with
probability %.2f, independently of everything (MCAR); an empty cell is missing.
`, opt.Seed, opt.Patients, opt.Size, opt.Size, s.Cases["train"], s.Cases["val"], s.Cases["test"], max(0, opt.Missing)) + asked
}
