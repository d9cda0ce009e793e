package dataset

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// boxSlack is how far in pixels a box of the boxes: layout may leave its image: as
// far as conventions of counting (from 0 or 1, edges or centres) differ.
const boxSlack = 1

// columns of images.csv and boxes.csv that are no attributes.
var boxesReserved = []string{"image", "patient", "split", "part", "width", "height", "grey_low_hu", "grey_high_hu",
	"spacing_mm", "x1", "y1", "x2", "y2", "class"}

// openBoxes reads images.csv, boxes.csv and ignore.csv of a folder, or one CSV file
// that is both images and boxes.
func openBoxes(o *opener) error {
	there, folder := exists(o.path)
	if !there {
		return problem.File(o.path, fs.ErrNotExist)
	}
	if !folder {
		return o.oneBoxesTable()
	}
	images, err := o.table(filepath.Join(o.path, "images.csv"))
	if err != nil {
		return err
	}
	if err := o.ownSplits(images); err != nil {
		return err
	}
	byImage, err := o.boxImages(images, filepath.Join(o.path, "images"))
	if err != nil {
		return err
	}
	boxesPath := filepath.Join(o.path, "boxes.csv")
	if there, _ := exists(boxesPath); there {
		boxes, err := o.tableOrNone(boxesPath)
		if err != nil {
			return err
		}
		if err := o.readBoxes(boxes, byImage); err != nil {
			return err
		}
		o.findWithheld()
	} else {
		o.setClasses(nil)
		o.warn("there is no boxes.csv: no case has targets")
	}
	return o.readIgnore(filepath.Join(o.path, "ignore.csv"), byImage)
}

// oneBoxesTable reads FILE.csv with columns image,x1,y1,x2,y2; an image without
// lesions has a row with empty coordinates. The images lie in the folder FILE or in
// images/ beside the table.
func (o *opener) oneBoxesTable() error {
	t, err := o.table(o.path)
	if err != nil {
		return err
	}
	if err := o.ownSplits(t); err != nil {
		return err
	}
	o.d.Dir = filepath.Dir(o.path)
	folder := strings.TrimSuffix(o.path, filepath.Ext(o.path))
	if _, ok := exists(folder); !ok {
		folder = filepath.Join(o.d.Dir, "images")
	}
	seen := map[string]bool{}
	once := t.Where(func(r table.Row) bool {
		name := t.Get(r, "image")
		first := !seen[name]
		seen[name] = true
		return first
	})
	columns, err := box.FindColumns(t.Columns, 2)
	if err != nil {
		return problem.At(t.Path, 1, "", "%v", err)
	}
	byImage, err := o.boxImages(once, folder, columns.Names...)
	if err != nil {
		return err
	}
	withBox := t.Where(func(r table.Row) bool {
		return slices.ContainsFunc(columns.Names, func(c string) bool { return t.Get(r, c) != "" })
	})
	if err := o.readBoxes(withBox, byImage); err != nil {
		return err
	}
	for i := range o.d.Cases {
		o.d.Cases[i].HasTargets = true
	}
	return nil
}

// boxImages makes a case per row of images.csv, or of a table that has boxes in some columns.
func (o *opener) boxImages(t *table.Table, folder string, boxes ...string) (map[string]int, error) {
	if err := t.Need("image"); err != nil {
		return nil, err
	}
	d := o.d
	d.Modalities = []string{Volume}
	var all []string
	for _, c := range t.Columns {
		if !slices.Contains(boxesReserved, c) && !slices.Contains(boxes, c) {
			all = append(all, c)
		}
	}
	var err error
	if d.AttributeColumns, err = o.chooseAttributes(all, all, nil); err != nil {
		return nil, err
	}
	splitColumn := "split"
	if !t.Has("split") && t.Has("part") {
		splitColumn = "part"
	}
	byImage := make(map[string]int, len(t.Rows))
	d.Cases = make([]Case, 0, len(t.Rows))
	cells := o.attributeReader(t, all)
	for _, r := range t.Rows {
		name := t.Get(r, "image")
		if !filepath.IsLocal(name) {
			o.problems.Add(t.Path, r.Line, "image", "%q is not the name of a file in %s", problem.Clip(name, 60), filepath.ToSlash(folder))
			continue
		}
		if first, twice := byImage[name]; twice {
			o.problems.Add(t.Path, r.Line, "image", "%q stands twice, first in line %d", name, o.d.Cases[first].at.line)
			continue
		}
		c := Case{ID: name, Patient: t.Get(r, "patient"), Split: t.Get(r, splitColumn), Stack: name,
			Images: map[string]string{Volume: imagePath(folder, name)}, Attributes: o.attributes().newRow()}
		e := expectedImage{path: c.Images[Volume], column: "image"}
		bad := len(o.problems)
		if !slices.Contains(boxes, "width") { // the image's, not the boxes'
			e.width, e.height = int32(o.wholeNumber(t, r, "width")), int32(o.wholeNumber(t, r, "height"))
		}
		if mm := o.optionalNumber(t, r, "spacing_mm", 0); mm > 0 {
			c.SpacingMM = [3]float64{0, mm, mm}
		} else if t.Get(r, "spacing_mm") != "" && len(o.problems) == bad {
			o.problems.Add(t.Path, r.Line, "spacing_mm", "%q is not positive", t.Get(r, "spacing_mm"))
		}
		c.greyHU = [2]float64{o.optionalNumber(t, r, "grey_low_hu", o.opt.GreyHU[0]), o.optionalNumber(t, r, "grey_high_hu", o.opt.GreyHU[1])}
		if c.greyHU[0] > c.greyHU[1] {
			o.problems.Add(t.Path, r.Line, "grey_high_hu", "is below grey_low_hu")
		}
		cells.read(r, c.Attributes)
		e.caseIndex = o.addCase(c, t.Path, r.Line)
		byImage[name] = e.caseIndex
		if len(o.problems) == bad {
			o.expect(e)
		}
	}
	return byImage, nil
}

