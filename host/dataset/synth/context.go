package synth

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"strconv"
)

// Contexts of Table: how picture and attributes make the label together; and of DeepLesion.
const (
	// Lookup: two attributes say which of four marks in the picture is the label.
	Lookup = "lookup"
	// Additive: the label is the majority of the four marks and three attributes.
	Additive = "additive"
	// Order of DeepLesion: the order of the slices tells lesions from look-alikes.
	Order = "order"
	// Organ of DeepLesion, Lookup's twin: the report says in which of two organs blobs count.
	Organ = "organ"
)

const (
	marks      = 4
	reportBits = 8  // attributes of a context
	cellPx     = 16 // side of a mark, and of a noise token
)

// markColours tell the four marks apart; a mark is bright or dark.
var markColours = [marks][3]float64{{1, 0.25, 0.25}, {0.25, 1, 0.25}, {0.3, 0.3, 1}, {1, 1, 0.2}}

// contextHeader names the attributes of a context: bit_1 and bit_2 choose the mark.
func contextHeader() []string {
	header := []string{"id", "image", "patient", "split", "label"}
	for b := range reportBits {
		header = append(header, "bit_"+strconv.Itoa(b+1))
	}
	return header
}

// MarksSide is the side of a context's pictures in pixels.
func (o TableOptions) MarksSide() int { return o.side() * cellPx }

// side is the number of cells in a row of the picture.
func (o TableOptions) side() int {
	return int(math.Ceil(math.Sqrt(float64(marks + o.NoiseTokens))))
}

// contextCase chooses marks to draw in random places among noise, and the bits beside them.
func contextCase(rng *rand.Rand, o TableOptions) (draw func() *image.NRGBA, label string, bits []string) {
	var bright [marks]bool
	var set [reportBits]bool
	brights, yes := 0, 0
	for i := range bright {
		if bright[i] = rng.IntN(2) == 1; bright[i] {
			brights++
		}
	}
	for b := range set {
		set[b] = rng.IntN(2) == 1
		if set[b] && b < 3 {
			yes++
		}
		bits = append(bits, map[bool]string{false: "no", true: "yes"}[set[b]])
	}
	chosen := 0
	if set[0] {
		chosen += 2
	}
	if set[1] {
		chosen++
	}
	truth := bright[chosen]
	if o.Context == Additive {
		truth = brights+yes > 3 // of seven
	}
	return func() *image.NRGBA { return drawMarks(rng, o, bright) }, map[bool]string{false: "dark", true: "bright"}[truth], bits
}

// drawMarks paints the marks and the noise into random cells; the others stay black.
func drawMarks(rng *rand.Rand, o TableOptions, bright [marks]bool) *image.NRGBA {
	side := o.side()
	img := image.NewNRGBA(image.Rect(0, 0, side*cellPx, side*cellPx))
	for what, cell := range rng.Perm(side * side) {
		var c [3]float64
		switch {
		case what < marks:
			level := 0.35
			if bright[what] {
				level = 1
			}
			for k, v := range markColours[what] {
				c[k] = v * level
			}
		case what < marks+o.NoiseTokens:
			c = [3]float64{rng.Float64(), rng.Float64(), rng.Float64()}
		}
		paint(rng, img, cell%side*cellPx, cell/side*cellPx, c)
	}
	return img
}

// paint fills a cell with a noisy colour.
func paint(rng *rand.Rand, img *image.NRGBA, x0, y0 int, c [3]float64) {
	for y := range cellPx {
		for x := range cellPx {
			var v [3]uint8
			for k := range v {
				v[k] = uint8(max(0, min(math.Round(235*c[k]+10+8*rng.NormFloat64()), 255)))
			}
			img.SetNRGBA(x0+x, y0+y, color.NRGBA{v[0], v[1], v[2], 255})
		}
	}
}

func contextReadme(o TableOptions, s *Summary) string {
	rule := "bit_1 and bit_2 choose one of the marks (red, green, blue, yellow: no no, no yes,\n  yes no, yes yes); the label says whether that mark is bright. Neither side alone tells\n  anything: it has to be looked up."
	if o.Context == Additive {
		rule = "The label says whether the majority of the four marks and of bit_1 to bit_3 is bright\n  or yes: evidence that adds up, nothing has to be exchanged."
	}
	return fmt.Sprintf(`SYNTHETIC DATA. Nothing here was seen in a patient.

Coloured squares with attributes, written by "alignedfusion data synth --context %s".

seed %d, %d patients with one picture of %d x %d squares of %d pixels each
train %d, val %d, test %d

Four squares are marks, one of each colour, bright or dark, in random places among %d squares of
random colour. Eight attributes, bit_1 to bit_8, are yes or no.
  %s
Each attribute is missing with probability %.2f, independently of everything.
`, o.Context, o.Seed, o.Patients, o.side(), o.side(), cellPx, s.Cases["train"], s.Cases["val"], s.Cases["test"], o.NoiseTokens, rule, max(0, o.Missing))
}

func organReadme(o DeepLesionOptions, s *Summary) string {
	return deepLesionHead(o, s) + fmt.Sprintf(`  The left half of the picture is liver (%d HU denser), the right half is not ("other"). Each half has 1 or 2
  ellipsoids of 8 to 19 mm, of one law of size, density and contrast. Those of the organ that the report names
  are lesions, the others are harmless: the slices do not show which, and the report does not show where.

attributes.csv: organ says it; density, primary and contrast_phase are those of the patient and say nothing of it.
Each is left out with probability %.2f.

synthetic_truth.csv holds every object drawn, in 0-based pixels; it is not read by the program.
`, liverHU, max(0, o.Missing))
}

func orderReadme(o DeepLesionOptions, s *Summary) string {
	return deepLesionHead(o, s) + fmt.Sprintf(`  lesion     1 or 2 per key slice: a cone that widens by %g %% of its radius per mm from slice to slice
  harmless   1 or 2 cones of the same kind that narrow by as much
  On the key slice both have one law of size, place and density, and the slices about it, taken
  without their order, are those of a lesion as well as of a look-alike: the order alone tells them
  apart. Slices are 1, 2 or 5 mm apart.

attributes.csv says nothing of it: density is that of lesions and look-alikes alike; each of its
attributes is left out with probability %.2f.

synthetic_truth.csv holds every object drawn, in 0-based pixels; it is not read by the program.
`, 100*growthPerMM, max(0, o.Missing))
}
