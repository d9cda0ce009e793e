package frocio

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// roleNames are the names that a column goes by, the most telling first, in small letters
// without blanks and punctuation: x_min, "X Min" and xmin are one name.
var roleNames = map[string][]string{
	"image": {"image", "imageid", "imageindex", "imagename", "imagefile", "imagepath", "imageuid", "img", "imgid", "imgname", "seriesuid",
		"seriesinstanceuid", "sopinstanceuid", "filename", "file", "filepath", "path", "scan", "scanid", "scanname", "volumename", "slide", "slideid",
		"slidename", "case", "caseid", "casename", "publicid", "studyuid", "studyinstanceuid", "studyid", "study", "dicomid", "examid", "exam", "accession",
		"uid", "uuid", "id", "name", "patientid", "subjectid", "subject", "patient", "pid"},
	"patient": {"patient", "patientid", "patientindex", "patientname", "pid", "subject", "subjectid"},
	"volume":  {"volume", "volumeid"},
	"split":   {"split", "subset", "partition"},
	"ignore":  {"ignore", "ignored", "iscrowd", "difficult"},
	"class":   classNames,
	"reader":  {"reader", "readerid", "radid", "rad", "annotator", "annotatorid", "radiologist", "radiologistid", "observer", "rater", "raterid"},
	"score":   {"score", "scores", "probability", "prob", "confidence", "conf", "confidencescore", "detectionscore", "predscore", "labelscore", "rating", "tprating", "fprating", "llrating", "nlrating", "likelihood", "malignancyscore"},
	"x1":      {"x1", "xmin", "minx", "xstart", "left", "xtl", "bboxx1", "bboxxmin", "boxx1", "xleft", "xtopleft", "topleftx"},
	"y1":      {"y1", "ymin", "miny", "ystart", "top", "ytl", "bboxy1", "bboxymin", "boxy1", "ytop", "ytopleft", "toplefty"},
	"z1":      {"z1", "zmin", "minz", "zstart", "bboxz1", "bboxzmin", "slicestart", "startslice"},
	"x2":      {"x2", "xmax", "maxx", "xend", "xstop", "right", "xbr", "bboxx2", "bboxxmax", "boxx2", "xright", "xbottomright", "bottomrightx"},
	"y2":      {"y2", "ymax", "maxy", "yend", "ystop", "bottom", "ybr", "bboxy2", "bboxymax", "boxy2", "ybottom", "ybottomright", "bottomrighty"},
	"z2":      {"z2", "zmax", "maxz", "zend", "zstop", "bboxz2", "bboxzmax", "sliceend", "endslice"},
	"x":       {"x", "bboxx", "boxx", "xcoord", "xcoordinate", "xpos", "posx"},
	"y":       {"y", "bboxy", "boxy", "ycoord", "ycoordinate", "ypos", "posy"},
	"z":       {"z", "bboxz", "boxz", "zcoord", "zcoordinate", "zpos", "posz", "slice", "sliceindex", "slicenumber"},
	"cx":      {"cx", "xcenter", "centerx", "xcentre", "centrex", "xc", "coordx", "bboxcx", "xmid", "xcentroid", "centroidx"},
	"cy":      {"cy", "ycenter", "centery", "ycentre", "centrey", "yc", "coordy", "bboxcy", "ymid", "ycentroid", "centroidy"},
	"cz":      {"cz", "zcenter", "centerz", "zcentre", "centrez", "zc", "coordz", "bboxcz", "zmid", "zcentroid", "centroidz"},
	"w":       {"w", "width", "bboxw", "bboxwidth", "boxw", "boxwidth", "wx"},
	"h":       {"h", "height", "bboxh", "bboxheight", "boxh", "boxheight", "hy"},
	"d":       {"d", "depth", "bboxd", "bboxdepth", "boxd", "boxdepth", "dz"},
	"radius":  {"radius", "r", "radiusmm", "radiuspx"}, "diameter": {"diameter", "diametermm", "diam", "diameterpx"},
	"mask": {"mask", "maskfile", "maskpath", "maskname", "segmentation", "seg", "segfile", "labelmap", "labelfile", "detectionmap", "heatmap"},
	// voxel is the value that a lesion or a mark has in its mask
	"voxel": {"labelid", "labelvalue", "maskvalue", "maskid", "voxellabel", "componentid"},
	// weight is that of a lesion among those of its image, of JAFROC's sheets
	"weight": {"lesionweight", "weight"},
	// image-weight is how many images one stands for. A bare weight may be a patient's.
	"image-weight": {"imageweight", "caseweight"},
	// lesion names a lesion within its image instead of a place: JAFROC's
	"lesion": {"lesionid"},
	// lists hold a whole box in one cell; box is one whose order the name does not say
	"box":                {"bbox", "box", "bboxes", "boxes", "boundingbox", "boundingboxes", "roi", "rect"},
	"xyxy":               {"x1y1x2y2", "xminyminxmaxymax", "xyxy", "bboxx1y1x2y2", "bboxxyxy", "bboxxminyminxmaxymax", "x0y0x1y1"},
	"xywh":               {"xywh", "xywidthheight", "bboxxywh", "boxxywh", "bboxxywidthheight", "xminyminwidthheight", "x1y1wh"},
	"cxcywh":             {"cxcywh", "bboxcxcywh", "xcenterycenterwidthheight", "xcycwh"},
	"xyxyzz":             {"x1y1x2y2z1z2", "xyxyzz"},
	"xyzxyz":             {"x1y1z1x2y2z2", "xyzxyz"},
	"cxcyczwhd":          {"cxcyczwhd", "cccwhd"},
	"score-xywh":         {"predictionstring"},
	"class-score-xyxy":   {},
	"score-xyxy":         {},
	"class-score-xywh":   {},
	"width-of-the-image": {"imagewidth", "imgwidth", "imwidth", "columns", "cols"}, "height-of-the-image": {"imageheight", "imgheight", "imheight", "rows"},
}

