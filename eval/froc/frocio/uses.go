package frocio

import (
	"fmt"
	"maps"
	"slices"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// uses are the options that a file had a use for.
type uses struct {
	columns map[string]bool // those of Options.Columns that a file has
	seen    []string        // all columns of all files
	split   bool            // a column of splits, or lists of several
	comma   bool            // a table, which may have decimal commas

	candidates, coordinates bool // a map without scores; points

	segments bool // COCO's ground truth
	outlines bool // segmentations without boxes

	spaced bool // a mask's spacing was taken
}

// needless is an option, whether it was given, and whether there was a use for it.
type needless struct {
	given, used bool
	text        string
}

func refuseNeedless(path string, options []needless) error {
	for _, o := range options {
		if o.given && !o.used {
			return fmt.Errorf("%s: %s", path, o.text)
		}
	}
	return nil
}

// checkOptions refuses options that the ground truth gives no use for.
func (t *Truth) checkOptions(path string) error {
	masks := len(t.grids) > 0
	return refuseNeedless(path, []needless{
		{t.wants(), t.uses.split, fmt.Sprintf("--split %s: no file has a column of splits; give one in the list of images (image,split)", t.options.Split)},
		{t.given.Noisy != "", t.dlInfo, "--noisy is for DL_info.csv alone"},
		{t.given.MaskLesions != "", masks, "--mask-lesions is for masks alone"},
		{t.options.Coordinates != Voxel, masks, "--coordinates is for points that are compared with masks"},
		{t.given.IoUType != "", t.uses.segments, "--iou-type is for COCO's JSON alone"},
	})
}

// checkUses refuses options that neither the ground truth nor any system gives a use for.
func (t *Truth) checkUses(path string, systems ...*Predictions) error {
	marks := slices.ContainsFunc(systems, func(p *Predictions) bool { return len(p.Marks) > 0 })
	options := []needless{
		{t.options.DecimalComma, t.uses.comma, "--decimal-comma is for tables, and no file is one"},
		{marks && t.options.Candidates != "", t.uses.candidates, fmt.Sprintf("--candidates %s divides maps of probabilities, and no file holds one whose marks have no scores of their own", t.options.Candidates)},
		{marks && t.options.Coordinates != Voxel, t.uses.coordinates, fmt.Sprintf("--coordinates %s is for points, and every mark is a map, which says itself where it lies", t.options.Coordinates)},
	}
	for _, role := range slices.Sorted(maps.Keys(t.options.Columns)) {
		name := t.options.Columns[role]
		options = append(options, needless{true, t.uses.columns[name], fmt.Sprintf("--columns names a column %q that no file has%s", name, nearest.Meant(name, t.uses.seen))})
	}
	return refuseNeedless(path, options)
}

// toVoxels moves marks that are given in millimetres into the grid of their image's mask,
// where there is one.
func (t *Truth) toVoxels(path string, p *Predictions) error {
	if t.options.Coordinates == Voxel {
		return nil
	}
	for i := range p.Marks {
		m := &p.Marks[i]
		switch m.Region.Kind() {
		case froc.KindMask:
			continue
		case froc.KindPoint3D:
			t.uses.coordinates = true
		default:
			return fmt.Errorf("%s: row %d: --coordinates %s is for points in space, and this mark is a %s: give it in voxels", path, p.Rows[i], t.options.Coordinates, m.Region.Kind())
		}
		grid := t.grids[m.Image]
		if grid == nil {
			continue
		}
		c := m.Region.Centre()
		if t.options.Coordinates == LPS {
			c[0], c[1] = -c[0], -c[1]
		}
		v := grid.VoxelOf(c)
		m.Region = froc.Sphere(v[0], v[1], v[2], m.Region.Radius())
	}
	return nil
}

// spacingOf takes an image's spacing from its mask, where nobody says another.
func (t *Truth) spacingOf(m *nifti.Mask, image int) {
	im := &t.Images[image]
	if im.SpacingMM != [3]float64{} || t.options.SpacingMM != [3]float64{} {
		return
	}
	im.SpacingMM = m.SpacingMM()
	if t.uses.spaced || im.SpacingMM == [3]float64{1, 1, 1} {
		return
	}
	t.uses.spaced = true
	t.note("masks have voxels of %.4g x %.4g x %.4g mm: distances are in millimetres", im.SpacingMM[0], im.SpacingMM[1], im.SpacingMM[2])
}
