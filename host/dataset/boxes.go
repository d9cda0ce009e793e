package dataset

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
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
		return problem(o.path, 0, "", "no such file or folder")
	}
	if !folder {
		return o.oneBoxesTable()
	}
	images, err := o.table(filepath.Join(o.path, "images.csv"))
	if err != nil {
		return err
	}
	byImage, err := o.boxImages(images, filepath.Join(o.path, "images"))
	if err != nil {
		return err
	}
	boxesPath := filepath.Join(o.path, "boxes.csv")
	if there, _ := exists(boxesPath); there {
		boxes, err := o.table(boxesPath)
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
	o.d.Dir = filepath.Dir(o.path)
	folder := strings.TrimSuffix(o.path, filepath.Ext(o.path))
	if _, ok := exists(folder); !ok {
		folder = filepath.Join(o.d.Dir, "images")
	}
	once := &csvTable{path: t.path, columns: t.columns, index: t.index}
	seen := map[string]bool{}
	for _, r := range t.rows {
		if name := t.get(r, "image"); !seen[name] {
			seen[name] = true
			once.rows = append(once.rows, r)
		}
	}
	byImage, err := o.boxImages(once, folder)
	if err != nil {
		return err
	}
	withBox := &csvTable{path: t.path, columns: t.columns, index: t.index}
	for _, r := range t.rows {
		if t.get(r, "x1")+t.get(r, "y1")+t.get(r, "x2")+t.get(r, "y2") != "" {
			withBox.rows = append(withBox.rows, r)
		}
	}
	if err := o.readBoxes(withBox, byImage); err != nil {
		return err
	}
	for i := range o.d.Cases {
		o.d.Cases[i].HasTargets = true
	}
	return nil
}

// boxImages makes a case per row of images.csv.
func (o *opener) boxImages(t *csvTable, folder string) (map[string]int, error) {
	if err := t.need("image"); err != nil {
		return nil, err
	}
	d := o.d
	d.Modalities = []string{Volume}
	var all []string
	for _, c := range t.columns {
		if !slices.Contains(boxesReserved, c) {
			all = append(all, c)
		}
	}
	var err error
	if d.AttributeColumns, err = chooseColumns("attribute", o.opt.Attributes, all, nil, nil); err != nil {
		return nil, err
	}
	splitColumn := "split"
	if !t.has("split") && t.has("part") {
		splitColumn = "part"
	}
	byImage := map[string]int{}
	for _, r := range t.rows {
		name := t.get(r, "image")
		if !filepath.IsLocal(name) {
			o.problems.add(t.path, r.line, "image", "%q is not the name of a file in %s", clip(name, 60), filepath.ToSlash(folder))
			continue
		}
		if first, twice := byImage[name]; twice {
			o.problems.add(t.path, r.line, "image", "%q stands twice, first in line %d", name, o.places[first].line)
			continue
		}
		c := Case{ID: name, Patient: t.get(r, "patient"), Split: t.get(r, splitColumn), Stack: name,
			Images: map[string]string{Volume: filepath.Join(folder, name)}, Attributes: map[string]string{}, Strata: map[string]string{}}
		e := expectedImage{path: c.Images[Volume], place: place{t.path, r.line}, column: "image"}
		bad := len(o.problems)
		e.width, e.height = o.wholeNumber(t, r, "width"), o.wholeNumber(t, r, "height")
		if mm := o.optionalNumber(t, r, "spacing_mm", 0); mm > 0 {
			c.SpacingMM = [3]float64{0, mm, mm}
		} else if t.get(r, "spacing_mm") != "" && len(o.problems) == bad {
			o.problems.add(t.path, r.line, "spacing_mm", "%q is not positive", t.get(r, "spacing_mm"))
		}
		c.greyHU = [2]float64{o.optionalNumber(t, r, "grey_low_hu", o.opt.GreyHU[0]), o.optionalNumber(t, r, "grey_high_hu", o.opt.GreyHU[1])}
		if c.greyHU[0] > c.greyHU[1] {
			o.problems.add(t.path, r.line, "grey_high_hu", "is below grey_low_hu")
		}
		o.readAttributes(t, r, all, &c)
		e.caseIndex = o.addCase(c, t.path, r.line)
		byImage[name] = e.caseIndex
		if len(o.problems) == bad {
			o.expect(e)
		}
	}
	return byImage, nil
}

func (o *opener) optionalNumber(t *csvTable, r csvRow, column string, absent float64) float64 {
	text := t.get(r, column)
	if text == "" {
		return absent
	}
	v, err := parseNumber(text)
	if err != nil {
		o.problems.add(t.path, r.line, column, "%v", err)
		return absent
	}
	return v
}

func (o *opener) wholeNumber(t *csvTable, r csvRow, column string) int {
	v := o.optionalNumber(t, r, column, 0)
	if v < 0 || v != float64(int(v)) || v > maxImageSide {
		o.problems.add(t.path, r.line, column, "%q is not a size in pixels", t.get(r, column))
		return 0
	}
	return int(v)
}

