package dataset

import (
	"bytes"
	"encoding/csv"
	"hash/fnv"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Entry is how a challenge wants its test cases answered: a row per case, its id under Key, and
// the probability of a class under each of Columns.
type Entry struct {
	Key     string
	Columns []EntryColumn
}

// EntryColumn holds the probabilities of one class.
type EntryColumn struct{ Name, Class string }

// entryOf has a column per class, named like it.
func entryOf(key string, classes []string) *Entry {
	e := &Entry{Key: key}
	for _, c := range classes {
		e.Columns = append(e.Columns, EntryColumn{c, c})
	}
	return e
}

// The classes of the challenges, in the order of their entries.
var (
	milkClasses     = []string{"AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC"}
	isic2019Classes = []string{"MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"}
	padClasses      = []string{"ACK", "BCC", "MEL", "NEV", "SCC", "SEK"}
)

// published collects the cases of a set that comes in tables of its own as a table of cases.
type published struct {
	o *opener
	// images and attributes are the names of their columns.
	images, attributes []string
	rows               []publishedCase
	// pictures are the paths below the set's folder, by file name without its ending.
	pictures map[string]string
}

type publishedCase struct {
	at                                place
	id, patient, lesion, split, label string
	images, attributes                map[string]string
}

// pictureEndings are those of the pictures that challenges publish.
var pictureEndings = []string{".jpg", ".jpeg", ".png"}

// find lists the pictures below folders of the set; those that are not there are left out.
func (p *published) find(folders ...string) error {
	if p.pictures == nil {
		p.pictures = map[string]string{}
	}
	for _, folder := range folders {
		root := filepath.Join(p.o.path, folder)
		if _, there := exists(root); !there {
			continue
		}
		if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			ending := filepath.Ext(path)
			if err == nil && !entry.IsDir() && slices.Contains(pictureEndings, strings.ToLower(ending)) {
				if name := strings.TrimSuffix(filepath.Base(path), ending); p.pictures[name] == "" {
					p.pictures[name], err = filepath.Rel(p.o.path, path)
				}
			}
			return err
		}); err != nil {
			return problem.File(root, err)
		}
	}
	return nil
}

// picture is the path of a picture that a row names; one that is absent is a problem.
func (p *published) picture(t *table.Table, r table.Row, column, name string) string {
	path := p.pictures[name]
	if path == "" {
		p.o.problems.Add(t.Path, r.Line, column, "there is no picture %q below %s", problem.Clip(name, 60), filepath.ToSlash(p.o.path))
	}
	return path
}

// class is the one column among classes of a row that is 1.
func (p *published) class(t *table.Table, r table.Row, classes []string) string {
	class := ""
	for _, name := range classes {
		text := t.Get(r, name)
		v, err := table.Number(text)
		switch {
		case err != nil || v != 0 && v != 1:
			p.o.problems.Add(t.Path, r.Line, name, "%q, want 0 or 1", problem.Clip(text, 20))
			return ""
		case v == 0:
		case class != "":
			p.o.problems.Add(t.Path, r.Line, name, "is 1, and so is %s: a case has one class", class)
			return ""
		default:
			class = name
		}
	}
	if class == "" {
		p.o.problems.Add(t.Path, r.Line, classes[0], "none of the classes is 1")
	}
	return class
}

// partOf is the split of a group of training cases: about a tenth of them, chosen by the group's
// name, validate.
func partOf(group string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(group))
	if h.Sum32()%10 == 0 {
		return "val"
	}
	return "train"
}