// plain is a column's name as in roleNames.
func plain(name string) string {
	return strings.Map(func(c rune) rune {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return -1
		}
		return unicode.ToLower(c)
	}, name)
}

// imageWords make up the names of columns of images: "Sample ID", ImageFileName, image_ids.
var imageWords = []string{"image", "img", "bild", "picture", "file", "datei", "path", "name", "series", "instance", "uid", "uuid", "identifier", "id",
	"scan", "volume", "vol", "slide", "slice", "case", "fall", "public", "study", "sample", "item", "key", "dicom", "sop", "exam", "accession", "number",
	"subject", "patient", "index", "list"}

// isImageName reports whether a text is a usual name of a column of image ids: made of
// imageWords alone, each in the plural or not.
func isImageName(text string) bool {
	name := plain(text)
	if slices.Contains(roleNames["image"], name) {
		return true
	}
	// parts[i]: the first i bytes are words
	parts := make([]bool, len(name)+1)
	parts[0] = true
	for i := range name {
		for _, word := range imageWords {
			if parts[i] && strings.HasPrefix(name[i:], word) {
				end := i + len(word)
				parts[end] = true
				if strings.HasPrefix(name[end:], "s") {
					parts[end+1] = true
				}
			}
		}
	}
	return name != "" && parts[len(name)]
}

// order says what a region's numbers are.
type order int

const (
	corners order = iota // x1 y1 [z1] x2 y2 [z2]
	sizes                // x1 y1 [z1] and the sides
	centres              // the centre [cx cy cz] and the sides
)

type geometry int

const (
	noGeometry geometry = iota
	box2D
	sliceBox
	box3D
	point2D
	point3D
	maskFile
	listOfMarks // several marks in one cell, of predictions
	namedLesion // no place: a mark names the lesion it hits (JAFROC's tables)
)

// layout says which column of a table means what; -1: there is no such column.
type layout struct {
	image, score, patient, volume, split, ignore, class, reader, voxel, width, height, weight, imageWeight int

	geometry geometry
	order    order
	coords   []int // columns of the coordinates
	names    []string
	list     bool   // coords is one column that holds all numbers
	perm     []int  // places of x1 y1 z1 x2 y2 z2 (or their like) in a list
	marks    string // of a listOfMarks: what one mark's numbers are
	radius   int
	diameter bool // the radius column holds diameters
	luna     bool // a negative diameter means 10 mm
	comma    bool // decimals are written with a comma
	points   bool // or with a point all the same: commas separate the cells

	rest []int // further columns
}

// columns finds columns by role.
type columns struct {
	t        *rowFile
	plain    []string
	taken    []bool
	declared map[string]string
}

// find returns the column of a role, -1 where there is none. It is not taken yet.
func (c *columns) find(role string) int {
	if name, there := c.declared[role]; there {
		if i := slices.Index(c.t.header, name); i >= 0 {
			return i
		}
	}
	for _, name := range roleNames[role] {
		for i, given := range c.plain {
			if given == name && !c.taken[i] && !c.isDeclared(i) {
				return i
			}
		}
	}
	return -1
}

func (c *columns) isDeclared(i int) bool {
	for _, name := range c.declared {
		if name == c.t.header[i] {
			return true
		}
	}
	return false
}

