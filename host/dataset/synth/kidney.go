package synth

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// KidneyOptions steer Kidney.
type KidneyOptions struct {
	// Patients, one CT each; 0 means 240.
	Patients int
	// Size is the number of voxels along the two sides of a slice, 32 to 256; 0 means 48. In
	// mm a volume stays the same.
	Size int
	// Missing is the probability that a report leaves an attribute out; negative means
	// none, 0 means 0.3.
	Missing float64
	Seed    uint64
}

// The world of the kidneys, in mm and Hounsfield units.
const (
	kidneySideMM   = 96.0
	kidneySliceMM  = 3.0
	kidneySlices   = 24
	tissueHU       = -60.0
	kidneyHU       = 35.0
	lesionHU       = 60.0
	textureHU      = 45.0 // amplitude of a lesion's texture, coarse and fine alike
	coarseMM       = 30.0 // wavelength of an even lesion's texture
	fineMM         = 9.0  // of a mottled one's
	kidneyNoiseHU  = 10.0
	kidneyMask     = 1
	kidneyLesion   = 2
	boundaryMarkMM = 1.0 // between lesion and the end of its kidney
)

// finding is an attribute of the reports: the sentence that says it is there, and the one that
// says it is not; how often it is, in aggressive and in indolent lesions.
type finding struct {
	name, yes, no        string
	aggressive, indolent float64
}

// kidneyFindings are ten of the thirteen attributes; laterality, pole and size are in the
// report's first sentence. What one does not see in the other's column tells nothing.
var kidneyFindings = []finding{
	{"enhancement", "The lesion enhances.", "No enhancement.", 1, 0},
	{"bosniak", "Bosniak category IV.", "Bosniak category II.", 0.85, 0.15},
	{"renal_vein_invasion", "There is tumor thrombus.", "No renal vein invasion.", 0.5, 0.05},
	{"septa", "Septa are seen.", "No septa.", 0.7, 0.3},
	{"cyst_kind", "A complex cyst lies beside it.", "A simple cyst lies beside it.", 0.7, 0.3},
	{"perinephric_stranding", "Perinephric stranding.", "No perinephric stranding.", 0.6, 0.4},
	{"fat", "Macroscopic fat is present.", "No macroscopic fat.", 0.2, 0.2},
	{"calcification", "Calcifications are present.", "No calcification.", 0.3, 0.3},
	{"stone", "There is a stone in the renal pelvis.", "No stones.", 0.2, 0.2},
	{"hydronephrosis", "Hydronephrosis.", "No hydronephrosis.", 0.15, 0.15},
}

// kidneyCase is one patient: what is drawn and what is said.
type kidneyCase struct {
	id, split           string
	mottled, aggressive bool
	left                bool
	pole                string
	diameterMM          float64
	truth               []string // of kidneyFindings, yes or no
	report              string
}

var poles = []string{"upper", "middle", "lower"}

// Kidney writes synthetic kidneys in CT with a lesion each into the new folder out, in the
// layout volumes: volumes.csv with labels and masks, and reports.csv with reports in words.
// The label joins what only the volume shows (an even or a mottled lesion) with what only the
// report tells (indolent or aggressive). It fails when out exists and is not empty.
func Kidney(ctx context.Context, out string, opt KidneyOptions) (*Summary, error) {
	setDefault(&opt.Patients, 240)
	setDefault(&opt.Size, 48)
	setDefault(&opt.Missing, 0.3)
	if opt.Patients < 3 || opt.Patients > 99999 || opt.Size < 32 || opt.Size > 256 || opt.Missing > 1 {
		return nil, fault.Errorf(fault.Usage, "synthetic kidneys: %d patients, size %d, missing %g: want 3 to 99999, 32 to 256, at most 1", opt.Patients, opt.Size, opt.Missing)
	}
	splits := splitPatients(opt.Patients, opt.Seed)
	summary := &Summary{Patients: opt.Patients, Cases: map[string]int{}, Files: opt.Patients}
	err := atomicfile.Folder(out, func(dir string) error {
		for _, folder := range []string{"volumes", "masks"} {
			if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
				return err
			}
		}
		made := make([]*kidneyCase, opt.Patients)
		if err := each(ctx, opt.Patients, func(i int) (err error) {
			made[i], err = writeKidney(dir, i, splits[i], opt)
			return err
		}); err != nil {
			return err
		}
		return writeKidneyTables(dir, made, opt, summary)
	})
	if err != nil {
		return nil, fmt.Errorf("synthetic kidneys: %w", err)
	}
	return summary, nil
}

