package synth

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"fmt"
	"image"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// DeepLesionOptions steer DeepLesion.
type DeepLesionOptions struct {
	// Patients and KeySlices (per patient); 0 means 240 and 2.
	Patients, KeySlices int
	// Size is the side of the square slices in pixels, 96 to 512; 0 means 128. What
	// the slices show grows with it, in mm it stays the same.
	Size int
	// Missing is the probability that a report leaves an attribute out; negative
	// means none, 0 means 0.3.
	Missing float64
	// Context is "", or Order: then lesions and look-alikes differ in the order of their slices
	// alone, and reports say nothing of it; or Organ: then they differ in the organ that they lie
	// in, and reports say which one counts.
	Context string
	Seed    uint64
}

// Summary says what was written.
type Summary struct {
	Patients int            `json:"patients"`
	Cases    map[string]int `json:"cases"`
	Lesions  map[string]int `json:"lesions,omitempty"`
	Files    int            `json:"image_files"`
}

// The world of the synthetic slices, in mm and Hounsfield units.
const (
	widthMM        = 102.4 // of a slice: 0.8 mm per pixel at 128 pixels
	reachMM        = 6     // slices are written this far on either side of a key slice
	noiseHU        = 18
	minContrastHU  = 220
	maxContrastHU  = 280
	minRadiusMM    = 4    // 10 px diameter at 128 px
	maxRadiusMM    = 9.6  // 24 px diameter at 128 px
	growthPerMM    = 0.08 // of a cone's radius, with Order
	minHalfDepthMM = 2.5
	maxHalfDepthMM = 4.5
	paddingPixels  = 5 // DeepLesion's boxes add this to the RECIST diameters
)

// slice distances and how often they occur.
var intervalsMM = []struct {
	mm, share float64
}{{1, 0.15}, {2, 0.45}, {5, 0.40}}

// What the report says, given whether the patient's lesions are hyperdense. The
// first probability is for hyperdense, the second for hypodense lesions.
var (
	primaries = []weighted{
		{"renal cell carcinoma", 0.38, 0.04}, {"neuroendocrine tumour", 0.30, 0.04}, {"melanoma", 0.18, 0.06},
		{"colorectal carcinoma", 0.06, 0.38}, {"pancreatic carcinoma", 0.04, 0.30}, {"lymphoma", 0.04, 0.18},
	}
	phases = []weighted{{"arterial", 0.60, 0.15}, {"portal venous", 0.30, 0.55}, {"unenhanced", 0.10, 0.30}}
	// meanAges and maleShares depend on the primary, so that age and gender carry a
	// little of the truth as well.
	meanAges   = map[string]float64{"renal cell carcinoma": 62, "neuroendocrine tumour": 58, "melanoma": 52, "colorectal carcinoma": 66, "pancreatic carcinoma": 69, "lymphoma": 47}
	maleShares = map[string]float64{"renal cell carcinoma": 0.68, "neuroendocrine tumour": 0.5, "melanoma": 0.55, "colorectal carcinoma": 0.54, "pancreatic carcinoma": 0.52, "lymphoma": 0.56}
)

type weighted struct {
	name        string
	hyper, hypo float64
}

func draw(rng *rand.Rand, values []weighted, hyper bool) string {
	u := rng.Float64()
	for _, v := range values {
		p := v.hypo
		if hyper {
			p = v.hyper
		}
		if u < p {
			return v.name
		}
		u -= p
	}
	return values[len(values)-1].name
}

func densityName(hyper bool) string {
	if hyper {
		return "hyperdense"
	}
	return "hypodense"
}

// body is something to be found in a key slice, in mm from the slice's centre.
type body struct {
	kind              string // lesion, harmless or vessel
	hyper             bool
	x, y, long, short float64 // centre and half axes
	angle             float64
	halfDepth         float64 // 0 for vessels and cones, which run through
	growth            float64 // of a cone's radius, share of that on the key slice per mm
	z                 float64 // centre in z relative to the key slice
	driftX, driftY    float64 // of a vessel, mm per mm
	contrastHU        float64
	cosine, sine      float64
	edgeMM            float64
}

