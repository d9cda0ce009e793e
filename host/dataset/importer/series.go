package importer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// How far slices may be from where their neighbours say: scanners round to 0.01 mm.
const (
	spacingTolerance   = 0.01 // of the distance
	spacingToleranceMM = 0.02
	directionTolerance = 1e-3
)

// series is a stack of planes of one DICOM series.
type series struct {
	first  *instance
	slices []slice
	// step leads from a slice to the next one, mm towards left, posterior, head.
	step  [3]float64
	notes []string
}

// slice is one frame of a file.
type slice struct {
	file  string
	frame int
	sop   string
	plane plane
	at    float64 // along the normal
}

// newSeries orders the instances of one series. It fails where it would have to guess:
// planes that are not placed, of several sizes or directions, missing slices, several
// images of one place.
func newSeries(instances []*instance) (*series, error) {
	slices.SortFunc(instances, func(a, b *instance) int { return cmp.Compare(a.path, b.path) })
	s := &series{first: instances[0]}
	if len(instances) == 1 && len(s.first.planes) == 1 {
		return nil, errOneImage
	}
	for _, in := range instances {
		a := s.first
		if _, err := decompressor(in); err != nil {
			return nil, err
		}
		if in.samples != 1 {
			return nil, problem.At(in.path, 0, "", "has %d samples per pixel, a colour image; want one (grey)", in.samples)
		}
		if in.rows != a.rows || in.columns != a.columns {
			return nil, problem.At(in.path, 0, "", "is %d x %d pixels, %s of the same series is %d x %d", in.columns, in.rows, filepath.Base(a.path), a.columns, a.rows)
		}
		for k, p := range in.planes {
			if !p.placed {
				return nil, problem.At(in.path, 0, "", "lacks ImagePositionPatient, ImageOrientationPatient or PixelSpacing: it is not known where the slice lies")
			}
			if q := a.planes[0]; apart(p.row, q.row) > directionTolerance || apart(p.column, q.column) > directionTolerance ||
				math.Abs(p.spacing[0]-q.spacing[0])+math.Abs(p.spacing[1]-q.spacing[1]) > 1e-4 {
				return nil, problem.At(in.path, 0, "", "has another direction or pixel spacing than %s of the same series: split the series", filepath.Base(a.path))
			}
			if in.modality == "CT" && !p.rescaled {
				return nil, problem.At(in.path, 0, "", "is CT without RescaleSlope and RescaleIntercept: its Hounsfield units are not known")
			}
			s.slices = append(s.slices, slice{in.path, k, in.sop, p, dot(p.position, cross(p.row, p.column))})
		}
	}
	slices.SortStableFunc(s.slices, func(a, b slice) int { return cmp.Compare(a.at, b.at) })
	if s.first.lossy {
		s.notes = append(s.notes, "its images were compressed with loss: values are near what was measured")
	}
	return s, s.place()
}

// decompressor is the program that undoes a compression which is not decoded here, "" where none is needed.
func decompressor(in *instance) (string, error) {
	if slices.Contains(uncompressed, in.syntax) || slices.Contains(decodedHere, in.syntax) {
		return "", nil
	}
	tool, err := exec.LookPath("gdcmconv")
	if err != nil {
		return "", problem.At(in.path, 0, "", "is compressed as %s, which needs gdcmconv (Debian: apt-get install libgdcm-tools)", in.syntax)
	}
	return tool, nil
}

func apart(a, b [3]float64) float64 {
	return norm([3]float64{a[0] - b[0], a[1] - b[1], a[2] - b[2]})
}

// place drops copies of a slice and finds the step between slices.
func (s *series) place() error {
	kept := s.slices[:1]
	for _, next := range s.slices[1:] {
		last := kept[len(kept)-1]
		if next.at-last.at > spacingToleranceMM {
			kept = append(kept, next)
			continue
		}
		if next.sop != last.sop || next.frame != last.frame {
			return problem.At(next.file, 0, "", "lies at the place of %s: the series holds several images of one place (phases, echoes, kernels); split it", filepath.Base(last.file))
		}
		if same, err := samePixels(next.file, last.file); err != nil {
			return err
		} else if !same {
			return problem.At(next.file, 0, "", "has the SOPInstanceUID and the place of %s, but other pixels: remove one of them", filepath.Base(last.file))
		}
		s.notes = append(s.notes, fmt.Sprintf("%s is a copy of %s", filepath.Base(next.file), filepath.Base(last.file)))
	}
	if s.slices = kept; len(kept) < 2 {
		return errOneImage
	}
	distances := make([]float64, len(kept)-1)
	for k := range distances {
		distances[k] = kept[k+1].at - kept[k].at
	}
	median := slices.Sorted(slices.Values(distances))[len(distances)/2]
	for k, d := range distances {
		if math.Abs(d-median) <= max(spacingTolerance*median, spacingToleranceMM) {
			continue
		}
		a, b := filepath.Base(kept[k].file), kept[k+1].file
		if n := math.Round(d / median); n > 1 && math.Abs(d-n*median) <= n*max(spacingTolerance*median, spacingToleranceMM) {
			return problem.At(b, 0, "", "lies %.2f mm behind %s, the others lie %.2f mm apart: %g slices are missing between them", d, a, median, n-1)
		}
		return problem.At(b, 0, "", "lies %.2f mm behind %s, the others lie %.2f mm apart: slices of different distances are not read as one volume", d, a, median)
	}
	first, last := kept[0].plane, kept[len(kept)-1].plane
	for a := range 3 {
		s.step[a] = (last.position[a] - first.position[a]) / float64(len(kept)-1)
	}
	if tilt := math.Acos(min(1, math.Abs(dot(s.step, cross(first.row, first.column)))/norm(s.step))) * 180 / math.Pi; tilt > 0.1 {
		s.notes = append(s.notes, fmt.Sprintf("the gantry is tilted by %.1f degrees: slices are kept as they are, their places in the patient are right", tilt))
	}
	return nil
}