func writeKidney(dir string, index int, split string, opt KidneyOptions) (*kidneyCase, error) {
	rng := rand.New(rand.NewPCG(opt.Seed, uint64(index)+1))
	k := &kidneyCase{id: fmt.Sprintf("K%05d", index+1), split: split, mottled: rng.IntN(2) == 1, aggressive: rng.IntN(2) == 1,
		left: rng.IntN(2) == 1, pole: poles[rng.IntN(len(poles))], diameterMM: 24 + 12*rng.Float64()}
	k.say(rng, opt.Missing)
	volume, mask := k.draw(rng, opt.Size)
	return k, writeVolumes(dir, k.id, volume, mask)
}

func writeVolumes(dir, id string, volume, mask *nifti.Image) error {
	if err := nifti.Write(filepath.Join(dir, "volumes", id+".nii"), volume); err != nil {
		return err
	}
	return nifti.Write(filepath.Join(dir, "masks", id+".nii"), mask)
}

// say draws the findings and words the report, which leaves each of the thirteen attributes out
// with probability missing.
func (k *kidneyCase) say(rng *rand.Rand, missing float64) {
	said := func() bool { return rng.Float64() >= missing }
	first := "There is a lesion"
	if said() {
		first += fmt.Sprintf(" of %.0f mm", k.diameterMM)
	}
	if said() {
		first += " at the " + k.pole + " pole"
	}
	if said() {
		first += " of the " + k.side() + " kidney"
	}
	sentences := []string{first + "."}
	for _, f := range kidneyFindings {
		p, value, words := f.indolent, "no", f.no
		if k.aggressive {
			p = f.aggressive
		}
		if rng.Float64() < p {
			value, words = "yes", f.yes
		}
		k.truth = append(k.truth, value)
		if said() {
			sentences = append(sentences, words)
		}
	}
	k.report = strings.Join(sentences, " ")
}

func (k *kidneyCase) side() string { return map[bool]string{false: "right", true: "left"}[k.left] }

// label joins what the volume shows with what the report tells.
func (k *kidneyCase) label() string {
	return map[bool]string{false: "even", true: "mottled"}[k.mottled] + "_" + map[bool]string{false: "indolent", true: "aggressive"}[k.aggressive]
}

// draw makes a kidney with its lesion, and their mask. Texture is a sum of waves of one length
// in all directions: coarse and fine have the same values, in other places.
func (k *kidneyCase) draw(rng *rand.Rand, size int) (volume, mask *nifti.Image) {
	mm := kidneySideMM / float64(size)
	dim := [3]int{size, size, kidneySlices}
	// The patient's left is on the right of a slice as it is displayed.
	affine := [12]float64{-mm, 0, 0, kidneySideMM / 2, 0, -mm, 0, kidneySideMM / 2, 0, 0, kidneySliceMM, 0}
	volume = &nifti.Image{Dim: dim, Affine: affine, Int16: make([]int16, size*size*kidneySlices), Note: "synthetic"}
	mask = &nifti.Image{Dim: dim, Affine: affine, Int16: make([]int16, size*size*kidneySlices), Note: "synthetic"}
	centre := [3]float64{6 * (2*rng.Float64() - 1), 6 * (2*rng.Float64() - 1), 0}
	axes := [3]float64{30, 27, 33}
	radius := k.diameterMM / 2
	lesion := centre
	lesion[0] += (axes[0] - radius - boundaryMarkMM) * (rng.Float64() - 0.5)
	lesion[1] += (axes[1] - radius - boundaryMarkMM) * (rng.Float64() - 0.5)
	lesion[2] += map[string]float64{"lower": -9, "upper": 9}[k.pole]
	wavelength := coarseMM
	if k.mottled {
		wavelength = fineMM
	}
	waves := textureWaves(rng, wavelength)
	for at := range volume.Int16 {
		p := [3]float64{(float64(at%size) - float64(size-1)/2) * mm, (float64(at/size%size) - float64(size-1)/2) * mm,
			(float64(at/size/size) - float64(kidneySlices-1)/2) * kidneySliceMM}
		hu := tissueHU
		switch {
		case within(p, lesion, [3]float64{radius, radius, radius}):
			hu = lesionHU + textureAt(waves, p)
			mask.Int16[at] = kidneyLesion
		case within(p, centre, axes):
			hu = kidneyHU
			mask.Int16[at] = kidneyMask
		}
		volume.Int16[at] = int16(math.Round(hu + kidneyNoiseHU*rng.NormFloat64()))
	}
	volume.Int16[0] = -1000 // air: a CT has some
	return volume, mask
}