// DeepLesion writes a synthetic data set into the new folder out in the layout of
// DeepLesion. It fails when out exists and is not empty; what was written until then
// is removed again.
func DeepLesion(ctx context.Context, out string, opt DeepLesionOptions) (*Summary, error) {
	setDefault(&opt.Patients, 240)
	setDefault(&opt.KeySlices, 2)
	setDefault(&opt.Size, 128)
	setDefault(&opt.Missing, 0.3)
	if opt.Context != "" && opt.Context != Order && opt.Context != Organ {
		return nil, fault.Errorf(fault.Usage, "synthetic DeepLesion: context %q, want %s, %s or none", opt.Context, Order, Organ)
	}
	if opt.Patients < 3 || opt.Patients > 99999 || opt.KeySlices < 1 || opt.KeySlices > 99 || opt.Size < 96 || opt.Size > 512 || opt.Missing > 1 {
		return nil, fault.Errorf(fault.Usage, "synthetic DeepLesion: %d patients, %d key slices each, size %d, missing %g: want 3 to 99999, 1 to 99, 96 to 512, at most 1",
			opt.Patients, opt.KeySlices, opt.Size, opt.Missing)
	}
	splits := splitPatients(opt.Patients, opt.Seed)
	summary := &Summary{Patients: opt.Patients, Cases: map[string]int{}, Lesions: map[string]int{}}
	err := atomicfile.Folder(out, func(dir string) error {
		made := make([][]*keySlice, opt.Patients)
		if err := each(ctx, opt.Patients, func(i int) (err error) {
			made[i], err = writePatient(ctx, dir, i, splits[i], opt)
			return err
		}); err != nil {
			return err
		}
		if err := writeDeepLesionTables(dir, opt.reportColumns(), made, summary); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "README.txt"), []byte(deepLesionReadme(opt, summary)), 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("synthetic DeepLesion: %w", err)
	}
	return summary, nil
}

// keySlice is a written key slice and its report.
type keySlice struct {
	file, split    string
	patient, study int
	number, reach  int
	intervalMM     float64
	pixelMM        float64
	size           int
	bodies         []body
	// told is the report as written, truth the report without gaps.
	told, truth map[string]string
	// liver: the left half is denser tissue.
	liver bool
	age   int
	male  bool
	files int
}

// organs are the values of Organ's column, that of the left half first.
var organs = [2]string{"liver", "other"}

// reportColumns are those of attributes.csv.
func (o DeepLesionOptions) reportColumns() []string {
	columns := []string{"density", "primary", "contrast_phase"}
	if o.Context == Organ {
		return append([]string{"organ"}, columns...)
	}
	return columns
}

