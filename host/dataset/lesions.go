package dataset

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/deeplesion"
)

// classifyLesions reads DL_info.csv with a case per lesion: its neighbourhood on the key slice
// and the slices about it, and its type. What is known of a lesion's type is the label, and no
// attribute.
func (o *opener) classifyLesions(folders []*deepFolder, columns []string) error {
	d := o.d
	d.Task, d.Modalities, d.huOnly = Classify, []string{Volume}, true
	own := []string{"age", "gender", "size"}
	all, byDefault := slices.Concat(own, columns), slices.Concat(deepLesionDefault, columns)
	var err error
	if d.AttributeColumns, err = o.chooseAttributes(all, byDefault, nil); err != nil {
		return err
	}
	d.windows = map[string][]window{}
	d.windows[Volume], _ = o.windowsOf(Volume)
	cells := o.cellsOfLesions(folders)
	types := labelColumn{task: lesionType, column: "Coarse_lesion_type"}
	unknown := map[string]int{}
	counted := map[string]int{}
	for l := range o.lesions(folders) {
		if o.tooNoisy(l) {
			continue
		}
		if l.Type == "" {
			unknown[l.Split]++
			continue
		}
		c := l.newCase(o.attributes().newRow())
		counted[l.id]++
		c.ID = fmt.Sprintf("%s#%d", l.id, counted[l.id])
		c.sights = map[string]*sight{Volume: o.sightOfLesion(l)}
		if c.sights[Volume] == nil {
			o.problems.Add(l.info.Path, l.line, "Bounding_boxes", "the box %s lies outside the image of %d x %d pixels", l.Box, l.size[1], l.size[0])
			continue
		}
		given := map[string]string{"age": l.age, "gender": l.gender, "size": ""}
		if mm := l.DiameterMM(); mm > 0 {
			given["size"] = strconv.FormatFloat(mm, 'f', 2, 64)
		}
		maps.Copy(given, cells[[2]string{l.id}])
		maps.Copy(given, cells[[2]string{l.id, l.Box.String()}])
		for _, name := range d.AttributeColumns {
			text, err := o.lesionAttribute(name, given[name])
			if err != nil {
				o.problems.Add(l.info.Path, l.line, name, "%v", err)
			}
			c.Attributes.set(name, schema.Written(text, l.place()))
		}
		o.addCase(c, l.info.Path, l.line)
		types.texts = append(types.texts, l.Type)
	}
	if len(unknown) > 0 {
		var counts []string
		for _, split := range slices.Sorted(maps.Keys(unknown)) {
			counts = append(counts, fmt.Sprintf("%d of split %q", unknown[split], split))
		}
		o.warn("lesions without a type (Coarse_lesion_type is -1) are left out: %s; DeepLesion gives types in its validation and test splits alone (data.train_split=val trains there)", strings.Join(counts, ", "))
	}
	o.labelSets([]labelColumn{types}, nil)
	return nil
}

// sightOfLesion is the part of a key slice about a lesion's box, square, with the margin; nil
// for a box that lies outside.
func (o *opener) sightOfLesion(l *lesion) *sight {
	h, w := float64(l.size[0]), float64(l.size[1])
	if l.Box.X2 < 0 || l.Box.Y2 < 0 || l.Box.X1 > w-1 || l.Box.Y1 > h-1 {
		return nil
	}
	mm := l.SpacingMM[1]
	if !(mm > 0) {
		mm = 1
	}
	x, y := l.Box.Centre()
	half := max(l.Box.X2-l.Box.X1, l.Box.Y2-l.Box.Y1)/2 + o.marginMM/mm
	crop := [4]float64{max(0, math.Floor(x-half)), max(0, math.Floor(y-half)), min(w-1, math.Ceil(x+half)), min(h-1, math.Ceil(y+half))}
	return &sight{stack: l.series, key: l.keySlice, size: l.size, spacingMM: l.SpacingMM, crop: crop}
}

// cellsOfLesions are the cells of attributes.csv by image and box; the box is "" for what is said
// of all the lesions of an image. Empty cells are left out.
func (o *opener) cellsOfLesions(folders []*deepFolder) map[[2]string]map[string]string {
	out := map[[2]string]map[string]string{}
	for _, f := range folders {
		if f.extra == nil {
			continue
		}
		f.extra.rows(o, func(string, string) *namedLesion { return &namedLesion{} }) // what stands twice
		for _, r := range f.extra.Rows {
			key := [2]string{f.prefix + f.extra.Get(r, "File_name")}
			if text := f.extra.Get(r, f.extra.lesion); f.extra.lesion != "" && text != "" {
				b, err := deeplesion.ParseBox(text)
				if err != nil {
					o.problems.Add(f.extra.Path, r.Line, f.extra.lesion, "%v", err)
					continue
				}
				key[1] = b.String()
			}
			cells := map[string]string{}
			for _, name := range f.extra.columns {
				if text := f.extra.Get(r, name); text != "" {
					cells[name] = text
				}
			}
			out[key] = cells
		}
	}
	return out
}