// take makes the cases those of the data set.
func (p *published) take(entry *Entry) error {
	o := p.o
	if len(o.problems) > 0 {
		return nil
	}
	var text bytes.Buffer
	w := csv.NewWriter(&text)
	header := []string{"id", "patient", "lesion", "split", "label"}
	if !slices.ContainsFunc(p.rows, func(c publishedCase) bool { return c.label != "" }) {
		header = header[:4] // to predict alone
	}
	_ = w.Write(slices.Concat(header, p.images, p.attributes))
	for _, c := range p.rows {
		row := []string{c.id, c.patient, c.lesion, c.split, c.label}[:len(header)]
		for _, name := range p.images {
			row = append(row, c.images[name])
		}
		for _, name := range p.attributes {
			row = append(row, c.attributes[name])
		}
		_ = w.Write(row)
	}
	w.Flush()
	if len(p.rows) == 0 {
		return problem.At(o.path, 0, "", "no cases")
	}
	t, err := table.Parse(p.rows[0].at.file, text.Bytes())
	if err != nil {
		return err
	}
	for i := range t.Rows {
		t.Rows[i].Line = p.rows[i].at.line
	}
	if err := o.caseTable(&scans{o: o, t: t}, nil); err != nil {
		return err
	}
	for i := range o.d.Cases {
		if len(o.d.Cases) == len(p.rows) {
			o.d.Cases[i].at = p.rows[i].at
		}
	}
	o.d.Entry = entry
	return nil
}

// first opens the first of several tables of the set that is there; nil where none is.
func (o *opener) first(names ...string) (*table.Table, error) {
	for _, name := range names {
		path := filepath.Join(o.path, filepath.FromSlash(name))
		if there, _ := exists(path); there {
			return o.table(path)
		}
	}
	return nil, nil
}

// notHere refuses a folder without the tables of a layout.
func (o *opener) notHere(names ...string) error {
	return problem.At(o.path, 0, "", "there is no %s in it", strings.Join(names, " and no "))
}

// openMILK10k reads the MILK10k benchmark: a case is a lesion with a clinical and a dermatoscopic
// picture; what MONET says of each picture is an attribute of it.
func openMILK10k(o *opener) error {
	p := &published{o: o, images: []string{ports.Images.Of("clinic").Name, ports.Images.Of("derm").Name}}
	if err := p.find("MILK10k_Training_Input", "MILK10k_Test_Input"); err != nil {
		return err
	}
	truth, err := o.first("MILK10k_Training_GroundTruth.csv")
	if err != nil {
		return err
	}
	label := map[string]string{}
	if truth != nil {
		if err := truth.Need(append([]string{"lesion_id"}, milkClasses...)...); err != nil {
			return err
		}
		for _, r := range truth.Rows {
			label[truth.Get(r, "lesion_id")] = p.class(truth, r, milkClasses)
		}
	}
	none := true
	for _, part := range []string{"Training", "Test"} {
		t, err := o.first("MILK10k_" + part + "_Metadata.csv")
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		none = false
		if err := p.milk(t, part == "Test", label); err != nil {
			return err
		}
	}
	if none {
		return o.notHere("MILK10k_Training_Metadata.csv", "MILK10k_Test_Metadata.csv")
	}
	return p.take(entryOf("lesion_id", milkClasses))
}

// milk reads a table of pictures, two to a lesion.
func (p *published) milk(t *table.Table, test bool, label map[string]string) error {
	if err := t.Need("lesion_id", "image_type", "isic_id"); err != nil {
		return err
	}
	at := map[string]int{}
	for _, r := range t.Rows {
		id := t.Get(r, "lesion_id")
		i, known := at[id]
		if !known {
			i = len(p.rows)
			at[id] = i
			c := publishedCase{at: place{t.Path, r.Line}, id: id, lesion: id, split: "test", images: map[string]string{}, attributes: map[string]string{}}
			if !test {
				c.split = partOf(id)
				if c.label = label[id]; c.label == "" && len(p.o.problems) == 0 {
					p.o.problems.Add(t.Path, r.Line, "lesion_id", "%q is not in MILK10k_Training_GroundTruth.csv", problem.Clip(id, 60))
				}
			}
			p.rows = append(p.rows, c)
		}
		kind := ""
		switch shown := strings.ToLower(t.Get(r, "image_type")); {
		case strings.HasPrefix(shown, "clinical"):
			kind = "clinic"
		case strings.HasPrefix(shown, "dermoscopic"), strings.HasPrefix(shown, "dermatoscopic"):
			kind = "derm"
		default:
			p.o.problems.Add(t.Path, r.Line, "image_type", "%q, want \"clinical: close-up\" or \"dermoscopic\"", problem.Clip(shown, 40))
			continue
		}
		c := &p.rows[i]
		modality := ports.Images.Of(kind).Name
		if c.images[modality] != "" {
			p.o.problems.Add(t.Path, r.Line, "image_type", "a second picture of this kind of lesion %q", problem.Clip(id, 60))
		}
		c.images[modality] = p.picture(t, r, "isic_id", t.Get(r, "isic_id"))
		for _, column := range t.Columns {
			name, monet := strings.CutPrefix(column, "MONET_")
			switch {
			case monet:
				name = kind + "_" + name
			case !slices.Contains([]string{"age_approx", "sex", "skin_tone_class", "site"}, column):
				continue
			}
			if !slices.Contains(p.attributes, name) {
				p.attributes = append(p.attributes, name)
			}
			if text := t.Get(r, column); text != "" {
				c.attributes[name] = text
			}
		}
	}
	return nil
}