// take returns the column of a role and marks it as used.
func (c *columns) take(role string) int {
	i := c.find(role)
	if i >= 0 {
		c.taken[i] = true
	}
	return i
}

func (c *columns) has(roles ...string) bool {
	for _, r := range roles {
		if c.find(r) < 0 {
			return false
		}
	}
	return true
}

func (o Options) newLayout(t *rowFile) (layout, error) {
	c := &columns{t: t, taken: make([]bool, len(t.header)), declared: o.Columns}
	for i, name := range t.header {
		c.plain = append(c.plain, plain(name))
		if slices.Contains(c.plain[:i], c.plain[i]) && c.plain[i] != "" {
			return layout{}, fmt.Errorf("%s:1: column %q stands twice", t.file, problem.Clip(name, 60))
		}
	}
	l := layout{radius: -1, voxel: -1, comma: o.DecimalComma, points: t.separator == ',' || t.separator == 0}
	if l.image = c.take("image"); l.image < 0 {
		return l, fmt.Errorf("%s:1: no column %q; the header is %q; --columns image=NAME says which it is", t.file, "image", header(t))
	}
	l.score, l.patient, l.volume, l.split, l.ignore = c.take("score"), c.take("patient"), c.take("volume"), c.take("split"), c.take("ignore")
	l.reader, l.class = c.find("reader"), c.find("class")
	l.width, l.height, l.imageWeight = c.find("width-of-the-image"), c.find("height-of-the-image"), c.find("image-weight")
	l.chooseGeometry(c)
	if l.geometry == point2D || l.geometry == point3D {
		if l.radius = c.take("radius"); l.radius < 0 {
			l.radius = c.take("diameter")
			l.diameter = l.radius >= 0
		}
	}
	if l.geometry == maskFile {
		l.voxel = c.take("voxel")
	}
	// a column called weight is anything's elsewhere, a patient's for instance
	if l.weight = -1; l.geometry == namedLesion || slices.Contains(c.plain, "lesionweight") || o.Columns["weight"] != "" {
		l.weight = c.take("weight")
	}
	for i, name := range t.header {
		if !c.taken[i] && !strings.HasPrefix(strings.ToLower(name), "unnamed: ") {
			l.rest = append(l.rest, i)
		}
	}
	return l, nil
}

// forms are the ways to write a region in columns, the fullest first.
var forms = []struct {
	geometry geometry
	order    order
	roles    []string
}{
	{box3D, corners, []string{"x1", "y1", "z1", "x2", "y2", "z2"}},
	{sliceBox, corners, []string{"x1", "y1", "x2", "y2", "z"}},
	{box2D, corners, []string{"x1", "y1", "x2", "y2"}},
	{box3D, corners, []string{"x", "y", "z", "x2", "y2", "z2"}},
	{box2D, corners, []string{"x", "y", "x2", "y2"}},
	{box3D, sizes, []string{"x1", "y1", "z1", "w", "h", "d"}},
	{box3D, sizes, []string{"x", "y", "z", "w", "h", "d"}},
	{box3D, centres, []string{"cx", "cy", "cz", "w", "h", "d"}},
	{sliceBox, sizes, []string{"x1", "y1", "w", "h", "z"}},
	{box2D, sizes, []string{"x1", "y1", "w", "h"}},
	{sliceBox, sizes, []string{"x", "y", "w", "h", "z"}},
	{box2D, sizes, []string{"x", "y", "w", "h"}},
	{sliceBox, centres, []string{"cx", "cy", "w", "h", "z"}},
	{box2D, centres, []string{"cx", "cy", "w", "h"}},
	{point3D, corners, []string{"x", "y", "z"}}, {point3D, corners, []string{"cx", "cy", "cz"}},
	{point2D, corners, []string{"x", "y"}}, {point2D, corners, []string{"cx", "cy"}},
}

// lists are the ways to write a box in one cell; perm says where x1 y1 [z1] x2 y2 [z2] stand.
var lists = map[string]struct {
	geometry geometry
	order    order
	perm     []int
}{
	"xyxy": {box2D, corners, []int{0, 1, 2, 3}}, "xywh": {box2D, sizes, []int{0, 1, 2, 3}}, "cxcywh": {box2D, centres, []int{0, 1, 2, 3}},
	"xyxyzz": {box3D, corners, []int{0, 1, 4, 2, 3, 5}}, "xyzxyz": {box3D, corners, []int{0, 1, 2, 3, 4, 5}}, "cxcyczwhd": {box3D, centres, []int{0, 1, 2, 3, 4, 5}},
}