func (o *opener) optionalNumber(t *table.Table, r table.Row, column string, absent float64) float64 {
	text := t.Get(r, column)
	if text == "" {
		return absent
	}
	v, err := table.Number(text)
	if err != nil {
		o.problems.Add(t.Path, r.Line, column, "%v", err)
		return absent
	}
	return v
}

func (o *opener) wholeNumber(t *table.Table, r table.Row, column string) int {
	v := o.optionalNumber(t, r, column, 0)
	if v < 0 || v != float64(int(v)) || v > maxImageSide {
		o.problems.Add(t.Path, r.Line, column, "%q is not a size in pixels", t.Get(r, column))
		return 0
	}
	return int(v)
}

// readBoxes adds the rows of boxes.csv to their images.
func (o *opener) readBoxes(t *table.Table, byImage map[string]int) error {
	if err := t.Need("image"); err != nil {
		return err
	}
	columns, err := box.FindColumns(t.Columns, 2)
	if err != nil {
		return problem.At(t.Path, 1, "", "%v", err)
	}
	o.boxColumns = columns
	all := slices.DeleteFunc(slices.Clone(t.Columns), func(c string) bool {
		return slices.Contains([]string{"image", "patient", "split", "part"}, c) || slices.Contains(columns.Names, c)
	})
	var byDefault []string
	if t.Has("class") {
		byDefault = []string{"class"}
	}
	chosen, err := chooseColumns("class", o.opt.Labels, all, byDefault, nil)
	if err != nil {
		return err
	}
	if len(chosen) > 1 {
		return fmt.Errorf("%w: boxes have one class column, %d were asked for: %s", ErrData, len(chosen), problem.Quote(chosen))
	}
	classColumn := ""
	if len(chosen) == 1 {
		classColumn = chosen[0]
	}
	var classes []string
	classOf := func(r table.Row) string {
		if text := t.Get(r, classColumn); text != "" && !o.missing(text) {
			return text
		}
		return "lesion"
	}
	if len(o.opt.LabelSets) > 0 {
		classes = o.opt.LabelSets[0].Classes
	} else {
		for _, r := range t.Rows {
			if name := classOf(r); !slices.Contains(classes, name) {
				classes = append(classes, name)
			}
		}
		slices.SortFunc(classes, compareClasses)
	}
	o.setClasses(classes)

	origin := map[int][]int{}
	strata := strataOf(t, slices.DeleteFunc(all, func(column string) bool { return column == classColumn }))
	meant := meantImage(byImage)
	for _, r := range t.Rows {
		name := t.Get(r, "image")
		i, ok := byImage[name]
		if !ok {
			o.problems.Add(t.Path, r.Line, "image", "%q is not in images.csv%s", problem.Clip(name, 60), meant(name))
			continue
		}
		c := &o.d.Cases[i]
		if split := t.Get(r, "split"); split != "" && split != c.Split && !o.ownSplit {
			o.problems.Add(t.Path, r.Line, "split", "%q, but the image's split is %q", split, c.Split)
			continue
		}
		bad := len(o.problems)
		v := make([]float64, len(columns.Names))
		for k, column := range columns.Names {
			var err error
			if v[k], err = table.Number(t.Get(r, column)); err != nil {
				o.problems.Add(t.Path, r.Line, column, "%v", err)
			}
		}
		if len(o.problems) > bad {
			continue
		}
		low, top := columns.Corners(v)
		b := Box{Box: box.Box{X1: low[0], Y1: low[1], X2: top[0], Y2: top[1]}}
		if !b.Valid() || b.Area() == 0 {
			o.problems.Add(t.Path, r.Line, "", "the box %s has no area: want x1 < x2 and y1 < y2 (corners, not x, y, width, height)", b.Box)
			continue
		}
		if b.Class = slices.Index(classes, classOf(r)); b.Class < 0 {
			o.problems.Add(t.Path, r.Line, classColumn, "class %q is unknown; there are %s", problem.Clip(classOf(r), 60), problem.Quote(classes))
			continue
		}
		b.Strata = strata(r)
		if twin := slices.IndexFunc(c.Boxes, func(q Box) bool { return q.Box == b.Box }); twin >= 0 {
			o.problems.Add(t.Path, r.Line, "", "the same box as in line %d", origin[i][twin])
			continue
		}
		o.pending = append(o.pending, pendingBox{caseIndex: i, boxIndex: len(c.Boxes), place: place{t.Path, r.Line}, slack: boxSlack})
		c.Boxes = append(c.Boxes, b)
		origin[i] = append(origin[i], r.Line)
	}
	return nil
}