// isicAttributes are the columns of ISIC's metadata that say something of a case, by the names
// that the years give them.
var isicAttributes = map[string]string{"age_approx": "age_approx", "sex": "sex", "anatom_site_general": "anatom_site_general",
	"anatom_site_general_challenge": "anatom_site_general"}

// openISIC reads the ISIC challenge of 2019 (nine classes) or of 2020 (melanoma or not), whichever
// lies there.
func openISIC(o *opener) error {
	p := &published{o: o, images: []string{single}, attributes: []string{"age_approx", "anatom_site_general", "sex"}}
	truth, err := o.first("ISIC_2019_Training_GroundTruth.csv")
	if err != nil {
		return err
	}
	test, err := o.first("ISIC_2019_Test_Metadata.csv")
	if err != nil {
		return err
	}
	if truth != nil || test != nil {
		return p.isic2019(truth, test)
	}
	if truth, err = o.first("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv", "train.csv"); err != nil {
		return err
	}
	if test, err = o.first("ISIC_2020_Test_Metadata.csv", "test.csv"); err != nil {
		return err
	}
	if truth == nil && test == nil {
		return o.notHere("ISIC_2019_Training_GroundTruth.csv", "ISIC_2020_Training_GroundTruth.csv")
	}
	return p.isic2020(truth, test)
}

func (p *published) isic2019(truth, test *table.Table) error {
	if err := p.find("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"); err != nil {
		return err
	}
	if truth != nil {
		if err := truth.Need(append([]string{"image"}, isic2019Classes...)...); err != nil {
			return err
		}
		known, err := p.o.first("ISIC_2019_Training_Metadata.csv")
		if err != nil {
			return err
		}
		if known == nil {
			return p.o.notHere("ISIC_2019_Training_Metadata.csv")
		}
		if err := known.Need("image", "lesion_id"); err != nil {
			return err
		}
		of := map[string]table.Row{}
		for _, r := range known.Rows {
			of[known.Get(r, "image")] = r
		}
		for _, r := range truth.Rows {
			c := publishedCase{at: place{truth.Path, r.Line}, id: truth.Get(r, "image"), label: p.class(truth, r, isic2019Classes)}
			more, ok := of[c.id]
			if !ok {
				p.o.problems.Add(truth.Path, r.Line, "image", "%q is not in ISIC_2019_Training_Metadata.csv", problem.Clip(c.id, 60))
				continue
			}
			c.lesion = known.Get(more, "lesion_id")
			group := c.lesion
			if group == "" {
				group = c.id
			}
			c.split = partOf(group)
			p.isicCase(c, truth, r, "image", known, more)
		}
	}
	if test != nil {
		if err := test.Need("image"); err != nil {
			return err
		}
		for _, r := range test.Rows {
			p.isicCase(publishedCase{at: place{test.Path, r.Line}, id: test.Get(r, "image"), split: "test"}, test, r, "image", test, r)
		}
	}
	return p.take(entryOf("image", isic2019Classes))
}