// markLists are the ways to write several marks in one cell: the numbers of one of them.
var markLists = map[string]struct {
	class bool
	order order
}{"score-xywh": {false, sizes}, "score-xyxy": {false, corners}, "class-score-xyxy": {true, corners}, "class-score-xywh": {true, sizes}}

// chooseGeometry finds the columns of the coordinates.
func (l *layout) chooseGeometry(c *columns) {
	use := func(roles []string) {
		l.names = nil
		for _, role := range roles {
			i := c.take(role)
			l.coords, l.names = append(l.coords, i), append(l.names, c.t.header[i])
		}
	}
	for role, list := range markLists {
		if i := c.find(role); i >= 0 {
			l.geometry, l.order, l.marks, l.list = listOfMarks, list.order, role, true
			use([]string{role})
			if _, said := c.declared[role]; !said {
				l.marks = "" // Kaggle's name does not say whose
			}
			return
		}
	}
	for _, role := range slices.Sorted(maps.Keys(lists)) {
		if c.has(role) {
			l.geometry, l.order, l.perm, l.list = lists[role].geometry, lists[role].order, lists[role].perm, true
			use([]string{role})
			return
		}
	}
	// x0,y0,x1,y1 count the corners from 0
	if at := func(name string) int { return slices.Index(c.plain, name) }; at("x0") >= 0 && at("y0") >= 0 && at("x1") >= 0 && at("y1") >= 0 && at("x2") < 0 {
		l.geometry, l.names = box2D, []string{"x0", "y0", "x1", "y1"}
		for _, name := range l.names {
			l.coords = append(l.coords, at(name))
			c.taken[at(name)] = true
		}
		return
	}
	for _, f := range forms {
		if c.has(f.roles...) {
			// the width and height of points with a radius are the image's
			if f.order == sizes && f.roles[0] == "x" && (c.has("radius") || c.has("diameter")) {
				continue
			}
			l.geometry, l.order = f.geometry, f.order
			l.luna = plain(c.t.header[c.find(f.roles[0])]) == "coordx"
			use(f.roles)
			return
		}
	}
	switch {
	case c.has("mask"):
		l.geometry = maskFile
		use([]string{"mask"})
	case c.has("box"):
		l.geometry, l.list, l.perm = box2D, true, nil // its order is asked of the rows
		use([]string{"box"})
	case c.has("lesion"):
		l.geometry = namedLesion
		use([]string{"lesion"})
	case slices.Contains(c.plain, "fprating"), slices.Contains(c.plain, "nlrating"):
		l.geometry = namedLesion
	}
}

// header is a table's header for messages.
func header(t *rowFile) string { return clip(strings.Join(t.header, ",")) }

// clip bounds what a message quotes.
func clip(text string) string { return problem.Clip(text, 160) }

// named is where a lesion without a place stands: those of one image lie apart, and a mark
// that names one lies on it. Marks that name none lie elsewhere, each by its line.
func (l *layout) named(row []string, line int) (froc.Region, error) {
	if len(l.coords) == 0 {
		return froc.Box(float64(100*line), 1000, float64(100*line+50), 1050), nil
	}
	k, err := l.number(row[l.coords[0]])
	if err != nil || k < 1 || k != math.Trunc(k) {
		return froc.Region{}, fmt.Errorf("%s is %q, want the number of a lesion from 1", l.names[0], clip(row[l.coords[0]]))
	}
	return froc.Box(float64(100*k), 0, float64(100*k)+50, 50), nil
}

// empty reports whether a row has no coordinates at all.
func (l *layout) empty(row []string) bool {
	if l.geometry == namedLesion && len(l.coords) == 1 && row[l.coords[0]] == "0" {
		return true // a normal case
	}
	if l.geometry == maskFile && len(l.coords) == 0 {
		return false // the mask lies beside the table, see besideMasks
	}
	for _, c := range l.coords {
		if !missing(row[c]) {
			return false
		}
	}
	return l.radius < 0 || missing(row[l.radius])
}

// missing reports whether a cell is empty, or says as programs do that it has no value.
func missing(text string) bool {
	switch strings.ToLower(text) {
	case "", "nan", "na", "n/a", "<na>", "none", "null":
		return true
	}
	return false
}

// values reads the row's coordinates in the order x1 y1 [z1] x2 y2 [z2], or their like.
func (l *layout) values(row []string) (v [6]float64, err error) {
	if !l.list {
		for i, c := range l.coords {
			if v[i], err = l.number(row[c]); err != nil {
				return v, fmt.Errorf("%s %w", l.names[i], err)
			}
		}
		return v, nil
	}
	numbers, err := listOf(row[l.coords[0]])
	if err != nil || len(numbers) != len(l.perm) {
		return v, fmt.Errorf("%s is %q, want %d numbers", l.names[0], clip(row[l.coords[0]]), len(l.perm))
	}
	for i, k := range l.perm {
		v[i] = numbers[k]
	}
	return v, nil
}