// within reports whether p lies in an ellipsoid.
func within(p, centre, axes [3]float64) bool {
	sum := 0.0
	for a := range 3 {
		sum += math.Pow((p[a]-centre[a])/axes[a], 2)
	}
	return sum <= 1
}

// textureWaves are wave vectors and phases of one wavelength.
func textureWaves(rng *rand.Rand, wavelengthMM float64) (waves [][4]float64) {
	for range 6 {
		z, phi := 2*rng.Float64()-1, 2*math.Pi*rng.Float64()
		flat, f := math.Sqrt(1-z*z), 2*math.Pi/wavelengthMM
		waves = append(waves, [4]float64{f * flat * math.Cos(phi), f * flat * math.Sin(phi), f * z, 2 * math.Pi * rng.Float64()})
	}
	return waves
}

func textureAt(waves [][4]float64, p [3]float64) float64 {
	sum := 0.0
	for _, w := range waves {
		sum += math.Sin(w[0]*p[0] + w[1]*p[1] + w[2]*p[2] + w[3])
	}
	return textureHU * sum / math.Sqrt(float64(len(waves)))
}

func writeKidneyTables(dir string, made []*kidneyCase, opt KidneyOptions, summary *Summary) error {
	volumes := [][]string{{"id", "path", "mask", "patient", "split", "label"}}
	reports := [][]string{{"id", "report"}}
	truth := [][]string{{"id", "texture", "behaviour", "laterality", "pole", "size_mm"}}
	for _, f := range kidneyFindings {
		truth[0] = append(truth[0], f.name)
	}
	for _, k := range made {
		summary.Cases[k.split]++
		volumes = append(volumes, []string{k.id, "volumes/" + k.id + ".nii", "masks/" + k.id + ".nii", "P" + k.id[1:], k.split, k.label()})
		reports = append(reports, []string{k.id, k.report})
		texture, behaviour, _ := strings.Cut(k.label(), "_")
		truth = append(truth, append([]string{k.id, texture, behaviour, k.side(), k.pole, strconv.FormatFloat(k.diameterMM, 'f', 0, 64)}, k.truth...))
	}
	for name, rows := range map[string][][]string{"volumes.csv": volumes, "reports.csv": reports, "synthetic_truth.csv": truth} {
		if err := writeCSV(filepath.Join(dir, name), rows); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "README.txt"), []byte(kidneyReadme(opt, summary)), 0o644)
}

func kidneyReadme(opt KidneyOptions, s *Summary) string {
	var rates strings.Builder
	for _, f := range kidneyFindings {
		fmt.Fprintf(&rates, "  %-22s %3.0f %% where aggressive, %3.0f %% where indolent\n", f.name, 100*f.aggressive, 100*f.indolent)
	}
	return fmt.Sprintf(`SYNTHETIC DATA. Nothing here was seen in a patient.

Computer-made kidneys with a lesion each, in the layout volumes: (NIfTI, HU), and reports in
words, written by "alignedfusion data synth --layout kidney".

seed %d, %d patients with one CT of %d x %d x %d voxels of %.2f x %.2f x %g mm
train %d, val %d, test %d

volumes.csv          id,path,mask,patient,split,label; in the masks 1 is the kidney, 2 the lesion
reports.csv          id,report: a sentence for each attribute; the lexicon kidney reads them all
synthetic_truth.csv  what was drawn and what a report without gaps says; the program does not read it

The label joins two things that are independent of each other:
  texture    even or mottled: only the volume shows it, by waves of %g or %g mm through the lesion,
             with the same mean and the same spread of values
  behaviour  indolent or aggressive: only the report tells, by how often it speaks of
%s  laterality, pole and size_mm tell nothing
Volume alone or report alone reach about half. Each attribute is left out of a report with
probability %.2f, independently of everything (MCAR).
`, opt.Seed, opt.Patients, opt.Size, opt.Size, kidneySlices, kidneySideMM/float64(opt.Size), kidneySideMM/float64(opt.Size), kidneySliceMM,
		s.Cases["train"], s.Cases["val"], s.Cases["test"], coarseMM, fineMM, rates.String(), max(0, opt.Missing))
}