func (p *published) isic2020(truth, test *table.Table) error {
	if err := p.find("ISIC_2020_Training_JPEG", "ISIC_2020_Training_Input", "train", "jpeg/train", "ISIC_2020_Test_JPEG", "ISIC_2020_Test_Input", "test", "jpeg/test"); err != nil {
		return err
	}
	if truth != nil {
		if err := truth.Need("image_name", "patient_id", "target"); err != nil {
			return err
		}
		for _, r := range truth.Rows {
			c := publishedCase{at: place{truth.Path, r.Line}, id: truth.Get(r, "image_name"), patient: truth.Get(r, "patient_id"), lesion: truth.Get(r, "lesion_id")}
			switch target := truth.Get(r, "target"); target {
			case "0":
				c.label = "benign"
			case "1":
				c.label = "malignant"
			default:
				p.o.problems.Add(truth.Path, r.Line, "target", "%q, want 0 or 1", problem.Clip(target, 20))
			}
			c.split = partOf(c.patient)
			p.isicCase(c, truth, r, "image_name", truth, r)
		}
	}
	if test != nil {
		id, patient := "image", "patient"
		if !test.Has(id) {
			id, patient = "image_name", "patient_id"
		}
		if err := test.Need(id); err != nil {
			return err
		}
		for _, r := range test.Rows {
			p.isicCase(publishedCase{at: place{test.Path, r.Line}, id: test.Get(r, id), patient: test.Get(r, patient), split: "test"}, test, r, id, test, r)
		}
	}
	return p.take(&Entry{Key: "image_name", Columns: []EntryColumn{{"target", "malignant"}}})
}

// isicCase adds a case with its picture and what a table knows of it.
func (p *published) isicCase(c publishedCase, from *table.Table, r table.Row, column string, known *table.Table, more table.Row) {
	c.images = map[string]string{single: p.picture(from, r, column, c.id)}
	c.attributes = map[string]string{}
	for column, name := range isicAttributes {
		if text := known.Get(more, column); text != "" && text != "unknown" {
			c.attributes[name] = text
		}
	}
	p.rows = append(p.rows, c)
}

// padNoAttributes are the columns of PAD-UFES-20's metadata that say nothing of a patient, or that
// are known after the diagnosis alone (biopsed).
var padNoAttributes = []string{"patient_id", "lesion_id", "diagnostic", "img_id", "biopsed", "split"}

// openPAD reads PAD-UFES-20 as published: metadata.csv and pictures in any folder below. It has no
// splits of its own: a seventh of the patients each validates and tests, chosen by their ids, unless
// there is a column split (`data split --by patient_id`).
func openPAD(o *opener) error {
	p := &published{o: o, images: []string{single}}
	t, err := o.table(filepath.Join(o.path, "metadata.csv"))
	if err != nil {
		return err
	}
	if err := t.Need("patient_id", "lesion_id", "diagnostic", "img_id"); err != nil {
		return err
	}
	if err := o.ownSplits(t); err != nil {
		return err
	}
	if err := p.find(""); err != nil {
		return err
	}
	for _, column := range t.Columns {
		if !slices.Contains(padNoAttributes, column) {
			p.attributes = append(p.attributes, column)
		}
	}
	for _, r := range t.Rows {
		c := publishedCase{at: place{t.Path, r.Line}, id: t.Get(r, "img_id"), patient: t.Get(r, "patient_id"), lesion: t.Get(r, "lesion_id"),
			label: t.Get(r, "diagnostic"), split: t.Get(r, "split"), attributes: map[string]string{}}
		if !slices.Contains(padClasses, c.label) {
			o.problems.Add(t.Path, r.Line, "diagnostic", "%q, want one of %s", problem.Clip(c.label, 20), strings.Join(padClasses, ", "))
		}
		if !t.Has("split") {
			h := fnv.New32a()
			_, _ = h.Write([]byte(c.patient))
			c.split = map[uint32]string{0: "test", 1: "val"}[h.Sum32()%7]
			if c.split == "" {
				c.split = "train"
			}
		}
		c.images = map[string]string{single: p.picture(t, r, "img_id", strings.TrimSuffix(c.id, filepath.Ext(c.id)))}
		for _, column := range p.attributes {
			if text := t.Get(r, column); text != "UNK" {
				c.attributes[column] = text
			}
		}
		p.rows = append(p.rows, c)
	}
	return p.take(entryOf("img_id", padClasses))
}