// readBoxes adds the rows of boxes.csv to their images.
func (o *opener) readBoxes(t *csvTable, byImage map[string]int) error {
	if err := t.need("image", "x1", "y1", "x2", "y2"); err != nil {
		return err
	}
	all := slices.DeleteFunc(slices.Clone(t.columns), func(c string) bool {
		return slices.Contains([]string{"image", "x1", "y1", "x2", "y2", "patient", "split", "part"}, c)
	})
	var byDefault []string
	if t.has("class") {
		byDefault = []string{"class"}
	}
	chosen, err := chooseColumns("class", o.opt.Labels, all, byDefault, nil)
	if err != nil {
		return err
	}
	if len(chosen) > 1 {
		return fmt.Errorf("%w: boxes have one class column, %d were asked for: %s", ErrData, len(chosen), quoteList(chosen))
	}
	classColumn := ""
	if len(chosen) == 1 {
		classColumn = chosen[0]
	}
	var classes []string
	classOf := func(r csvRow) string {
		if text := t.get(r, classColumn); text != "" {
			return text
		}
		return "lesion"
	}
	if len(o.opt.LabelSets) > 0 {
		classes = o.opt.LabelSets[0].Classes
	} else {
		for _, r := range t.rows {
			if name := classOf(r); !slices.Contains(classes, name) {
				classes = append(classes, name)
			}
		}
		slices.SortFunc(classes, compareClasses)
	}
	o.setClasses(classes)

	origin := map[int][]int{}
	for _, r := range t.rows {
		name := t.get(r, "image")
		i, ok := byImage[name]
		if !ok {
			o.problems.add(t.path, r.line, "image", "%q is not in images.csv", clip(name, 60))
			continue
		}
		c := &o.d.Cases[i]
		if split := t.get(r, "split"); split != "" && split != c.Split {
			o.problems.add(t.path, r.line, "split", "%q, but the image's split is %q", split, c.Split)
			continue
		}
		bad := len(o.problems)
		b := Box{Strata: map[string]string{}}
		for _, v := range []struct {
			column string
			to     *float64
		}{{"x1", &b.X1}, {"y1", &b.Y1}, {"x2", &b.X2}, {"y2", &b.Y2}} {
			var err error
			if *v.to, err = parseNumber(t.get(r, v.column)); err != nil {
				o.problems.add(t.path, r.line, v.column, "%v", err)
			}
		}
		if len(o.problems) > bad {
			continue
		}
		if b.X2 < b.X1 || b.Y2 < b.Y1 {
			o.problems.add(t.path, r.line, "", "x2 < x1 or y2 < y1 in the box %s", formatBox(b))
			continue
		}
		if b.Class = slices.Index(classes, classOf(r)); b.Class < 0 {
			o.problems.add(t.path, r.line, classColumn, "class %q is unknown; there are %s", clip(classOf(r), 60), quoteList(classes))
			continue
		}
		for _, column := range all {
			if text := t.get(r, column); text != "" && column != classColumn {
				b.Strata[column] = text
			}
		}
		if twin := slices.IndexFunc(c.Boxes, func(q Box) bool { return q.X1 == b.X1 && q.Y1 == b.Y1 && q.X2 == b.X2 && q.Y2 == b.Y2 }); twin >= 0 {
			o.problems.add(t.path, r.line, "", "the same box as in line %d", origin[i][twin])
			continue
		}
		o.pending = append(o.pending, pendingBox{i, len(c.Boxes), place{t.path, r.line}, "", boxSlack})
		c.Boxes = append(c.Boxes, b)
		origin[i] = append(origin[i], r.line)
	}
	return nil
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
	t, err := o.table(path)
	if err != nil {
		return err
	}
	columns := []string{"cx", "cy", "radius"}
	if !t.has("radius") && !t.has("cx") {
		columns = []string{"x1", "y1", "x2", "y2"}
	}
	if err := t.need(append([]string{"image"}, columns...)...); err != nil {
		return err
	}
	for _, r := range t.rows {
		name := t.get(r, "image")
		i, ok := byImage[name]
		if !ok {
			o.problems.add(t.path, r.line, "image", "%q is not in images.csv", clip(name, 60))
			continue
		}
		v := make([]float64, len(columns))
		bad := len(o.problems)
		for k, column := range columns {
			if v[k], err = parseNumber(t.get(r, column)); err != nil {
				o.problems.add(t.path, r.line, column, "%v", err)
			}
		}
		if len(o.problems) > bad {
			continue
		}
		region := IgnoreRegion{}
		if len(v) == 3 {
			region.X, region.Y, region.Radius = v[0], v[1], v[2]
			if v[2] <= 0 {
				o.problems.add(t.path, r.line, "radius", "%s is not positive", formatNumber(v[2]))
				continue
			}
		} else {
			region.X1, region.Y1, region.X2, region.Y2 = v[0], v[1], v[2], v[3]
			if v[2] < v[0] || v[3] < v[1] {
				o.problems.add(t.path, r.line, "", "x2 < x1 or y2 < y1")
				continue
			}
		}
		o.d.Cases[i].Ignore = append(o.d.Cases[i].Ignore, region)
	}
	return nil
}
