package importer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // formats of pictures
	_ "image/png"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/tiff"
	_ "golang.org/x/image/webp"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// picture is an image with boxes, in pixels of the image from 0.
type picture struct {
	// path is where it lies, name where below images/ it will.
	path, name     string
	split, patient string
	width, height  int
	boxes          []pictureBox
}

type pictureBox struct {
	x1, y1, x2, y2 float64
	class          string
	ignore         bool
}

// tree is a folder whose files are annotations and pictures.
type tree struct {
	root     string
	files    []string // relative, with slashes
	pictures map[string][]string
	problems problem.List
	found    map[string]*picture
}

var pictureEndings = []string{".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}

// importPictures makes the layout boxes of a folder with COCO's JSON, Pascal VOC's XML or YOLO's
// texts. It returns nil for a folder without pictures, and errNoAnnotations where they have none.
func importPictures(ctx context.Context, o Options) (*Summary, error) {
	t, err := newTree(o.Source)
	if err != nil || len(t.pictures) == 0 {
		return nil, err
	}
	kind := ""
	for _, reader := range []struct {
		kind string
		read func() bool
	}{{"COCO", t.readCOCO}, {"Pascal VOC", t.readVOC}, {"YOLO", t.readYOLO}} {
		if reader.read() {
			kind = reader.kind
			break
		}
	}
	if err := t.problems.Err(); err != nil {
		return nil, err
	}
	if kind == "" {
		return nil, t.unread()
	}
	if o.Part != nil {
		return nil, ErrPart
	}
	s := &Summary{SchemaVersion: 1, Spec: "boxes:" + filepath.ToSlash(o.Out), Notes: []string{"annotations of " + kind}}
	if kind == "YOLO" && len(t.yoloNames()) == 0 {
		s.Notes = append(s.Notes, "no data.yaml or classes.txt names the classes: they are called by their numbers")
	}
	left := 0
	for _, list := range t.pictures {
		left += len(list)
	}
	if left -= len(t.found); left > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d pictures have no annotations: left out", left))
	}
	patients := map[string]bool{}
	for _, p := range t.found {
		s.Images++
		s.Boxes += len(p.boxes)
		if p.patient != "" {
			patients[p.patient] = true
		}
	}
	s.Patients = len(patients)
	texts, notes, err := o.readReports(t.names())
	if err != nil {
		return nil, err
	}
	s.Notes = append(s.Notes, notes...)
	if err := t.write(ctx, o, s); err != nil {
		return nil, err
	}
	return s, texts.write(o.Out, s)
}

// errNoAnnotations is the answer to pictures that come without boxes.
var errNoAnnotations = errors.New("no annotations of COCO (.json), Pascal VOC (.xml) or YOLO (.txt beside the pictures or in labels/) were found")

// unread says that there are no annotations, and names files that may be meant for some.
func (t *tree) unread() error {
	for _, rel := range t.files {
		if !strings.EqualFold(filepath.Ext(rel), ".json") {
			continue
		}
		raw, err := os.ReadFile(t.at(rel))
		var doc any
		if err == nil {
			err = json.Unmarshal(raw, &doc)
		}
		if err != nil {
			return fmt.Errorf("%w; %s is no JSON: %w", errNoAnnotations, filepath.ToSlash(t.at(rel)), err)
		}
	}
	return fmt.Errorf("%d names of pictures: %w", len(t.pictures), errNoAnnotations)
}

func newTree(root string) (*tree, error) {
	t := &tree{root: root, pictures: map[string][]string{}, found: map[string]*picture{}}
	info, err := os.Stat(root)
	if err != nil || !info.IsDir() {
		return t, nil // who looks for volumes says what is wrong
	}
	return t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return problem.File(path, err)
		}
		if d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		t.files = append(t.files, rel)
		if slices.Contains(pictureEndings, strings.ToLower(filepath.Ext(rel))) {
			t.pictures[stemOf(rel)] = append(t.pictures[stemOf(rel)], rel)
		}
		return nil
	})
}

