package frocio

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/npz"
)

// archive is an .npz file.
type archive struct {
	*npz.Archive
	path   string
	ctx    context.Context
	native bool // the last array read has nnDetection's name
}

func openArchive(ctx context.Context, path string) (*archive, error) {
	a, err := npz.Open(path)
	if err != nil {
		return nil, err
	}
	return &archive{Archive: a, path: path, ctx: ctx}, nil
}

// array is one array of an .npz, as numbers or as strings.
type array struct {
	shape   []int64
	numbers []float64
	strings []string // of string arrays, nil otherwise
	isFloat bool
}

// read returns the named array, nil when there is none. nnDetection puts pred_ before the names.
func (a *archive) read(name string) (*array, error) {
	if err := a.ctx.Err(); err != nil {
		return nil, err
	}
	given, err := a.Read(name)
	if a.native = given == nil && err == nil; a.native {
		given, err = a.Read("pred_" + name)
	}
	if given == nil || err != nil {
		return nil, err
	}
	out := &array{shape: given.Shape, strings: given.Strings, isFloat: given.Float()}
	if given.Strings == nil {
		if out.numbers, err = given.Numbers(); err != nil {
			return nil, fmt.Errorf("%s: array %q: %w", a.path, name, err)
		}
	}
	return out, nil
}

// rows checks the array's first length and returns the second (1 for vectors).
func (a *array) rows(what string, n int) (columns int, err error) {
	switch {
	case len(a.shape) < 1 || len(a.shape) > 2:
		return 0, fmt.Errorf("%s has shape %v, want one or two dimensions", what, a.shape)
	case n >= 0 && a.shape[0] != int64(n):
		return 0, fmt.Errorf("%s has %d rows, want %d as the other arrays", what, a.shape[0], n)
	case len(a.shape) == 2:
		return int(a.shape[1]), nil
	}
	return 1, nil
}

// regions reads boxes or points.
func (a *archive) regions() (n int, region func(int) froc.Region, err error) {
	boxes, err := a.read("boxes")
	if err != nil {
		return 0, nil, err
	}
	if boxes != nil {
		columns, err := boxes.rows("boxes", -1)
		v := boxes.numbers
		switch {
		case err != nil:
		case boxes.shape[0] == 0:
			return 0, nil, nil // numpy.array([]) has no columns
		case v == nil:
			err = fmt.Errorf("boxes are not numbers")
		case len(boxes.shape) == 2 && columns == 4:
			return int(boxes.shape[0]), func(i int) froc.Region { return froc.Box(v[4*i], v[4*i+1], v[4*i+2], v[4*i+3]) }, nil
		case len(boxes.shape) == 2 && columns == 6:
			return int(boxes.shape[0]), func(i int) froc.Region {
				return froc.Box3D(v[6*i], v[6*i+1], v[6*i+4], v[6*i+2], v[6*i+3], v[6*i+5])
			}, nil
		default:
			err = fmt.Errorf("boxes have shape %v, want [K,4] or [K,6]", boxes.shape)
		}
		return 0, nil, fmt.Errorf("%s: %w", a.path, err)
	}
	points, err := a.read("points")
	if err != nil {
		return 0, nil, err
	}
	if points != nil && len(points.shape) > 0 && points.shape[0] == 0 {
		return 0, nil, nil
	}
	if points == nil || points.numbers == nil || len(points.shape) != 2 || points.shape[1] != 2 && points.shape[1] != 3 {
		return 0, nil, fmt.Errorf("%s: want an array boxes [K,4] or [K,6], or points [K,2] or [K,3]", a.path)
	}
	n = int(points.shape[0])
	radius, err := a.read("radius")
	if err != nil {
		return 0, nil, err
	}
	radii := make([]float64, n)
	if radius != nil {
		if columns, err := radius.rows("radius", n); err != nil || columns != 1 || radius.numbers == nil {
			return 0, nil, fmt.Errorf("%s: radius has shape %v, want [%d] numbers", a.path, radius.shape, n)
		}
		radii = radius.numbers
	}
	v := points.numbers
	if points.shape[1] == 2 {
		return n, func(i int) froc.Region { return froc.Circle(v[2*i], v[2*i+1], radii[i]) }, nil
	}
	return n, func(i int) froc.Region { return froc.Sphere(v[3*i], v[3*i+1], v[3*i+2], radii[i]) }, nil
}

