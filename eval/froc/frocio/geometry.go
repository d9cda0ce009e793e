package frocio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// geometryNames are the columns that geometryColumns finds.
var geometryNames = []string{"spacing_x", "spacing_y", "spacing_z", "slices"}

// geometryColumns finds the columns spacing_x, spacing_y, spacing_z (millimetres per unit of
// the coordinates) and slices (of the image) of a list of images. The function it returns
// fills them into an image; an empty cell leaves it as it is. number reads one as the table writes it.
func geometryColumns(header []string, number func(string) (float64, error)) func(row []string, im *froc.Image) error {
	at := func(name string) int {
		return slices.IndexFunc(header, func(h string) bool { return strings.EqualFold(strings.TrimSpace(h), name) })
	}
	spacing, depth := [3]int{at(geometryNames[0]), at(geometryNames[1]), at(geometryNames[2])}, at(geometryNames[3])
	return func(row []string, im *froc.Image) error {
		for a, c := range spacing {
			if c < 0 || strings.TrimSpace(row[c]) == "" {
				continue
			}
			v, err := number(row[c])
			if err != nil || v <= 0 {
				return fmt.Errorf("%s is %q, want millimetres above 0", header[c], row[c])
			}
			im.SpacingMM[a] = v
		}
		if depth < 0 || strings.TrimSpace(row[depth]) == "" {
			return nil
		}
		n, err := strconv.Atoi(strings.TrimSpace(row[depth]))
		if err != nil || n < 1 {
			return fmt.Errorf("slices is %q, want 1 or more", row[depth])
		}
		im.Slices = n
		return nil
	}
}

// fillSpacing gives the images without a spacing that of the options.
func (t *Truth) fillSpacing() {
	for i := range t.Images {
		if im := &t.Images[i]; im.SpacingMM == [3]float64{} {
			im.SpacingMM = t.options.SpacingMM
		}
	}
}