func writePatient(ctx context.Context, dir string, index int, split string, opt DeepLesionOptions) ([]*keySlice, error) {
	rng := rand.New(rand.NewPCG(opt.Seed, uint64(index)+1))
	hyper := rng.Float64() < 0.5
	primary := draw(rng, primaries, hyper)
	age := int(max(18, min(93, math.Round(meanAges[primary]+10*rng.NormFloat64()))))
	male := rng.Float64() < maleShares[primary]
	var out []*keySlice
	for study := range opt.KeySlices {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		k := &keySlice{split: split, patient: index + 1, study: study + 1, number: 20 + rng.IntN(80), age: age, male: male,
			size: opt.Size, pixelMM: widthMM / float64(opt.Size), truth: map[string]string{}, told: map[string]string{}}
		u := rng.Float64()
		for _, v := range intervalsMM {
			k.intervalMM = v.mm
			if u -= v.share; u < 0 {
				break
			}
		}
		k.reach = int(math.Ceil(reachMM / k.intervalMM))
		k.truth["density"], k.truth["primary"], k.truth["contrast_phase"] = densityName(hyper), primary, draw(rng, phases, hyper)
		organ := 0
		if opt.Context == Organ {
			organ = rng.IntN(2)
			k.liver, k.truth["organ"] = true, organs[organ]
		}
		for _, name := range opt.reportColumns() {
			if rng.Float64() >= opt.Missing {
				k.told[name] = k.truth[name]
			}
		}
		k.bodies = place(rng, hyper, opt.Context, organ)
		if err := k.write(dir, rng); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

// place lays lesions, harmless look-alikes of the other density and vessels into the
// body so that their boxes do not touch. With cones look-alikes have the lesions' density: a lesion
// becomes wider from slice to slice, a look-alike narrower. With Organ, too, they have one density,
// and lesions lie in the half of the given organ, look-alikes in the other one.
func place(rng *rand.Rand, hyper bool, context string, organ int) []body {
	cones := context == Order
	type want struct {
		kind  string
		hyper bool
	}
	// Lesions and harmless blobs follow one law, so that their numbers tell nothing.
	wanted := []want{{"lesion", hyper}, {"harmless", !hyper}, {"vessel", rng.Float64() < 0.5}}
	for _, more := range []want{{"lesion", hyper}, {"harmless", !hyper}, {"vessel", rng.Float64() < 0.5}} {
		if rng.Float64() < 0.35 {
			wanted = append(wanted, more)
		}
	}
	if context != "" {
		wanted = slices.DeleteFunc(wanted, func(w want) bool { return w.kind == "vessel" })
		for i := range wanted {
			wanted[i].hyper = hyper
		}
	}
	rng.Shuffle(len(wanted), func(i, j int) { wanted[i], wanted[j] = wanted[j], wanted[i] })
	var bodies []body
	for _, w := range wanted {
		for range 1000 { // there is room for six
			long := minRadiusMM + (maxRadiusMM-minRadiusMM)*math.Pow(rng.Float64(), 1.3)
			b := body{kind: w.kind, hyper: w.hyper, long: long, short: long * (0.7 + 0.3*rng.Float64()), angle: math.Pi * rng.Float64(),
				contrastHU: minContrastHU + (maxContrastHU-minContrastHU)*rng.Float64(), edgeMM: 0.5}
			if !w.hyper {
				b.contrastHU = -b.contrastHU
			}
			switch {
			case cones:
				b.growth = growthPerMM
				if w.kind == "harmless" {
					b.growth = -growthPerMM
				}
			case w.kind == "vessel":
				b.driftX, b.driftY = 0.1*rng.NormFloat64(), 0.1*rng.NormFloat64()
			default:
				b.halfDepth = minHalfDepthMM + (maxHalfDepthMM-minHalfDepthMM)*rng.Float64()
				b.z = 0.4 * rng.NormFloat64()
				b.z = max(-1, min(b.z, 1))
			}
			// Inside the body's ellipse and in front of the spine.
			r, phi := math.Sqrt(rng.Float64()), 2*math.Pi*rng.Float64()
			b.x, b.y = 31*r*math.Cos(phi), -3+21*r*math.Sin(phi)
			if math.Hypot(b.x, b.y-spineY) < spineRadius+b.long+2 {
				continue
			}
			counts := b.x < 0 == (organ == 0)
			if context == Organ && (math.Abs(b.x) < b.long || counts != (w.kind == "lesion")) {
				continue
			}
			free := true
			for _, other := range bodies {
				free = free && math.Hypot(b.x-other.x, b.y-other.y) > b.long+other.long+3
			}
			if free {
				b.cosine, b.sine = math.Cos(b.angle), math.Sin(b.angle)
				bodies = append(bodies, b)
				break
			}
		}
	}
	return bodies
}

const (
	spineY      = 29.0
	spineRadius = 6.5
	liverHU     = 60 // of the left half above the other, with Organ
)

// strength is the share of the body's contrast at a point, 0 to 1.
func (b *body) strength(x, y, z float64) float64 {
	scale := 1.0
	cx, cy := b.x, b.y
	switch {
	case b.growth != 0:
		scale = max(0.2, min(1+b.growth*z, 1.8))
	case b.kind == "vessel":
		cx, cy = cx+b.driftX*z, cy+b.driftY*z
	default:
		t := (z - b.z) / b.halfDepth
		if t <= -1 || t >= 1 {
			return 0
		}
		scale = math.Sqrt(1 - t*t)
	}
	dx, dy := x-cx, y-cy
	reach := b.long*max(1, scale) + 3*b.edgeMM
	if dx*dx+dy*dy > reach*reach {
		return 0
	}
	u, v := (dx*b.cosine+dy*b.sine)/b.long, (-dx*b.sine+dy*b.cosine)/b.short
	inside := (scale - math.Hypot(u, v)) * b.short / b.edgeMM // edge widths from the border
	return 1 / (1 + math.Exp(-2*inside))
}

// anatomy is what all slices of a stack share, drawn once per key slice.
type anatomy struct {
	halfWidth, halfHeight float64
	fat                   float64
	leftHU                float64 // of the left half above the other
	organs                []body
	waves                 [][5]float64 // texture: x, y, z frequency per mm, phase, HU
}

func drawAnatomy(rng *rand.Rand) *anatomy {
	a := &anatomy{halfWidth: 45 + 3*rng.Float64(), halfHeight: 36 + 3*rng.Float64(), fat: 2.5 + 2*rng.Float64()}
	for range 3 {
		long := 8 + 8*rng.Float64()
		angle := math.Pi * rng.Float64()
		a.organs = append(a.organs, body{kind: "organ", halfDepth: 60, x: 24 * (2*rng.Float64() - 1), y: 16 * (2*rng.Float64() - 1),
			long: long, short: long * (0.6 + 0.3*rng.Float64()), cosine: math.Cos(angle), sine: math.Sin(angle), edgeMM: 1,
			contrastHU: 15 + 30*rng.Float64()})
	}
	for range 8 {
		phi, f := 2*math.Pi*rng.Float64(), 2*math.Pi/(8+20*rng.Float64())
		a.waves = append(a.waves, [5]float64{f * math.Cos(phi), f * math.Sin(phi), 2 * math.Pi / (20 + 40*rng.Float64()), 2 * math.Pi * rng.Float64(), 5})
	}
	return a
}

// tissue is the Hounsfield units of the background at a point.
func (a *anatomy) tissue(x, y, z float64) float64 {
	r := math.Hypot(x/a.halfWidth, y/a.halfHeight)
	switch {
	case r > 1:
		return -1000
	case (1-r)*a.halfHeight < a.fat:
		return -95
	}
	hu := 45.0
	if x < 0 {
		hu += a.leftHU
	}
	for i := range a.organs {
		hu += a.organs[i].contrastHU * a.organs[i].strength(x, y, z)
	}
	if d := math.Hypot(x, y-spineY); d < spineRadius {
		hu = 380 + 120*min(1, (spineRadius-d)/1.5)
		if d < spineRadius/3 {
			hu = 180
		}
	}
	return hu
}

// write renders the stack around the key slice.
func (k *keySlice) write(dir string, rng *rand.Rand) error {
	series := fmt.Sprintf("%06d_%02d_01", k.patient, k.study)
	k.file = fmt.Sprintf("%s_%03d.png", series, k.number)
	folder := filepath.Join(dir, "Images_png", series)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	a := drawAnatomy(rng)
	if k.liver {
		a.leftHU = liverHU
	}
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	var buffer bytes.Buffer
	for offset := -k.reach; offset <= k.reach; offset++ {
		buffer.Reset()
		if err := encoder.Encode(&buffer, k.render(a, float64(offset)*k.intervalMM, rng)); err != nil {
			return err
		}
		name := filepath.Join(folder, fmt.Sprintf("%03d.png", k.number+offset))
		if err := os.WriteFile(name, buffer.Bytes(), 0o644); err != nil {
			return err
		}
		k.files++
	}
	return nil
}

// render draws the slice z mm from the key slice as 16-bit grey, HU + 32768.
func (k *keySlice) render(a *anatomy, z float64, rng *rand.Rand) *image.Gray16 {
	img := image.NewGray16(image.Rect(0, 0, k.size, k.size))
	texture := make([]float64, k.size)
	for py := range k.size {
		y := k.mm(py)
		for px := range texture {
			texture[px] = 0
		}
		for _, w := range a.waves {
			// sin(ax + b) row by row with the angle-addition formula.
			s, c := math.Sincos(w[0]*k.mm(0) + w[1]*y + w[2]*z + w[3])
			ds, dc := math.Sincos(w[0] * k.pixelMM)
			for px := range texture {
				texture[px] += w[4] * s
				s, c = s*dc+c*ds, c*dc-s*ds
			}
		}
		for px := range k.size {
			x := k.mm(px)
			hu := a.tissue(x, y, z)
			if hu > -1000 {
				hu += texture[px]
			}
			for i := range k.bodies {
				if b := &k.bodies[i]; b.contrastHU != 0 {
					hu += b.contrastHU * b.strength(x, y, z)
				}
			}
			hu += noiseHU * rng.NormFloat64()
			v := math.Round(max(-1024, min(hu, 3071)))
			binary.BigEndian.PutUint16(img.Pix[py*img.Stride+2*px:], uint16(int(v)+32768))
		}
	}
	return img
}

// mm is the position of a pixel's centre relative to the slice's centre.
func (k *keySlice) mm(pixel int) float64 { return (float64(pixel) - float64(k.size-1)/2) * k.pixelMM }

// pixel is the inverse of mm.
func (k *keySlice) pixel(mm float64) float64 { return mm/k.pixelMM + float64(k.size-1)/2 }

// outline returns the end points of the two diameters on the key slice (long axis
// first) and the box around them, in 0-based pixels.
func (k *keySlice) outline(b *body) (recist [8]float64, box [4]float64) {
	scale := 1.0
	if b.halfDepth > 0 {
		t := b.z / b.halfDepth
		scale = math.Sqrt(1 - t*t)
	}
	long, short := b.long*scale, b.short*scale
	points := [4][2]float64{{b.x - long*b.cosine, b.y - long*b.sine}, {b.x + long*b.cosine, b.y + long*b.sine},
		{b.x + short*b.sine, b.y - short*b.cosine}, {b.x - short*b.sine, b.y + short*b.cosine}}
	box = [4]float64{math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)}
	for i, p := range points {
		x, y := k.pixel(p[0]), k.pixel(p[1])
		recist[2*i], recist[2*i+1] = x, y
		box = [4]float64{min(box[0], x-paddingPixels), min(box[1], y-paddingPixels), max(box[2], x+paddingPixels), max(box[3], y+paddingPixels)}
	}
	return recist, box
}

func list(decimals int, values ...float64) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = strconv.FormatFloat(v, 'f', decimals, 64)
	}
	return strings.Join(parts, ", ")
}