// column reads an optional vector of n numbers or strings.
func (a *archive) column(name string, n int, required bool) (*array, error) {
	v, err := a.read(name)
	if err != nil {
		return nil, err
	}
	if v == nil {
		if required {
			return nil, fmt.Errorf("%s: no array %q", a.path, name)
		}
		return nil, nil
	}
	if columns, err := v.rows(name, n); err != nil || columns != 1 {
		return nil, fmt.Errorf("%s: %s has shape %v, want [%d]", a.path, name, v.shape, n)
	}
	return v, nil
}

// imageNames returns the image of each row: a string; a row of the archive's own list; else
// an id, where the ids are whole numbers, or a row of the list of images.
func imageNames(own, list []string, image *array) (func(i int) (string, error), error) {
	if image.strings != nil {
		return func(i int) (string, error) { return image.strings[i], nil }, nil
	}
	if image.isFloat && len(image.numbers) > 0 {
		return nil, fmt.Errorf("image is a floating-point array, want integers or strings")
	}
	if own == nil && wholeNumbers(list) {
		return func(i int) (string, error) { return strconv.FormatFloat(image.numbers[i], 'f', -1, 64), nil }, nil
	}
	if own == nil && len(image.numbers) > 0 && len(list) > 0 && !slices.ContainsFunc(list, func(id string) bool { _, err := strconv.ParseInt(id, 10, 64); return err != nil }) {
		return nil, fmt.Errorf("image holds integers, and ids such as %q are numbers with zeros before them: are they rows or ids? Save image as strings", clip(list[0]))
	}
	if own != nil {
		list = own
	}
	return func(i int) (string, error) {
		k := image.numbers[i]
		if k < 0 || int(k) >= len(list) {
			return "", fmt.Errorf("image row %v, want 0 to %d", k, len(list)-1)
		}
		return list[int(k)], nil
	}, nil
}

// wholeNumbers reports whether all ids are whole numbers, so that integers mean ids.
func wholeNumbers(ids []string) bool {
	for _, id := range ids {
		if v, err := strconv.ParseInt(id, 10, 64); err != nil || strconv.FormatInt(v, 10) != id {
			return false
		}
	}
	return len(ids) > 0
}

// imageIDs returns the archive's own list of images, nil when it has none.
func (a *archive) imageIDs() ([]string, error) {
	ids, err := a.read("image_ids")
	if ids == nil || err != nil {
		return nil, err
	}
	if len(ids.shape) != 1 || ids.isFloat {
		return nil, fmt.Errorf("%s: image_ids has shape %v, want one dimension of strings or integers", a.path, ids.shape)
	}
	if ids.strings == nil {
		ids.strings = []string{}
		for _, v := range ids.numbers {
			ids.strings = append(ids.strings, strconv.FormatFloat(v, 'f', -1, 64))
		}
	}
	return ids.strings, nil
}

// classColumn reads of which class each row is: labels [n], strings or rows of classes; nil
// without labels.
func (a *archive) classColumn(n int) (func(i int) string, error) {
	labels, err := a.column("labels", n, false)
	if labels == nil || err != nil {
		return nil, err
	}
	if labels.strings != nil {
		return func(i int) string { return labels.strings[i] }, nil
	}
	names, err := a.read("classes")
	if err != nil {
		return nil, err
	}
	return func(i int) string {
		k := labels.numbers[i]
		if names != nil && k >= 0 && int(k) < len(names.strings) {
			return names.strings[int(k)]
		}
		return strconv.FormatFloat(k, 'g', -1, 64)
	}, nil
}

