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
	Seed        uint64
}

var tableHeader = []string{"id", "image", "patient", "split", "label", "growth", "itch", "duration_months", "region", "age"}

var regions = []string{"arm", "back", "chest", "face", "hand", "leg"}

// Table writes a synthetic classification set into the new folder out: data.csv and
// images/. The label joins what only the picture shows (a smooth or a jagged border)
// with what only the attributes tell (stable or growing). It fails when out exists and
// is not empty.
func Table(ctx context.Context, out string, opt TableOptions) (*Summary, error) {
	setDefault(&opt.Patients, 600)
	setDefault(&opt.Size, 64)
	if opt.Missing == 0 {
		opt.Missing = 0.3
	}
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
	splits := splitPatients(opt.Patients, opt.Seed)
	summary := &Summary{Patients: opt.Patients, Cases: map[string]int{}, Files: opt.Patients}
	err := atomicfile.Folder(out, func(dir string) error {
		if err := os.Mkdir(filepath.Join(dir, "images"), 0o755); err != nil {
			return err
		}
		rows := make([][]string, opt.Patients+1)
		rows[0] = tableHeader
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
	draw, label, values := spotCase(rng, opt)
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
	return append([]string{id, filepath.ToSlash(name), fmt.Sprintf("P%05d", index+1), split, label}, values...), nil
}

// spotCase chooses a spot to draw, and the attributes beside it.
func spotCase(rng *rand.Rand, opt TableOptions) (draw func() *image.NRGBA, label string, values []string) {
	jagged, growing := rng.Float64() < 0.5, rng.Float64() < 0.5
	pick := func(p float64, yes, no string) string {
		if rng.Float64() < p {
			return yes
		}
		return no
	}
	border, growth := "smooth", "stable"
	itch, months := 0.2, 60.0
	if jagged {
		border = "jagged"
	}
	if growing {
		growth, itch, months = "growing", 0.8, 12
	}
	values = []string{growth, pick(itch, "yes", "no"), strconv.Itoa(1 + int(months*math.Exp(0.6*rng.NormFloat64()))),
		regions[rng.IntN(len(regions))], strconv.Itoa(int(max(18, min(93, 55+15*rng.NormFloat64()))))}
	return func() *image.NRGBA { return drawSpot(rng, opt.Size, jagged) }, border + "_" + growth, values
}

// drawSpot paints a pigmented spot with a smooth or a jagged border on skin.
func drawSpot(rng *rand.Rand, size int, jagged bool) *image.NRGBA {
	skin := [3]float64{205 + 30*rng.Float64(), 160 + 30*rng.Float64(), 130 + 30*rng.Float64()}
	dark := 0.35 + 0.35*rng.Float64()
	side := float64(size)
	cx, cy := side*(0.4+0.2*rng.Float64()), side*(0.4+0.2*rng.Float64())
	rx := side * (0.18 + 0.12*rng.Float64())
	ry := rx * (0.75 + 0.25*rng.Float64())
	turn := 2 * math.Pi * rng.Float64()
	teeth, depth := float64(7+rng.IntN(5)), 0.03
	if jagged {
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
`, opt.Seed, opt.Patients, opt.Size, opt.Size, s.Cases["train"], s.Cases["val"], s.Cases["test"], max(0, opt.Missing))
}