var deepLesionHeader = []string{"File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index",
	"Measurement_coordinates", "Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location",
	"Coarse_lesion_type", "Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size", "DICOM_windows",
	"Patient_gender", "Patient_age", "Train_Val_Test"}

func writeDeepLesionTables(dir string, reportColumns []string, made [][]*keySlice, summary *Summary) error {
	info := [][]string{deepLesionHeader}
	attributes := [][]string{append([]string{"File_name"}, reportColumns...)}
	truth := [][]string{append(append([]string{"File_name"}, reportColumns...), "kind", "shown_density", "x1", "y1", "x2", "y2")}
	for _, patient := range made {
		for _, k := range patient {
			summary.Cases[k.split]++
			summary.Files += k.files
			report, full := []string{k.file}, []string{k.file}
			for _, name := range reportColumns {
				report, full = append(report, k.told[name]), append(full, k.truth[name])
			}
			attributes = append(attributes, report)
			for i := range k.bodies {
				b := &k.bodies[i]
				recist, box := k.outline(b)
				truth = append(truth, append(append([]string{}, full...), b.kind, densityName(b.hyper),
					list(3, box[0]), list(3, box[1]), list(3, box[2]), list(3, box[3])))
				if b.kind == "lesion" {
					summary.Lesions[k.split]++
					info = append(info, k.row(b, recist, box))
				}
			}
		}
	}
	for name, rows := range map[string][][]string{"DL_info.csv": info, "attributes.csv": attributes, "synthetic_truth.csv": truth} {
		if err := writeCSV(filepath.Join(dir, name), rows); err != nil {
			return err
		}
	}
	return nil
}