// listOf reads numbers separated by commas, semicolons or blanks, in brackets or not.
func listOf(text string) ([]float64, error) {
	var out []float64
	for _, part := range strings.FieldsFunc(text, func(c rune) bool { return unicode.IsSpace(c) || strings.ContainsRune("[](){},;", c) }) {
		v, err := number(part)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// place is region, or the place of a lesion that is only named.
func (l *layout) place(row []string, line int) (froc.Region, error) {
	if l.geometry == namedLesion {
		return l.named(row, line)
	}
	return l.region(row)
}

// region reads the row's coordinates. Masks are not read here.
func (l *layout) region(row []string) (froc.Region, error) {
	v, err := l.values(row)
	if err != nil {
		return froc.Region{}, err
	}
	radius := 0.0
	if l.radius >= 0 {
		if radius, err = l.number(row[l.radius]); err != nil {
			return froc.Region{}, fmt.Errorf("radius or diameter %w", err)
		}
		if l.luna && l.diameter && radius < 0 {
			radius = 10 // noduleCADEvaluationLUNA16.py: findings without a size
		}
		if l.diameter {
			radius /= 2
		}
	}
	switch l.geometry {
	case point2D:
		r := froc.Circle(v[0], v[1], radius)
		return r, r.Check()
	case point3D:
		r := froc.Sphere(v[0], v[1], v[2], radius)
		return r, r.Check()
	}
	return boxOf(l.geometry, l.order, v)
}

// boxOf makes a box of its numbers. A box on a slice has the slice behind the others.
func boxOf(g geometry, o order, v [6]float64) (froc.Region, error) {
	n := 2
	if g == box3D {
		n = 3
	}
	for a := range n {
		if side := v[n+a]; o != corners && side < 0 {
			return froc.Region{}, fmt.Errorf("%s is %v, want 0 or more", [...]string{"width", "height", "depth"}[a], side)
		}
		switch o {
		case sizes:
			v[n+a] += v[a]
		case centres:
			half := float64(v[n+a] / 2)
			v[a], v[n+a] = v[a]-half, v[a]+half
		}
	}
	var r froc.Region
	switch g {
	case sliceBox:
		r = froc.SliceBox(v[0], v[1], v[2], v[3], v[4])
	case box3D:
		r = froc.Box3D(v[0], v[1], v[2], v[3], v[4], v[5])
	default:
		r = froc.Box(v[0], v[1], v[2], v[3])
	}
	return r, r.Check()
}

// number reads a finite number as the table writes it.
func (l *layout) number(text string) (float64, error) {
	if !l.comma {
		return number(text)
	}
	if strings.Contains(text, ".") && l.points {
		return number(text)
	} else if strings.Contains(text, ".") {
		return 0, fmt.Errorf("is %q, but a decimal comma was declared", clip(text))
	}
	if before, after, _ := strings.Cut(text, ","); l.points && len(after) == 3 && strings.Trim(before, "+-0 ") != "" {
		return 0, fmt.Errorf("is %q: a decimal comma or thousands? Write it without the comma, or separate the cells by semicolons", clip(text))
	}
	return number(strings.Replace(text, ",", ".", 1))
}

// number reads a finite number.
func number(text string) (float64, error) {
	if v, ok := table.Decimal(text); ok {
		return v, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		// Excel pads and people leave blanks: only then is a second try worth its time
		if v, err = strconv.ParseFloat(strings.TrimSpace(text), 64); err != nil {
			if _, err := strconv.ParseFloat(strings.Replace(strings.TrimSpace(text), ",", ".", 1), 64); err == nil {
				return 0, fmt.Errorf("is %q, want a number with a point; --decimal-comma reads tables with decimal commas", clip(text))
			}
			return 0, fmt.Errorf("is %q, want a number", clip(text))
		}
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("is %q, want a finite number", clip(text))
	}
	return v, nil
}

// flag reads a yes or no.
func flag(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "0", "0.0", "false", "no", "f", "n":
		return false, nil
	case "1", "1.0", "true", "yes", "t", "y":
		return true, nil
	}
	return false, fmt.Errorf("ignore is %q, want 0 or 1", clip(text))
}

func finite(score float64) error {
	if math.IsNaN(score) || math.IsInf(score, 0) {
		return fmt.Errorf("score is %v, want a finite number", score)
	}
	return nil
}
