package export

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// fileName is a volume's id as the beginning of a file's name.
func fileName(id string) string { return strings.NewReplacer("/", "_", `\`, "_").Replace(id) }

// writeJSON writes out/name.
func writeJSON(out, name string, v any) (string, error) {
	data, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(out, name)
	return path, atomicfile.WriteBytes(path, append(data, '\n'))
}

// eachVolume calls write for the findings of every volume, the best first, and collects the paths.
// A finding of an image that is no slice of a volume is an error.
func eachVolume(f *Findings, kind string, write func(volume string, findings []Finding) ([]string, error)) (paths []string, err error) {
	names, byVolume := f.byVolume()
	for _, name := range names {
		if first := byVolume[name][0].Key; first.Stack == "" || first.StoredRAS == nil {
			return nil, problem.At(f.Path, 0, "image", "%q is no volume that says where it lies in the patient: %s are of volumes", problem.Clip(name, 60), kind)
		}
	}
	for _, name := range names {
		written, err := write(name, byVolume[name])
		if paths = append(paths, written...); err != nil {
			return paths, err
		}
	}
	return paths, nil
}

// classIndex numbers the labels: as the data know them, others behind.
func classIndex(d *dataset.Dataset, f *Findings) (classes []string) {
	if len(d.Labels) > 0 {
		classes = slices.Clone(d.Labels[0].Classes)
	}
	for _, one := range f.List {
		if !slices.Contains(classes, one.Label) {
			classes = append(classes, one.Label)
		}
	}
	return classes
}

// WriteLabelMaps writes a label volume VOLUME.nii on the grid of every volume with findings: the
// voxels of the n-th best box are n, where boxes overlap the better one's. VOLUME.json beside it
// says what each is: instances (class numbers, as nnDetection has them), labels and scores.
func WriteLabelMaps(f *Findings, d *dataset.Dataset, out string) ([]string, error) {
	classes := classIndex(d, f)
	return eachVolume(f, "label maps", func(volume string, findings []Finding) ([]string, error) {
		source := findings[0].Key.Images[dataset.Volume]
		h, err := nifti.ReadHeader(source)
		if err != nil {
			return nil, problem.At(source, 0, "", "%v", err)
		}
		if len(findings) > math.MaxInt16 {
			return nil, problem.At(f.Path, 0, "", "%q has %d findings, a label map holds %d: raise --min-score", problem.Clip(volume, 60), len(findings), math.MaxInt16)
		}
		voxels := make([]int16, h.Dim[0]*h.Dim[1]*h.Dim[2])
		about := struct {
			Instances map[string]int     `json:"instances"`
			Labels    map[string]string  `json:"labels"`
			Scores    map[string]float64 `json:"scores"`
		}{map[string]int{}, map[string]string{}, map[string]float64{}}
		for n := len(findings) - 1; n >= 0; n-- {
			p := findings[n].place()
			first, last := inside(h.Dim, p.LowVoxel, p.TopVoxel)
			for k := first[2]; k <= last[2]; k++ {
				for j := first[1]; j <= last[1]; j++ {
					at := (k*h.Dim[1] + j) * h.Dim[0]
					for i := first[0]; i <= last[0]; i++ {
						voxels[at+i] = int16(n + 1)
					}
				}
			}
			key := strconv.Itoa(n + 1)
			about.Instances[key], about.Labels[key], about.Scores[key] = slices.Index(classes, findings[n].Label), findings[n].Label, findings[n].Score
		}
		path := filepath.Join(out, fileName(volume)+".nii")
		if err := nifti.Write(path, &nifti.Image{Dim: h.Dim, Affine: h.Affine, Int16: voxels}); err != nil {
			return nil, err
		}
		beside, err := writeJSON(out, fileName(volume)+".json", about)
		return []string{path, beside}, err
	})
}

// markup is a region of interest in 3D Slicer's markups schema 1.0.3.
type markup struct {
	Type             string     `json:"type"`
	Name             string     `json:"name"`
	CoordinateSystem string     `json:"coordinateSystem"`
	CoordinateUnits  string     `json:"coordinateUnits"`
	Description      string     `json:"description"`
	Locked           bool       `json:"locked"`
	LabelFormat      string     `json:"labelFormat"`
	ControlPoints    []point    `json:"controlPoints"`
	ROIType          string     `json:"roiType"`
	Center           [3]float64 `json:"center"`
	// Orientation has the axes of the box as its columns, row by row.
	Orientation [9]float64 `json:"orientation"`
	Size        [3]float64 `json:"size"`
	InsideOut   bool       `json:"insideOut"`
}

type point struct {
	ID       string     `json:"id"`
	Label    string     `json:"label"`
	Position [3]float64 `json:"position"`
}

// WriteSlicer writes VOLUME.mrk.json for 3D Slicer: a region of interest per finding in mm
// towards left, posterior, head. Boxes lie along the axes of the volume.
func WriteSlicer(f *Findings, _ *dataset.Dataset, out string) ([]string, error) {
	return eachVolume(f, "markups", func(volume string, findings []Finding) ([]string, error) {
		doc := struct {
			Schema  string   `json:"@schema"`
			Markups []markup `json:"markups"`
		}{Schema: "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"}
		for n := range findings {
			one := &findings[n]
			m := markup{Type: "ROI", Name: fmt.Sprintf("%s %d", one.Label, n+1), CoordinateSystem: "LPS", CoordinateUnits: "mm",
				Description: fmt.Sprintf("%s, score %.4g", one.Label, one.Score), LabelFormat: "%N", ROIType: "Box"}
			m.place(one)
			m.ControlPoints = []point{{"1", m.Name, m.Center}}
			doc.Markups = append(doc.Markups, m)
		}
		path, err := writeJSON(out, fileName(volume)+".mrk.json", doc)
		return []string{path}, err
	})
}

// place puts the box along the volume's axes; along the patient's where the volume is sheared
// by a tilted gantry.
func (m *markup) place(f *Finding) {
	p, a := f.place(), f.Key.StoredRAS
	lps := func(v [3]float64) [3]float64 { return [3]float64{-v[0], -v[1], v[2]} }
	var axes [3][3]float64
	for c := range 3 {
		axis := lps([3]float64{a[c], a[4+c], a[8+c]})
		length := math.Hypot(math.Hypot(axis[0], axis[1]), axis[2])
		m.Size[c] = (p.TopVoxel[c] - p.LowVoxel[c]) * length
		for r := range 3 {
			axes[c][r] = axis[r] / length
		}
	}
	dot := func(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
	if math.Abs(dot(axes[0], axes[1]))+math.Abs(dot(axes[0], axes[2]))+math.Abs(dot(axes[1], axes[2])) > 1e-3 {
		axes = [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
		for c := range 3 {
			m.Size[c] = p.TopLPS[c] - p.LowLPS[c]
		}
	}
	for r := range 3 {
		m.Center[r] = (p.LowLPS[r] + p.TopLPS[r]) / 2
		for c := range 3 {
			m.Orientation[3*r+c] = axes[c][r]
		}
	}
}

// WriteNNDetection writes VOLUME_boxes.json with nnDetection's names: pred_boxes (x1 y1 x2 y2 z1
// z2 in columns, rows and slices as displayed, or x1 y1 x2 y2 of an image), pred_scores, pred_labels.
func WriteNNDetection(f *Findings, d *dataset.Dataset, out string) (paths []string, err error) {
	classes := classIndex(d, f)
	names, byVolume := f.byVolume()
	for _, volume := range names {
		doc := struct {
			Boxes   [][]float64 `json:"pred_boxes"`
			Scores  []float64   `json:"pred_scores"`
			Labels  []int       `json:"pred_labels"`
			Classes []string    `json:"classes"`
		}{Classes: classes}
		for _, one := range byVolume[volume] {
			b := []float64{one.X1, one.Y1, one.X2, one.Y2}
			if one.Key.Stack != "" {
				b = append(b, float64(one.Z1), float64(one.Z2))
			}
			doc.Boxes, doc.Scores, doc.Labels = append(doc.Boxes, b), append(doc.Scores, one.Score), append(doc.Labels, slices.Index(classes, one.Label))
		}
		path, err := writeJSON(out, fileName(volume)+"_boxes.json", doc)
		if err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

type cocoImage struct {
	ID       int    `json:"id"`
	FileName string `json:"file_name"`
	Width    int    `json:"width"`
	Height   int    `json:"height"`
}

type cocoBox struct {
	ID         int        `json:"id,omitempty"`
	ImageID    int        `json:"image_id"`
	CategoryID int        `json:"category_id"`
	BBox       [4]float64 `json:"bbox"`
	Area       float64    `json:"area"`
	Score      *float64   `json:"score,omitempty"`
	IsCrowd    int        `json:"iscrowd"`
	Ignore     int        `json:"ignore,omitempty"`
}

type cocoCategory struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

func newCOCOBox(image, category int, x1, y1, x2, y2 float64) cocoBox {
	return cocoBox{ImageID: image, CategoryID: category, BBox: [4]float64{x1, y1, x2 - x1, y2 - y1}, Area: (x2 - x1) * (y2 - y1)}
}

// WriteCOCO writes annotations.json, the images and boxes of the splits in which something was
// found (of all where nothing was), and results.json, the boxes found, in COCO's formats: lesions
// that were not searched would count as missed. Boxes are of one image each; those of several slices are an error.
func WriteCOCO(f *Findings, d *dataset.Dataset, out string) ([]string, error) {
	classes := classIndex(d, f)
	annotations := struct {
		Images      []cocoImage    `json:"images"`
		Annotations []cocoBox      `json:"annotations"`
		Categories  []cocoCategory `json:"categories"`
	}{[]cocoImage{}, []cocoBox{}, []cocoCategory{}}
	for n, name := range classes {
		annotations.Categories = append(annotations.Categories, cocoCategory{n + 1, name})
	}
	ids, searched := map[string]int{}, map[string]bool{}
	for _, one := range f.List {
		searched[one.Key.Split] = true
	}
	for n := range d.Cases {
		c := &d.Cases[n]
		if len(searched) > 0 && !searched[c.Split] {
			continue
		}
		ids[c.ID] = n + 1
		annotations.Images = append(annotations.Images, cocoImage{n + 1, c.ID, c.Size[1], c.Size[0]})
		add := func(b cocoBox) {
			b.ID = len(annotations.Annotations) + 1
			annotations.Annotations = append(annotations.Annotations, b)
		}
		for _, b := range c.Boxes {
			add(newCOCOBox(n+1, b.Class+1, b.X1, b.Y1, b.X2, b.Y2))
		}
		for _, r := range c.Ignore {
			x1, y1, x2, y2 := r.Bounds()
			b := newCOCOBox(n+1, 1, x1, y1, x2, y2)
			b.IsCrowd, b.Ignore = 1, 1
			add(b)
		}
	}
	results := []cocoBox{}
	for _, one := range f.List {
		if one.Z1 != one.Z2 {
			return nil, problem.At(f.Path, 0, "", "the finding %s of %q lies on slices %d to %d; COCO is of single images: give the boxes of predict --out", one.text(), problem.Clip(one.Volume(), 60), one.Z1, one.Z2)
		}
		b := newCOCOBox(ids[one.Key.ID], slices.Index(classes, one.Label)+1, one.X1, one.Y1, one.X2, one.Y2)
		score := one.Score
		b.Score = &score
		results = append(results, b)
	}
	truth, err := writeJSON(out, "annotations.json", annotations)
	if err != nil {
		return nil, err
	}
	found, err := writeJSON(out, "results.json", results)
	return []string{truth, found}, err
}