// row is the lesion's line of DL_info.csv, which counts pixels from 1.
func (k *keySlice) row(b *body, recist [8]float64, box [4]float64) []string {
	for i := range recist {
		recist[i]++
	}
	long := math.Hypot(recist[2]-recist[0], recist[3]-recist[1])
	short := math.Hypot(recist[6]-recist[4], recist[7]-recist[5])
	size := float64(k.size)
	kind := "2" // abdomen
	if k.split == "train" {
		kind = "-1" // as in DeepLesion
	}
	gender := "F"
	if k.male {
		gender = "M"
	}
	return []string{k.file, strconv.Itoa(k.patient), strconv.Itoa(k.study), "1", strconv.Itoa(k.number),
		list(3, recist[:]...), list(3, box[0]+1, box[1]+1, box[2]+1, box[3]+1), list(4, long, short),
		list(6, (k.pixel(b.x)+1)/size, (k.pixel(b.y)+1)/size, 0.5), kind, "0",
		fmt.Sprintf("%d, %d", k.number-k.reach, k.number+k.reach), fmt.Sprintf("%s, %s, %s", list(6, k.pixelMM), list(6, k.pixelMM), strconv.FormatFloat(k.intervalMM, 'g', -1, 64)),
		fmt.Sprintf("%d, %d", k.size, k.size), "-175, 275", gender, fmt.Sprintf("%d.0", k.age),
		map[string]string{"train": "1", "val": "2", "test": "3"}[k.split]}
}

