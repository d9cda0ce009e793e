package export

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// segmentationStorage is the SOP class of Segmentation.
const segmentationStorage = "1.2.840.10008.5.1.4.1.1.66.4"

var (
	cSegmentation = code{"113076", "DCM", "Segmentation"}
	cSourceImage  = code{"121322", "DCM", "Source image for image processing operation"}
	cAltered      = code{"49755003", "SCT", "Morphologically Altered Structure"}
	cAI           = code{"123109", "DCM", "Artificial Intelligence"}
)

// segment is a set of voxels with a meaning.
type segment struct {
	label, trackingID, trackingUID string
	// pixels are, by slice of the series, the indices column + row*columns.
	pixels map[int][]int
}

// WriteSegmentations writes a binary DICOM segmentation for every volume, as VOLUME_seg.dcm,
// and returns the paths. Segments are the boxes of findings, filled; or with masks, a folder of
// label volumes VOLUME.nii, .nii.gz, .mha (f is nil then), the labels. Equal input gives equal files.
func WriteSegmentations(ctx context.Context, f *Findings, masks string, o DICOMOptions) ([]string, error) {
	var names []string
	byVolume, files := map[string][]Finding{}, map[string]string{}
	if masks == "" {
		names, byVolume = f.byVolume()
	} else {
		var err error
		if files, err = maskFiles(masks); err != nil {
			return nil, err
		}
		names = slices.Sorted(maps.Keys(files))
	}
	targets, err := o.targets(ctx, names, byVolume)
	if err != nil {
		return nil, err
	}
	var paths []string
	for i := range targets {
		t := &targets[i]
		from, segments := f, []segment(nil)
		if masks == "" {
			segments, err = t.boxes()
		} else {
			from, segments, err = t.labels(files[t.volume])
		}
		if err != nil {
			return paths, err
		}
		path, err := t.write(o.Out, "_seg.dcm", t.segmentation(segments, from, &o))
		if err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// maskFiles are the label volumes of a folder by the name of their volume.
func maskFiles(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, problem.File(dir, err)
	}
	out := map[string]string{}
	for _, e := range entries {
		if !nifti.IsVolume(e.Name()) {
			continue
		}
		name := strings.TrimSuffix(e.Name(), ".gz")
		name = strings.TrimSuffix(name, filepath.Ext(name))
		if first, twice := out[name]; twice {
			return nil, problem.At(filepath.Join(dir, e.Name()), 0, "", "is a second mask of %q beside %s", problem.Clip(name, 60), filepath.Base(first))
		}
		out[name] = filepath.Join(dir, e.Name())
	}
	if len(out) == 0 {
		return nil, problem.At(dir, 0, "", "holds no label volume, in %d files; want VOLUME.nii, .nii.gz or .mha", len(entries))
	}
	return out, nil
}

// boxes are the segments of the findings: the voxels whose centre lies in the box.
func (t *target) boxes() ([]segment, error) {
	var out []segment
	for n := range t.findings {
		f := &t.findings[n]
		low, top, err := t.voxels(f)
		if err != nil {
			return nil, err
		}
		first, last := inside(t.series.Dim, low, top)
		s := segment{f.Label, t.trackingID(n), t.tracking(n), map[int][]int{}}
		for k := first[2]; k <= last[2]; k++ {
			for y := first[1]; y <= last[1]; y++ {
				for x := first[0]; x <= last[0]; x++ {
					s.pixels[k] = append(s.pixels[k], y*t.series.Dim[0]+x)
				}
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// inside are the voxels whose centre lies in a box, on its near sides but not on its far ones, so
// that a box four voxels wide holds four; at least the one in its middle.
func inside(dim [3]int, low, top [3]float64) (first, last [3]int) {
	for a := range 3 {
		first[a], last[a] = int(math.Ceil(low[a])), int(math.Ceil(top[a]))-1
		if first[a] > last[a] {
			first[a] = int(math.Round((low[a] + top[a]) / 2))
			last[a] = first[a]
		}
		first[a], last[a] = clampInt(first[a], 0, dim[a]-1), clampInt(last[a], 0, dim[a]-1)
	}
	return first, last
}

// labels are the segments of a label volume, with the file as their source.
func (t *target) labels(path string) (*Findings, []segment, error) {
	m, err := nifti.ReadMask(path)
	if err != nil {
		return nil, nil, problem.At(path, 0, "", "%v", err)
	}
	h, err := nifti.ReadHeader(path)
	if err != nil {
		return nil, nil, problem.At(path, 0, "", "%v", err)
	}
	if m.Size != t.series.Dim || !near(h.Affine, t.series.Affine) {
		return nil, nil, problem.At(path, 0, "", "has %v voxels at %.5v, its volume %v at %.5v: want the volume's own grid", m.Size, h.Affine, t.series.Dim, t.series.Affine)
	}
	size := m.Size[0] * m.Size[1]
	byLabel := map[int]*segment{}
	for n, at := range m.Indices {
		v := m.Values[n]
		label := int(v)
		if float64(label) != v || label < 1 || label > math.MaxUint16 {
			return nil, nil, problem.At(path, 0, "", "holds the value %v, which is no label: want whole numbers from 0 to 65535", v)
		}
		s := byLabel[label]
		if s == nil {
			name := fmt.Sprintf("label %d", label)
			s = &segment{name, name, uid("label", t.series.UID, strconv.Itoa(label)), map[int][]int{}}
			byLabel[label] = s
		}
		s.pixels[at/size] = append(s.pixels[at/size], at%size)
	}
	if len(byLabel) == 0 {
		return nil, nil, problem.At(path, 0, "", "is empty: a segmentation has at least one segment")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, problem.File(path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, problem.File(path, err)
	}
	var out []segment
	for _, label := range slices.Sorted(maps.Keys(byLabel)) {
		out = append(out, *byLabel[label])
	}
	return &Findings{Path: path, SHA256: digest.Of(raw), Modified: info.ModTime().UTC()}, out, nil
}

// segmentation is the object of a volume: a frame per segment and slice it is on.
func (t *target) segmentation(segments []segment, f *Findings, o *DICOMOptions) item {
	first := t.series.Images[0]
	on := map[int]bool{}
	for _, s := range segments {
		for k := range s.pixels {
			on[k] = true
		}
	}
	positions := slices.Sorted(maps.Keys(on))
	size := t.series.Dim[0] * t.series.Dim[1]
	var described, frames []item
	var bits []byte
	n := 0
	for number, s := range segments {
		described = append(described, s.described(number+1, &o.Algorithm))
		for _, k := range slices.Sorted(maps.Keys(s.pixels)) {
			frames = append(frames, t.frame(number+1, k, slices.Index(positions, k)+1))
			bits = append(bits, make([]byte, ((n+1)*size+7)/8-len(bits))...)
			for _, p := range s.pixels[k] { // frames follow each other bit by bit (PS3.5 8.1.1)
				at := n*size + p
				bits[at/8] |= 1 << (at % 8)
			}
			n++
		}
	}
	bits = append(bits, make([]byte, len(bits)%2)...)
	organization := uid("dimensions", t.series.UID)
	dimension := func(pointer, group tag.Tag, name string) item {
		return item{set(tag.DimensionOrganizationUID, organization), set(tag.DimensionIndexPointer, []int{int(pointer.Group), int(pointer.Element)}),
			set(tag.FunctionalGroupPointer, []int{int(group.Group), int(group.Element)}), set(tag.DimensionDescriptionLabel, name)}
	}
	step := t.step()
	elements := t.common("seg", segmentationStorage, "SEG", "Segments: "+long(o.Algorithm.Name), f, o)
	return append(elements,
		set(tag.FrameOfReferenceUID, t.frameOfReference()), set(tag.PositionReferenceIndicator, t.text(tag.PositionReferenceIndicator)),
		set(tag.ImageType, []string{"DERIVED", "PRIMARY"}), set(tag.ContentLabel, "DETECTIONS"), set(tag.ContentDescription, "Boxes or labels of an algorithm"),
		set(tag.ContentCreatorName, maker+"^"), set(tag.LossyImageCompression, "00"), set(tag.SegmentationType, "BINARY"), set(tag.SegmentsOverlap, "UNDEFINED"),
		set(tag.SamplesPerPixel, 1), set(tag.PhotometricInterpretation, "MONOCHROME2"), set(tag.Rows, t.series.Dim[1]), set(tag.Columns, t.series.Dim[0]),
		set(tag.BitsAllocated, 1), set(tag.BitsStored, 1), set(tag.HighBit, 0), set(tag.PixelRepresentation, 0), set(tag.NumberOfFrames, strconv.Itoa(n)),
		set(tag.SegmentSequence, described),
		set(tag.ReferencedSeriesSequence, item{set(tag.SeriesInstanceUID, t.series.UID), set(tag.ReferencedInstanceSequence, references(t.series.Images))}),
		set(tag.DimensionOrganizationSequence, item{set(tag.DimensionOrganizationUID, organization)}),
		set(tag.DimensionIndexSequence, []item{dimension(tag.ReferencedSegmentNumber, tag.SegmentIdentificationSequence, "Segment"),
			dimension(tag.ImagePositionPatient, tag.PlanePositionSequence, "Position")}),
		set(tag.SharedFunctionalGroupsSequence, item{
			set(tag.PixelMeasuresSequence, item{set(tag.SliceThickness, decimal(step)), set(tag.SpacingBetweenSlices, decimal(step)), set(tag.PixelSpacing, decimals(first.SpacingMM[:]...))}),
			set(tag.PlaneOrientationSequence, item{set(tag.ImageOrientationPatient, decimals(append(first.Row[:], first.Column[:]...)...))})}),
		set(tag.PerFrameFunctionalGroupsSequence, frames),
		set(tag.PixelData, dicom.PixelDataInfo{IntentionallyUnprocessed: true, UnprocessedValueData: bits}))
}

// step is the distance of slices in mm.
func (t *target) step() float64 {
	a, b := t.series.Images[0].PositionLPS, t.series.Images[len(t.series.Images)-1].PositionLPS
	return math.Hypot(math.Hypot(a[0]-b[0], a[1]-b[1]), a[2]-b[2]) / float64(len(t.series.Images)-1)
}

func (s *segment) described(number int, a *Algorithm) item {
	return item{set(tag.SegmentNumber, number), set(tag.SegmentLabel, long(s.label)), set(tag.SegmentAlgorithmType, "AUTOMATIC"), set(tag.SegmentAlgorithmName, long(a.Name)),
		set(tag.SegmentationAlgorithmIdentificationSequence, item{set(tag.AlgorithmFamilyCodeSequence, cAI.item()), set(tag.AlgorithmName, long(a.Name)),
			set(tag.AlgorithmVersion, long(a.Version)), set(tag.AlgorithmParameters, cmp.Or(strings.Join(a.Parameters, "\n"), "none"))}),
		set(tag.SegmentedPropertyCategoryCodeSequence, cAltered.item()), set(tag.SegmentedPropertyTypeCodeSequence, labelCode(s.label).item()),
		set(tag.TrackingID, s.trackingID), set(tag.TrackingUID, s.trackingUID)}
}

// frame are the functional groups of a frame.
func (t *target) frame(number, k, position int) item {
	image := t.series.Images[k]
	return item{
		set(tag.FrameContentSequence, item{set(tag.DimensionIndexValues, []int{number, position})}),
		set(tag.PlanePositionSequence, item{set(tag.ImagePositionPatient, decimals(image.PositionLPS[:]...))}),
		set(tag.SegmentIdentificationSequence, item{set(tag.ReferencedSegmentNumber, number)}),
		set(tag.DerivationImageSequence, item{set(tag.DerivationCodeSequence, cSegmentation.item()),
			set(tag.SourceImageSequence, append(reference(image), set(tag.SpatialLocationsPreserved, "YES"), set(tag.PurposeOfReferenceCodeSequence, cSourceImage.item())))}),
	}
}
