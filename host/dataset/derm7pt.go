package dataset

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

var (
	derm7ptMetadata = []string{"level_of_diagnostic_difficulty", "elevation", "location", "sex", "management"}
	derm7ptCriteria = []string{"pigment_network", "streaks", "pigmentation", "regression_structures", "dots_and_globules",
		"blue_whitish_veil", "vascular_structures"}
	// derm7ptSets are the attribute sets. management (in B and C) is decided after
	// the diagnosis.
	derm7ptSets = map[string][]string{
		"A": {"elevation", "location", "sex"},
		"B": derm7ptMetadata,
		"C": append(slices.Clone(derm7ptMetadata), derm7ptCriteria...),
	}
	derm7ptClasses = map[string][]string{
		"diagnosis":             {"BCC", "NEV", "MEL", "MISC", "SK"},
		"pigment_network":       {"absent", "typical", "atypical"},
		"streaks":               {"absent", "regular", "irregular"},
		"pigmentation":          {"absent", "regular", "irregular"},
		"regression_structures": {"absent", "present"},
		"dots_and_globules":     {"absent", "regular", "irregular"},
		"blue_whitish_veil":     {"absent", "present"},
		"vascular_structures":   {"absent", "regular", "irregular"},
	}
)

// derm7ptGroup groups a raw value into the class of Kawahara et al. 2019; an unknown
// value comes back as it is.
func derm7ptGroup(task, value string) string {
	in := func(values ...string) bool { return slices.Contains(values, value) }
	switch task {
	case "diagnosis":
		switch {
		case value == "basal cell carcinoma":
			return "BCC"
		case strings.HasSuffix(value, "nevus"):
			return "NEV"
		case strings.HasPrefix(value, "melanoma"):
			return "MEL"
		case value == "seborrheic keratosis":
			return "SK"
		case in("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion"):
			return "MISC"
		}
	case "pigmentation":
		if strings.HasSuffix(value, " regular") {
			return "regular"
		}
		if strings.HasSuffix(value, " irregular") {
			return "irregular"
		}
	case "regression_structures":
		if in("blue areas", "white areas", "combinations") {
			return "present"
		}
	case "vascular_structures":
		if in("arborizing", "comma", "hairpin", "within regression", "wreath") {
			return "regular"
		}
		if in("dotted", "linear irregular") {
			return "irregular"
		}
	}
	return value
}

// openDerm7pt reads the official release: meta/meta.csv, the three index files and
// images/, or the tables directly in DIR. Without images only the attributes load.
func openDerm7pt(o *opener) error {
	meta := filepath.Join(o.path, "meta")
	if _, folder := exists(meta); !folder {
		meta = o.path
	}
	t, err := o.table(filepath.Join(meta, "meta.csv"))
	if err != nil {
		return err
	}
	tasks := append([]string{"diagnosis"}, derm7ptCriteria...)
	if err := t.Need(slices.Concat([]string{"case_num", "clinic", "derm"}, tasks, derm7ptMetadata)...); err != nil {
		return err
	}
	d := o.d
	d.Task = Classify
	labels, err := chooseColumns("label", o.opt.Labels, tasks, []string{"diagnosis"}, nil)
	if err != nil {
		return err
	}
	all := derm7ptSets["C"]
	byDefault := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name == "management" || slices.Contains(labels, name) })
	if d.AttributeColumns, err = o.chooseAttributes(all, byDefault, derm7ptSets); err != nil {
		return err
	}
	for _, a := range d.AttributeColumns {
		if slices.Contains(labels, a) {
			o.leak("%s is attribute and label at once", a)
		}
	}
	if slices.Contains(d.AttributeColumns, "management") {
		o.leak("the attribute management is decided after the diagnosis: it tells part of it")
	}
	images := filepath.Join(o.path, "images")
	_, withImages := exists(images)
	if withImages {
		d.Modalities = []string{ports.Images.Of("clinic").Name, ports.Images.Of("derm").Name}
	} else {
		o.warn("there is no folder %s: only the attributes are there (the release may not be redistributed)", filepath.ToSlash(images))
	}
	byID := map[string]int{}
	columns := make([]labelColumn, len(labels))
	for k, task := range labels {
		columns[k] = labelColumn{task: task, column: task}
	}
	cells := o.attributeReader(t, all)
	rowCase := map[int]int{}
	for n, r := range t.Rows {
		id := t.Get(r, "case_num")
		if first, twice := byID[id]; twice || id == "" {
			line := r.Line
			if twice {
				line = o.d.Cases[first].at.line
			}
			o.problems.Add(t.Path, r.Line, "case_num", "%q is empty or stands twice, first in line %d", problem.Clip(id, 60), line)
			continue
		}
		c := Case{ID: id, Images: map[string]string{}, Attributes: o.attributes().newRow()}
		cells.read(r, c.Attributes)
		for k, task := range labels {
			text := derm7ptGroup(task, t.Get(r, task))
			columns[k].texts = append(columns[k].texts, text)
			c.HasTargets = c.HasTargets || text != ""
		}
		if t.Get(r, "clinic") == t.Get(r, "derm") {
			c.Strata = map[string]string{"clinic_is_derm": "yes"}
		}
		i := o.addCase(c, t.Path, r.Line)
		byID[id], rowCase[n] = i, i
		for _, column := range []string{"clinic", "derm"} {
			if !withImages {
				break
			}
			name := t.Get(r, column)
			if name == "" {
				continue // a missing modality, unless both are
			}
			if !filepath.IsLocal(name) {
				o.problems.Add(t.Path, r.Line, column, "%q is not the name of a file in images", problem.Clip(name, 60))
				continue
			}
			path := filepath.Join(images, filepath.FromSlash(name))
			d.Cases[i].Images[ports.Images.Of(column).Name] = path
			o.expect(expectedImage{caseIndex: i, path: path, column: column})
		}
		if withImages && t.Get(r, "clinic")+t.Get(r, "derm") == "" {
			o.needPicture(i, t.Path, r.Line, []string{"clinic", "derm"})
		}
	}
	o.warnOfAbsent()
	o.labelSets(columns, derm7ptClasses)
	return o.derm7ptSplits(meta, len(t.Rows), rowCase)
}

// derm7ptSplits reads the index files: 0-based row numbers into meta.csv.
func (o *opener) derm7ptSplits(dir string, rows int, rowCase map[int]int) error {
	for _, split := range []struct{ file, name string }{{"train_indexes.csv", "train"}, {"valid_indexes.csv", "val"}, {"test_indexes.csv", "test"}} {
		t, err := o.table(filepath.Join(dir, split.file))
		if err != nil {
			return err
		}
		if err := t.Need("indexes"); err != nil {
			return err
		}
		for _, r := range t.Rows {
			n, err := strconv.Atoi(t.Get(r, "indexes"))
			if err != nil || n < 0 || n >= rows {
				o.problems.Add(t.Path, r.Line, "indexes", "%q is not a row number of meta.csv, 0 to %d", problem.Clip(t.Get(r, "indexes"), 20), rows-1)
				continue
			}
			i, ok := rowCase[n]
			if !ok {
				continue // its row is a problem already
			}
			if c := &o.d.Cases[i]; c.Split != "" {
				o.problems.Add(t.Path, r.Line, "indexes", "row %d is in the split %s already", n, c.Split)
			} else {
				c.Split = split.name
			}
		}
	}
	none := 0
	for i := range o.d.Cases {
		if o.d.Cases[i].Split == "" {
			none++
		}
	}
	if none > 0 {
		o.warn("%d cases are in no split", none)
	}
	return nil
}
