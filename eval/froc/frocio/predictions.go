package frocio

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// Predictions are the marks of one system that were read.
type Predictions struct {
	Marks   []froc.Prediction
	Rows    []int32  // where each mark stands: the line of a table, the 0-based place in a JSON array or .npz
	LeftOut int      // marks on images that the split or the noise filter left out
	Notes   []string // what was noticed while reading, for people
}

// ReadPredictions reads the marks of one system: a table, a COCO results file or
// an .npz. A mark on an image which is not in the truth is an error, unless a
// filter left that image out.
func (t *Truth) ReadPredictions(path string) (*Predictions, error) {
	p := &Predictions{}
	problems := &problems{lenient: t.options.Lenient}
	var err error
	switch extension(path) {
	case ".json":
		err = t.readJSONPredictions(path, p, problems)
	case ".npz":
		err = t.readNPZPredictions(path, p, problems)
	default:
		err = t.readPredictionTable(path, p, problems)
	}
	if err == nil {
		err = problems.err()
	}
	if err != nil {
		return nil, err
	}
	p.Notes = append(p.Notes, problems.notes(path)...)
	t.noteClasses(path, p)
	if p.LeftOut > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("%s: %d predictions on images left out", path, p.LeftOut))
	}
	return p, nil
}

func (p *Predictions) add(m froc.Prediction, row int) {
	p.Marks, p.Rows = append(p.Marks, m), append(p.Rows, int32(row))
}

// imageOf finds a prediction's image; ok is false when the mark is to be passed over.
func (t *Truth) imageOf(id string, p *Predictions, problems *problems, where func() string) (int, bool) {
	if i, known := t.index[id]; known {
		return i, true
	}
	if t.left[id] {
		p.LeftOut++
		return 0, false
	}
	hint := "the list of images"
	if !t.listed {
		hint = "the ground truth; list every searched image with --images if it is lesion-free"
	}
	problems.row(where(), "unknown image id", "image %q is not in %s", id, hint)
	return 0, false
}

func (t *Truth) readPredictionTable(path string, p *Predictions, problems *problems) error {
	tab, err := openTable(path, false)
	if err != nil {
		return err
	}
	defer tab.close()
	l, err := newLayout(tab)
	if err != nil {
		return err
	}
	header := strings.Join(tab.header, ",")
	var lastID string
	lastIndex := -1
	lastClass, lastClassIndex := "", int32(froc.AnyClass)
	if l.geometry == noGeometry {
		return fmt.Errorf("%s:1: no coordinates; want x1,y1,x2,y2[,z1,z2] or x,y[,z]; the header is %q", path, header)
	}
	if l.score < 0 && l.geometry != maskFile {
		return fmt.Errorf("%s:1: no column %q; the header is %q", path, "score", header)
	}
	if len(t.Classes) == 0 {
		l.class = -1
	}
	var aside []string
	for _, c := range l.rest {
		if c != l.class {
			aside = append(aside, tab.header[c])
		}
	}
	if len(aside) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("%s: columns not used: %s", path, strings.Join(aside, ", ")))
	}
	return rows(tab, problems, func(row []string) error {
		i, ok := lastIndex, true
		if lastIndex < 0 || row[l.image] != lastID {
			if i, ok = t.imageOf(row[l.image], p, problems, tab.where); !ok {
				return nil
			}
			// marks of one image mostly stand together: this saves most look-ups
			lastID, lastIndex = t.Images[i].ID, i
		}
		if l.geometry == maskFile {
			return t.addMap(i, row[l.coords[0]], tab, p, problems)
		}
		score, err := number(row[l.score])
		if err != nil {
			problems.row(tab.where(), "bad score", "score %v", err)
			return nil
		}
		region, err := l.region(row)
		if err != nil {
			problems.row(tab.where(), "bad coordinates", "%v", err)
			return nil
		}
		class := int32(froc.AnyClass)
		if l.class >= 0 {
			if row[l.class] != lastClass {
				lastClass = strings.Clone(row[l.class])
				lastClassIndex = t.class(lastClass)
			}
			class = lastClassIndex
		}
		if !t.keeps(class) {
			return nil
		}
		p.add(froc.Prediction{Image: i, Region: t.toVoxels(i, region), Score: score, Class: class}, tab.line())
		const sample = 1000 // rows from which the others are guessed
		if len(p.Marks) == sample {
			more := tab.rowsLeft(sample)
			more += more / 20
			p.Marks, p.Rows = slices.Grow(p.Marks, more), slices.Grow(p.Rows, more)
		}
		return nil
	})
}

// toVoxels moves a point into the grid of its image's mask, if there is one and
// coordinates are in millimetres.
func (t *Truth) toVoxels(image int, r froc.Region) froc.Region {
	grid := t.grids[image]
	if grid == nil || t.options.Coordinates == Voxel || r.Kind() != froc.KindPoint3D {
		return r
	}
	c := r.Centre()
	if t.options.Coordinates == LPS {
		c[0], c[1] = -c[0], -c[1]
	}
	v := grid.VoxelOf(c)
	for _, x := range v {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return r
		}
	}
	return froc.Sphere(v[0], v[1], v[2], 0)
}