// strataOf returns what rows say in some columns; rows that say the same share it.
func strataOf(t *table.Table, columns []string) func(table.Row) map[string]string {
	known := map[string]map[string]string{}
	var key []byte
	return func(r table.Row) map[string]string {
		key = key[:0]
		for _, name := range columns {
			key = binary.AppendUvarint(key, uint64(t.Column(name).Of[r.Number]))
		}
		strata, ok := known[string(key)]
		if ok {
			return strata
		}
		for _, name := range columns {
			if text := t.Get(r, name); text != "" {
				if strata == nil {
					strata = map[string]string{}
				}
				strata[name] = text
			}
		}
		known[string(key)] = strata
		return strata
	}
}

// meantImage offers an image whose name differs from the one given in case or ending.
func meantImage(byImage map[string]int) func(name string) string {
	var stems map[string]string
	return func(name string) string {
		if stems == nil {
			stems = map[string]string{}
			for n := range byImage {
				stems[stem(n)] = n
			}
		}
		return nearest.Question(stems[stem(name)])
	}
}

// findWithheld takes splits without any box as withheld; images without a box in
// other splits are free of lesions.
func (o *opener) findWithheld() {
	boxes := map[string]int{}
	images := map[string]int{}
	for i := range o.d.Cases {
		c := &o.d.Cases[i]
		images[c.Split]++
		boxes[c.Split] += len(c.Boxes)
	}
	for i := range o.d.Cases {
		o.d.Cases[i].HasTargets = boxes[o.d.Cases[i].Split] > 0
	}
	var withheld []string
	for split := range images {
		if boxes[split] == 0 {
			withheld = append(withheld, split)
		}
	}
	slices.Sort(withheld)
	for _, split := range withheld {
		o.warn("split %q has no box in %d images: its boxes are taken as withheld", split, images[split])
	}
}

// readIgnore reads circles (cx,cy,radius) or boxes (x1,y1,x2,y2) to ignore.
func (o *opener) readIgnore(path string, byImage map[string]int) error {
	if there, _ := exists(path); !there {
		return nil
	}
	t, err := o.tableOrNone(path)
	if err != nil {
		return err
	}
	columns := []string{"cx", "cy", "radius"}
	if !t.Has("radius") && !t.Has("cx") {
		columns = []string{"x1", "y1", "x2", "y2"}
	}
	if err := t.Need(append([]string{"image"}, columns...)...); err != nil {
		return err
	}
	for _, r := range t.Rows {
		name := t.Get(r, "image")
		i, ok := byImage[name]
		if !ok {
			o.problems.Add(t.Path, r.Line, "image", "%q is not in images.csv", problem.Clip(name, 60))
			continue
		}
		v := make([]float64, len(columns))
		bad := len(o.problems)
		for k, column := range columns {
			if v[k], err = table.Number(t.Get(r, column)); err != nil {
				o.problems.Add(t.Path, r.Line, column, "%v", err)
			}
		}
		if len(o.problems) > bad {
			continue
		}
		region := IgnoreRegion{}
		if len(v) == 3 {
			region.X, region.Y, region.Radius = v[0], v[1], v[2]
			if v[2] <= 0 {
				o.problems.Add(t.Path, r.Line, "radius", "%s is not positive", formatNumber(v[2]))
				continue
			}
		} else {
			region.X1, region.Y1, region.X2, region.Y2 = v[0], v[1], v[2], v[3]
			if v[2] < v[0] || v[3] < v[1] {
				o.problems.Add(t.Path, r.Line, "", "x2 < x1 or y2 < y1")
				continue
			}
		}
		o.pending = append(o.pending, pendingBox{caseIndex: i, boxIndex: len(o.d.Cases[i].Ignore), place: place{t.Path, r.Line}, ignore: true})
		o.d.Cases[i].Ignore = append(o.d.Cases[i].Ignore, region)
	}
	return nil
}