// deepLesionHead begins every README.txt of the layout.
func deepLesionHead(o DeepLesionOptions, s *Summary) string {
	context := ""
	if o.Context != "" {
		context = " --context " + o.Context
	}
	return fmt.Sprintf(`SYNTHETIC DATA. Nothing here was seen in a patient.

Computer-made CT-like slices in the layout of DeepLesion (DL_info.csv, Images_png,
16-bit PNG, Hounsfield units + 32768), written by "alignedfusion data synth%s".

seed %d, %d patients, %d key slices each, %d x %d pixels of %.3f mm
key slices: train %d, val %d, test %d; lesions: train %d, val %d, test %d (split by patient)

What is in a slice
`, context, o.Seed, o.Patients, o.KeySlices, o.Size, o.Size, widthMM/float64(o.Size),
		s.Cases["train"], s.Cases["val"], s.Cases["test"], s.Lesions["train"], s.Lesions["val"], s.Lesions["test"])
}

func deepLesionReadme(opt DeepLesionOptions, s *Summary) string {
	switch opt.Context {
	case Order:
		return orderReadme(opt, s)
	case Organ:
		return organReadme(opt, s)
	}
	return deepLesionHead(opt, s) + fmt.Sprintf(`  lesion     1 or 2 per key slice: an ellipsoid of 8 to 19 mm across and 5 to 9 mm deep
  harmless   1 or 2 ellipsoids with the same shapes, of the other density
  vessel     1 or 2 tubes of either density with the cross-section of a lesion that run
             through all slices: only neighbouring slices tell them from lesions
  Density is hyperdense (+%d to +%d HU) or hypodense (as much below); edges, noise and
  texture are the same for all. Slices are 1, 2 or 5 mm apart.

What the report knows (attributes.csv)
  In each patient one density is the lesion's and the other one is harmless, with equal
  chance. The slices do not show which: only the report does.
    density         says it outright
    primary         follows it: the likelier primary tumours differ (86 %% of patients)
    contrast_phase  follows it less
    age, gender     (DL_info.csv) depend a little on the primary tumour
  Each of density, primary and contrast_phase is left out of a report with probability
  %.2f, independently of everything (MCAR); an empty cell is missing. So a detector
  without the report must take both densities for lesions, and where density is missing
  its reconstruction from primary and contrast_phase pays.

synthetic_truth.csv holds the report without gaps and every object drawn, in 0-based
pixels; it is not read by the program.
`, minContrastHU, maxContrastHU, max(0, opt.Missing))
}

func setDefault[T int | float64](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// each does something n times, in parallel; the first error, or the end of ctx, ends it.
func each(ctx context.Context, n int, do func(i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range n {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(i)
		})
	}
	return group.Wait()
}

// TrainShare of the patients are in the training split.
const TrainShare = 0.7

// splitPatients deals patients into train, val and test, 70 : 10 : 20, each with at
// least one.
func splitPatients(n int, seed uint64) []string {
	splits := make([]string, n)
	val, test := max(1, n/10), max(1, n/5)
	for i := range splits {
		switch {
		case i < val:
			splits[i] = "val"
		case i < val+test:
			splits[i] = "test"
		default:
			splits[i] = "train"
		}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(n, func(i, j int) { splits[i], splits[j] = splits[j], splits[i] })
	return splits
}

func writeCSV(path string, rows [][]string) error {
	return atomicfile.Write(path, func(w io.Writer) error { return csv.NewWriter(w).WriteAll(rows) })
}