func (t *Truth) readNPZ(path string) error {
	a, err := openArchive(t.ctx, path)
	if err != nil {
		return err
	}
	defer a.Close()
	ids, err := a.imageIDs()
	if err != nil {
		return err
	}
	if ids != nil && !t.listed {
		for i, id := range ids {
			if _, twice := t.index[id]; twice || id == "" {
				t.problems.row(fmt.Sprintf("%s: image_ids[%d]", path, i), "image id twice or empty", "image id %q is empty or stands twice", id)
				continue
			}
			t.addImage(froc.Image{ID: id})
		}
		t.listed = true
	}
	n, region, err := a.regions()
	if err != nil {
		return err
	}
	image, err := a.column("image", n, true)
	if err != nil {
		return err
	}
	name, err := imageNames(ids, t.list, image)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	ignore, err := a.column("ignore", n, false)
	if err != nil {
		return err
	}
	class, err := a.classColumn(n)
	if err != nil {
		return err
	}
	for i := range n {
		where := fmt.Sprintf("%s: row %d", path, i)
		id, err := name(i)
		if err != nil {
			t.problems.row(where, "unknown image id", "%v", err)
			continue
		}
		k, ok := t.image(id, where)
		if !ok {
			continue
		}
		l := froc.Lesion{Image: k, Region: region(i), Ignore: ignore != nil && ignore.numbers != nil && ignore.numbers[i] != 0, Class: froc.AnyClass}
		if class != nil {
			l.Class = t.class(class(i))
		}
		if err := l.Region.Check(); err != nil {
			t.problems.row(where, "bad coordinates", "%v", err)
			continue
		}
		t.Lesions = append(t.Lesions, l)
	}
	return nil
}

// readNPZPredictions reads marks; only is the image of all of them in a file of a single
// image, "" otherwise.
func (t *Truth) readNPZPredictions(path, only string, p *Predictions, problems *problems) error {
	a, err := openArchive(t.ctx, path)
	if err != nil {
		return err
	}
	defer a.Close()
	own, err := a.imageIDs()
	if err != nil {
		return err
	}
	n, region, err := a.regions()
	if err != nil {
		return err
	}
	native := a.native
	name, err := t.imagesOf(a, own, only, n)
	if err != nil {
		return err
	}
	scores, err := a.column("scores", n, true)
	if err != nil {
		return err
	}
	if scores.numbers == nil && n > 0 {
		return fmt.Errorf("%s: scores are not numbers", path)
	}
	class, err := a.classColumn(n)
	if err != nil {
		return err
	}
	for i := range n {
		where := func() string { return fmt.Sprintf("%s: row %d", path, i) }
		id, err := name(i)
		if err != nil {
			problems.row(where(), "unknown image id", "%v", err)
			continue
		}
		k, ok := t.imageOf(id, p, problems, where)
		if !ok {
			continue
		}
		m := froc.Prediction{Image: k, Region: region(i), Score: scores.numbers[i], Class: froc.AnyClass}
		if class != nil && len(t.Classes) > 0 {
			m.Class = t.markClass(class(i))
		}
		if !t.keeps(m.Class) {
			continue
		}
		if err := m.Region.Check(); err != nil {
			problems.row(where(), "bad coordinates", "%v", err)
			continue
		}
		if err := finite(m.Score); err != nil {
			problems.row(where(), "bad score", "%v", err)
			continue
		}
		if native {
			m.Region = t.arrayBox(m.Region, k, p)
		}
		p.add(m, i)
	}
	return nil
}

// imagesOf returns the image of each row of an archive of marks. One without an array image,
// as nnDetection writes, is about the image it is named after.
func (t *Truth) imagesOf(a *archive, own []string, only string, n int) (func(i int) (string, error), error) {
	image, err := a.column("image", n, false)
	if err != nil {
		return nil, err
	}
	if image == nil {
		if only == "" {
			only = t.fileID(a.path)
		}
		if _, known := t.index[only]; !known && !t.left[only] && n > 0 {
			return nil, fmt.Errorf("%s: no array %q, and no image is called %q as the file", a.path, "image", clip(only))
		}
		return func(int) (string, error) { return only, nil }, nil
	}
	name, err := imageNames(own, t.list, image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.path, err)
	}
	return name, nil
}