// samePixels reports whether two files show the same.
func samePixels(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, problem.File(a, err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return false, problem.File(b, err)
	}
	if bytes.Equal(x, y) {
		return true, nil
	}
	of, err := decode(a)
	if err != nil {
		return false, err
	}
	others, err := decode(b)
	return slices.EqualFunc(of, others, slices.Equal[[]int32]), err
}

// errOneImage is the answer to a series that is no volume.
var errOneImage = errors.New("one image, no volume")

// affine maps column, row, slice to mm towards right, anterior, superior.
func (s *series) affine() [12]float64 {
	p := s.slices[0].plane
	var m [12]float64
	for a := range 3 {
		sign := 1.0
		if a < 2 {
			sign = -1
		}
		m[4*a], m[4*a+1], m[4*a+2] = sign*p.row[a]*p.spacing[1], sign*p.column[a]*p.spacing[0], sign*s.step[a]
		m[4*a+3] = sign * p.position[a]
	}
	return m
}

// fingerprint changes when the series or the way of reading it does.
func (s *series) fingerprint() string {
	h := sha256.New()
	fmt.Fprintln(h, "volume 2", s.first.syntax, s.affine())
	for _, one := range s.slices {
		info, err := os.Stat(one.file)
		if err == nil {
			fmt.Fprintln(h, one.sop, one.frame, info.Size(), info.ModTime().UnixNano(), one.plane.slope, one.plane.intercept)
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// write decodes the slices and writes the volume, with its fingerprint as note. Hounsfield
// units are whole numbers in all but odd cases: then they are written as such.
func (s *series) write(path, note string) error {
	size := s.first.rows * s.first.columns
	v := &nifti.Image{Dim: [3]int{s.first.columns, s.first.rows, len(s.slices)}, Affine: s.affine(), Note: note}
	whole := true
	for _, one := range s.slices {
		p := one.plane
		whole = whole && p.slope == math.Trunc(p.slope) && p.intercept == math.Trunc(p.intercept)
	}
	if whole {
		v.Int16 = make([]int16, size*len(s.slices))
	} else {
		v.Float32 = make([]float32, size*len(s.slices))
	}
	var frames [][]int32
	decoded := ""
	for k, one := range s.slices {
		if one.file != decoded {
			var err error
			if frames, err = decode(one.file); err != nil {
				return err
			}
			decoded = one.file
		}
		p := one.plane
		for i, stored := range frames[one.frame] {
			x := float64(stored)*p.slope + p.intercept
			switch {
			case v.Float32 != nil:
				v.Float32[k*size+i] = float32(x)
			case x < math.MinInt16 || x > math.MaxInt16:
				return problem.At(one.file, 0, "", "holds the value %g, which is no Hounsfield unit (-32768 to 32767)", x)
			default:
				v.Int16[k*size+i] = int16(x)
			}
		}
	}
	return nifti.Write(path, v)
}

// decode reads the frames of a file; gdcmconv undoes compressions that are not ours.
func decode(path string) ([][]int32, error) {
	in, frames, err := readInstance(path, true)
	if !errors.Is(err, errCompressed) {
		return frames, err
	}
	tool, err := decompressor(in)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "alignedfusion-import-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	raw := filepath.Join(dir, "raw.dcm")
	if out, err := exec.Command(tool, "--raw", path, raw).CombinedOutput(); err != nil {
		return nil, problem.At(path, 0, "", "gdcmconv cannot undo the compression %s: %s", in.syntax, problem.Clip(string(out), 200))
	}
	_, frames, err = readInstance(raw, true)
	if errors.Is(err, errCompressed) {
		err = problem.At(path, 0, "", "gdcmconv leaves the compression %s as it is", in.syntax)
	}
	return frames, err
}