func stemOf(path string) string {
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// at is a file's path for messages.
func (t *tree) at(rel string) string { return filepath.Join(t.root, filepath.FromSlash(rel)) }

// names are the pictures' names in the data set by all that they are called: with folders or
// without, with an ending or without, where that is one picture alone.
func (t *tree) names() map[string]string {
	known, twice := map[string]string{}, map[string]bool{}
	for rel, p := range t.found {
		for _, name := range []string{p.name, rel, filepath.Base(rel), stemOf(rel), strings.TrimSuffix(p.name, filepath.Ext(p.name))} {
			if other, ok := known[name]; ok && other != p.name {
				twice[name] = true
			}
			known[name] = p.name
		}
	}
	for name := range twice {
		delete(known, name)
	}
	return known
}

// splitOf is the split that the parts of a path name, "" for none.
func splitOf(path string) string {
	for _, part := range strings.FieldsFunc(strings.ToLower(path), func(r rune) bool { return strings.ContainsRune("/_-. 0123456789", r) }) {
		switch part {
		case "train", "training":
			return "train"
		case "val", "valid", "validation", "dev":
			return "val"
		case "test", "testing":
			return "test"
		}
	}
	return ""
}

// picture finds the picture that an annotation in the file from names, which may lie in
// another folder; of several those whose path ends like the name or whose split is the same.
func (t *tree) picture(from, name, split string) *picture {
	name = strings.ReplaceAll(name, `\`, "/")
	list := slices.Clone(t.pictures[stemOf(name)])
	narrow := func(keep func(rel string) bool) {
		if some := slices.DeleteFunc(slices.Clone(list), func(rel string) bool { return !keep(rel) }); len(some) > 0 && len(list) > 1 {
			list = some
		}
	}
	narrow(func(rel string) bool { return rel == name || strings.HasSuffix(rel, "/"+name) })
	narrow(func(rel string) bool { return filepath.Ext(rel) == filepath.Ext(name) })
	narrow(func(rel string) bool { return split != "" && splitOf(filepath.Dir(rel)) == split })
	narrow(func(rel string) bool { return filepath.Dir(rel) == filepath.Dir(from) })
	switch len(list) {
	case 0:
		t.problems.Add(t.at(from), 0, "", "the picture %q is nowhere in %s", problem.Clip(name, 80), filepath.ToSlash(t.root))
		return nil
	case 1:
		return t.open(list[0], split)
	}
	t.problems.Add(t.at(from), 0, "", "it is not clear which picture %q is: %s", problem.Clip(name, 80), problem.Quote(list))
	return nil
}

// open reads the size of a picture, once.
func (t *tree) open(rel, split string) *picture {
	if p, ok := t.found[rel]; ok {
		return p
	}
	f, err := os.Open(t.at(rel))
	if err != nil {
		t.problems.AddError(t.at(rel), 0, "", problem.File(t.at(rel), err))
		return nil
	}
	defer f.Close()
	c, _, err := image.DecodeConfig(bufio.NewReader(f))
	if err != nil || c.Width < 1 || c.Height < 1 {
		t.problems.Add(t.at(rel), 0, "", "is no picture, or damaged: %v", err)
		return nil
	}
	p := &picture{path: t.at(rel), name: strings.TrimPrefix(rel, "images/"), split: cmp.Or(split, splitOf(filepath.Dir(rel))), width: c.Width, height: c.Height}
	t.found[rel] = p
	return p
}

// add checks a box and gives it to its picture.
func (t *tree) add(p *picture, from string, line int, b pictureBox) {
	w, h := float64(p.width), float64(p.height)
	switch {
	case !(b.x1 < b.x2 && b.y1 < b.y2):
		t.problems.Add(t.at(from), line, "", "a box of %s has no area: %g, %g to %g, %g", p.name, b.x1, b.y1, b.x2, b.y2)
	case b.x1 < -1 || b.y1 < -1 || b.x2 > w || b.y2 > h:
		t.problems.Add(t.at(from), line, "", "a box of %s, %g, %g to %g, %g, leaves its %d x %d pixels", p.name, b.x1, b.y1, b.x2, b.y2, p.width, p.height)
	case slices.ContainsFunc(p.boxes, func(q pictureBox) bool { return q.x1 == b.x1 && q.y1 == b.y1 && q.x2 == b.x2 && q.y2 == b.y2 }):
		t.problems.Add(t.at(from), line, "", "a box of %s stands twice: %g, %g to %g, %g", p.name, b.x1, b.y1, b.x2, b.y2)
	default:
		p.boxes = append(p.boxes, b)
	}
}

// declared refuses a picture of another size than its annotations are for; 0: they do not say.
// A photograph may have been turned upright for them.
func (t *tree) declared(p *picture, from string, width, height float64) {
	w, h := float64(p.width), float64(p.height)
	upright := width == h && height == w && !strings.EqualFold(filepath.Ext(p.path), ".png")
	if width > 0 && height > 0 && (width != w || height != h) && !upright {
		t.problems.Add(t.at(from), 0, "", "%s is %d x %d pixels, its annotations are for %g x %g: was it resized or turned?", p.name, p.width, p.height, width, height)
	}
}

// cocoFile is what is used of COCO's JSON (https://cocodataset.org/#format-data).
type cocoFile struct {
	Images []struct {
		ID       json.RawMessage `json:"id"`
		FileName string          `json:"file_name"`
		Split    string          `json:"split"`
		Width    float64         `json:"width"`
		Height   float64         `json:"height"`
		Patient  any             `json:"patient_id"`
	} `json:"images"`
	Annotations []struct {
		ID       json.RawMessage `json:"id"`
		ImageID  json.RawMessage `json:"image_id"`
		Category json.RawMessage `json:"category_id"`
		Box      []float64       `json:"bbox"`
		Crowd    int             `json:"iscrowd"`
	} `json:"annotations"`
	Categories []struct {
		ID   json.RawMessage `json:"id"`
		Name string          `json:"name"`
	} `json:"categories"`
}

func (t *tree) readCOCO() bool {
	any := false
	for _, rel := range t.files {
		if !strings.EqualFold(filepath.Ext(rel), ".json") {
			continue
		}
		raw, err := os.ReadFile(t.at(rel))
		if err != nil {
			t.problems.AddError(t.at(rel), 0, "", problem.File(t.at(rel), err))
			continue
		}
		if !bytes.Contains(raw, []byte(`"annotations"`)) || !bytes.Contains(raw, []byte(`"images"`)) {
			continue
		}
		any = true
		var doc cocoFile
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.problems.Add(t.at(rel), 0, "", "is no JSON of COCO: %v", err)
			continue
		}
		t.coco(rel, &doc)
	}
	return any
}

func (t *tree) coco(rel string, doc *cocoFile) {
	classes, pictures := map[string]string{}, map[string]*picture{}
	for _, c := range doc.Categories {
		if other, twice := classes[string(c.ID)]; twice && other != c.Name {
			t.problems.Add(t.at(rel), 0, "categories", "the id %s is that of %q and of %q", c.ID, problem.Clip(other, 40), problem.Clip(c.Name, 40))
		}
		classes[string(c.ID)] = c.Name
	}
	for _, image := range doc.Images {
		if _, twice := pictures[string(image.ID)]; twice {
			t.problems.Add(t.at(rel), 0, "images", "the id %s stands twice", image.ID)
			continue
		}
		p := t.picture(rel, image.FileName, cmp.Or(image.Split, splitOf(rel)))
		if pictures[string(image.ID)] = p; p == nil {
			continue
		}
		t.declared(p, rel, image.Width, image.Height)
		if image.Patient != nil {
			p.patient = pseudonym(fmt.Sprint(image.Patient))
		}
	}
	for _, a := range doc.Annotations {
		p, known := pictures[string(a.ImageID)]
		class, named := classes[string(a.Category)]
		switch {
		case !known:
			t.problems.Add(t.at(rel), 0, "annotations", "annotation %s is of image %s, which is not among the images", a.ID, a.ImageID)
		case p == nil: // its picture is a problem already
		case len(a.Box) != 4:
			t.problems.Add(t.at(rel), 0, "annotations", "annotation %s has no bbox of 4 numbers: x, y, width, height", a.ID)
		case !named:
			t.problems.Add(t.at(rel), 0, "annotations", "annotation %s has category %s, which is not among the categories", a.ID, a.Category)
		case max(a.Box[0], a.Box[1], a.Box[2], a.Box[3]) <= 1 && min(p.width, p.height) > 8:
			t.problems.Add(t.at(rel), 0, "annotations", "annotation %s: bbox %v is in shares of the sides, want pixels", a.ID, a.Box)
		default:
			t.add(p, rel, 0, pictureBox{a.Box[0], a.Box[1], a.Box[0] + a.Box[2], a.Box[1] + a.Box[3], class, a.Crowd != 0})
		}
	}
}

// vocFile is what is used of Pascal VOC's XML, whose pixels count from 1.
type vocFile struct {
	XMLName  xml.Name `xml:"annotation"`
	FileName string   `xml:"filename"`
	Size     struct {
		Width  float64 `xml:"width"`
		Height float64 `xml:"height"`
	} `xml:"size"`
	Objects []struct {
		Name      string `xml:"name"`
		Difficult int    `xml:"difficult"`
		Box       struct {
			XMin float64 `xml:"xmin"`
			YMin float64 `xml:"ymin"`
			XMax float64 `xml:"xmax"`
			YMax float64 `xml:"ymax"`
		} `xml:"bndbox"`
	} `xml:"object"`
}

func (t *tree) readVOC() bool {
	any := false
	splits := t.imageSets()
	for _, rel := range t.files {
		if !strings.EqualFold(filepath.Ext(rel), ".xml") {
			continue
		}
		raw, err := os.ReadFile(t.at(rel))
		if err != nil || !bytes.Contains(raw, []byte("<annotation")) {
			continue
		}
		any = true
		var doc vocFile
		if err := xml.Unmarshal(raw, &doc); err != nil {
			t.problems.Add(t.at(rel), 0, "", "is no XML of Pascal VOC: %v", err)
			continue
		}
		name := doc.FileName
		if len(t.pictures[stemOf(name)]) == 0 { // renamed, as many tools do: the XML's name counts
			name = stemOf(rel)
		}
		p := t.picture(rel, name, cmp.Or(splits[stemOf(rel)], splitOf(filepath.Dir(rel))))
		if p == nil {
			continue
		}
		t.declared(p, rel, doc.Size.Width, doc.Size.Height)
		for _, o := range doc.Objects {
			if strings.TrimSpace(o.Name) == "" {
				t.problems.Add(t.at(rel), 0, "object", "an object of %s has no name: of which class is it?", p.name)
			}
			t.add(p, rel, 0, pictureBox{o.Box.XMin - 1, o.Box.YMin - 1, o.Box.XMax - 1, o.Box.YMax - 1, o.Name, o.Difficult != 0})
		}
	}
	return any
}

// imageSets reads the splits of ImageSets/Main/train.txt and its like, by picture.
func (t *tree) imageSets() map[string]string {
	splits := map[string]string{}
	for _, rel := range t.files {
		split := stemOf(rel)
		if filepath.Ext(rel) != ".txt" || !strings.Contains("/"+rel, "/ImageSets/") || !slices.Contains([]string{"train", "val", "test"}, split) {
			continue
		}
		raw, err := os.ReadFile(t.at(rel))
		if err != nil {
			t.problems.AddError(t.at(rel), 0, "", problem.File(t.at(rel), err))
		}
		for _, name := range strings.Fields(string(raw)) {
			splits[name] = split
		}
	}
	return splits
}

// readYOLO reads a text per picture, beside it or in labels/ where the pictures are in
// images/: lines of class, centre and size in shares of the sides, or of class and a polygon.
func (t *tree) readYOLO() bool {
	texts := map[string]string{}
	for _, rel := range t.files {
		if filepath.Ext(rel) == ".txt" {
			texts[strings.TrimSuffix(rel, ".txt")] = rel
		}
	}
	anyText := false
	var names map[int]string
	var bare []string
	for _, rel := range t.files {
		if !slices.Contains(t.pictures[stemOf(rel)], rel) {
			continue
		}
		key := strings.TrimSuffix(rel, filepath.Ext(rel))
		text, ok := texts[key]
		if at := strings.LastIndex("/"+key, "/images/"); !ok && at >= 0 {
			text, ok = texts[strings.TrimPrefix(("/" + key)[:at]+"/labels/"+("/" + key)[at+len("/images/"):], "/")]
		}
		if !ok {
			bare = append(bare, rel)
			continue
		}
		if !anyText {
			names = t.yoloNames()
		}
		anyText = true
		if p := t.open(rel, ""); p != nil {
			t.yolo(p, text, names)
		}
	}
	for _, rel := range t.files {
		if !anyText || filepath.Ext(rel) != ".txt" || !strings.Contains("/"+rel, "/labels/") || filepath.Base(rel) == "classes.txt" {
			continue
		}
		if len(t.pictures[stemOf(rel)]) == 0 {
			t.problems.Add(t.at(rel), 0, "", "there is no picture of its boxes: none is called %q", stemOf(rel))
		}
	}
	for _, rel := range bare { // a picture without a text is free of lesions
		if anyText {
			t.open(rel, "")
		}
	}
	return anyText
}

// yoloSlack is how far a box may leave its picture, in shares of the sides: texts round.
const yoloSlack = 0.01

func (t *tree) yolo(p *picture, rel string, names map[int]string) {
	raw, err := os.ReadFile(t.at(rel))
	if err != nil {
		t.problems.AddError(t.at(rel), 0, "", problem.File(t.at(rel), err))
		return
	}
	for k, line := range strings.Split(string(raw), "\n") {
		cells := strings.Fields(line)
		if len(cells) == 0 {
			continue
		}
		v := make([]float64, len(cells))
		for i, cell := range cells {
			v[i], err = table.Number(cell)
			if i == 0 && (err != nil || v[0] < 0 || v[0] != float64(int(v[0])) || len(names) > 0 && names[int(v[0])] == "") {
				t.problems.Add(t.at(rel), k+1, "", "the class %q is none of %d, want its number, from 0 (names in data.yaml or classes.txt)", problem.Clip(cell, 40), len(names))
				return
			}
			if err != nil || i > 0 && (v[i] < -0.01 || v[i] > 1.01) {
				t.problems.Add(t.at(rel), k+1, "", "%q is no share of a side from 0 to 1: want class, centre and size, all of them shares", problem.Clip(cell, 40))
				return
			}
		}
		if len(v) != 5 && (len(v) < 7 || len(v)%2 == 0) {
			t.problems.Add(t.at(rel), k+1, "", "%d numbers, want 5 (class, centre, size), or a class and a polygon", len(v))
			return
		}
		x1, y1, x2, y2 := v[1]-v[len(v)-2]/2, v[2]-v[len(v)-1]/2, v[1]+v[len(v)-2]/2, v[2]+v[len(v)-1]/2
		if len(v) > 5 {
			x1, y1, x2, y2 = v[1], v[2], v[1], v[2]
			for i := 3; i < len(v); i += 2 {
				x1, x2, y1, y2 = min(x1, v[i]), max(x2, v[i]), min(y1, v[i+1]), max(y2, v[i+1])
			}
		}
		w, h := float64(p.width), float64(p.height)
		if low, top := min(x1, y1), max(x2, y2); low < -yoloSlack && low*max(w, h) < -1 || top > 1+yoloSlack && (top-1)*max(w, h) > 1 {
			t.problems.Add(t.at(rel), k+1, "", "the box leaves its picture, %.3g, %.3g to %.3g, %.3g in shares of the sides: want its centre and size, not corners", x1, y1, x2, y2)
			return
		}
		t.add(p, rel, k+1, pictureBox{max(0, x1*w), max(0, y1*h), min(w, x2*w), min(h, y2*h), named(names, int(v[0])), false})
	}
}

// yoloNames reads the names of the classes: names in a .yaml, or a line each in classes.txt
// or a .names file.
func (t *tree) yoloNames() map[int]string {
	names := map[int]string{}
	for _, rel := range t.files {
		base := filepath.Base(rel)
		isYAML := slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(base))
		if !isYAML && base != "classes.txt" && filepath.Ext(base) != ".names" {
			continue
		}
		raw, err := os.ReadFile(t.at(rel))
		if err != nil {
			t.problems.AddError(t.at(rel), 0, "", problem.File(t.at(rel), err))
			continue
		}
		if !isYAML {
			for k, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
				names[k] = strings.TrimSpace(line)
			}
			continue
		}
		var doc any
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			t.problems.Add(t.at(rel), 0, "", "is no YAML: %v", err)
			continue
		}
		var list struct{ Names []string }
		var byNumber struct{ Names map[int]string }
		if yaml.Unmarshal(raw, &list) == nil && len(list.Names) > 0 {
			for k, name := range list.Names {
				names[k] = name
			}
		} else if yaml.Unmarshal(raw, &byNumber) == nil {
			for k, name := range byNumber.Names {
				names[k] = name
			}
		}
	}
	return names
}

// write copies the pictures and writes the tables.
func (t *tree) write(ctx context.Context, o Options, s *Summary) error {
	list := make([]*picture, 0, len(t.found))
	for _, p := range t.found {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *picture) int { return cmp.Compare(a.name, b.name) })
	rows := map[string]map[string]string{}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 9, 64) }
	var boxes, ignore [][]string
	for _, p := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		written, err := copyPicture(p.path, filepath.Join(o.Out, "images", filepath.FromSlash(p.name)))
		if err != nil {
			return err
		}
		if written {
			s.Written++
		}
		rows[p.name] = map[string]string{"image": p.name, "split": p.split, "width": strconv.Itoa(p.width), "height": strconv.Itoa(p.height)}
		if p.patient != "" {
			rows[p.name]["patient"] = p.patient
		}
		for _, b := range p.boxes {
			line := []string{p.name, number(b.x1), number(b.y1), number(b.x2), number(b.y2)}
			if b.ignore {
				ignore = append(ignore, line)
			} else {
				boxes = append(boxes, append(line, b.class))
			}
		}
	}
	others, err := mergeTable(filepath.Join(o.Out, "images.csv"), []string{"image", "patient", "split", "width", "height"}, rows, "split", "patient")
	if err != nil {
		return err
	}
	if others > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d images of an import before are not among these pictures: they stay in the data set", others))
	}
	imported := func(image string) bool { return rows[image] != nil }
	path := filepath.Join(o.Out, "ignore.csv")
	if _, err := os.Stat(path); err == nil || len(ignore) > 0 {
		if err := replaceRows(path, []string{"image", "x1", "y1", "x2", "y2"}, ignore, imported); err != nil {
			return err
		}
	}
	return replaceRows(filepath.Join(o.Out, "boxes.csv"), []string{"image", "x1", "y1", "x2", "y2", "class"}, boxes, imported)
}

// copyPicture copies a file unless it is there.
func copyPicture(from, to string) (written bool, err error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return false, problem.File(from, err)
	}
	if there, err := os.ReadFile(to); err == nil && bytes.Equal(there, data) {
		return false, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
		return false, err
	}
	return true, atomicfile.WriteBytes(to, data)
}
