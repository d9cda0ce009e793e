package export

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// scheme is the coding scheme of what no standard vocabulary has a code for (PS3.3 8.2: "99"
// begins private ones).
const scheme = "99ALIGNEDFUSION"

// maker is how DICOM objects name this program.
const maker = "alignedfusion"

const explicitLittleEndian = "1.2.840.10008.1.2.1"

// item is a data set or an item of a sequence.
type item = []*dicom.Element

// set makes an element: of a string, an int, or what dicom.NewElement takes. Tags and types
// are this package's own, so one that does not fit is a fault of the program.
func set(t tag.Tag, value any) *dicom.Element {
	switch v := value.(type) {
	case string:
		value = []string{v}
	case int:
		value = []int{v}
	case item:
		value = [][]*dicom.Element{v}
	}
	if items, ok := value.([][]*dicom.Element); ok {
		for _, one := range items {
			slices.SortFunc(one, byTag)
		}
	}
	e, err := dicom.NewElement(t, value)
	if err != nil {
		panic(fmt.Sprintf("element %v: %v", t, err))
	}
	return e
}

// decimal is a decimal string: at most 16 characters.
func decimal(v float64) string {
	for digits := 12; ; digits-- {
		if s := strconv.FormatFloat(v, 'g', digits, 64); len(s) <= 16 {
			return s
		}
	}
}

func decimals(vs ...float64) []string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = decimal(v)
	}
	return out
}

// long fits a text into a long string (LO): 64 characters, none of which divides values.
func long(text string) string {
	runes := []rune(strings.ReplaceAll(text, `\`, "/"))
	return string(runes[:min(64, len(runes))])
}

// code is an entry of a coding scheme.
type code struct{ value, scheme, meaning string }

// private is a code of our own for a name: the name itself where a code value can hold it.
func private(name string) code {
	value := name
	if len(value) > 16 || strings.ContainsAny(value, "\\ ") {
		value = "X-" + digest.Of(name)[:12]
	}
	return code{value, scheme, long(name)}
}

func (c code) item() item {
	return item{set(tag.CodeValue, c.value), set(tag.CodingSchemeDesignator, c.scheme), set(tag.CodeMeaning, c.meaning)}
}

// uid derives an identifier: equal parts give equal ones. It is a UUID (version 8, RFC 9562)
// below the root 2.25 (PS3.5 B.2).
func uid(parts ...string) string {
	sum := sha256.Sum256([]byte(maker + "\x00" + strings.Join(parts, "\x00")))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return "2.25." + new(big.Int).SetBytes(sum[:16]).String()
}

// DICOMOptions of WriteReports and WriteSegmentations.
type DICOMOptions struct {
	// Data is what the findings are of, Source the folder of its DICOM series; "" that which
	// data import recorded. Out is the folder written to.
	Data        *dataset.Dataset
	Source, Out string
	Algorithm   Algorithm
	// Recovered, by case, is what a fusion made of attributes no report mentions; may be nil.
	Recovered map[string][]Recovered
}

// Algorithm says what found the findings.
type Algorithm struct {
	Name, Version string
	// Parameters are further facts, a line each: plugins with their hashes.
	Parameters []string
}

// Recovered is an attribute as an algorithm recovers it.
type Recovered struct{ Attribute, Summary string }

// target is a volume with the images it was made of and its findings.
type target struct {
	volume   string
	series   *importer.Series
	header   *nifti.Header
	findings []Finding
	// source holds the elements of the series' first image.
	source dicom.Dataset
}

// targets finds the DICOM series of volumes.
func (o *DICOMOptions) targets(ctx context.Context, names []string, byVolume map[string][]Finding) ([]target, error) {
	path := filepath.Join(o.Data.Dir, "volumes.csv")
	t, err := table.Read(path)
	if err != nil {
		return nil, problem.At(path, 0, "", "DICOM objects refer to the series that data import made volumes of: %v", err)
	}
	if err := t.Need("id", "series"); err != nil {
		return nil, err
	}
	seriesOf := map[string]string{}
	for _, r := range t.Rows {
		seriesOf[t.Get(r, "id")] = t.Get(r, "series")
	}
	var wanted []string
	for _, name := range names {
		if seriesOf[name] == "" {
			return nil, problem.At(path, 0, "series", "knows no DICOM series of the volume %q", problem.Clip(name, 60))
		}
		wanted = append(wanted, seriesOf[name])
	}
	if o.Source == "" {
		if o.Source, err = importer.Source(o.Data.Dir); err != nil {
			return nil, err
		}
	}
	if o.Source == "" {
		return nil, fault.Errorf(fault.Usage, "%s does not say where its DICOM files lie: give their folder with --dicom", o.Data.Dir)
	}
	series, err := importer.FindSeries(ctx, o.Source, wanted)
	if err != nil {
		return nil, err
	}
	var out []target
	for _, name := range names {
		one := target{volume: name, series: series[seriesOf[name]], findings: byVolume[name]}
		if err := one.open(o.Data); err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

// open reads the volume's header and the first image's, and compares volume and series.
func (t *target) open(d *dataset.Dataset) (err error) {
	at := slices.IndexFunc(d.Cases, func(c dataset.Case) bool { return c.Stack == t.volume })
	if at < 0 {
		return problem.At(d.Dir, 0, "", "has no volume %q", problem.Clip(t.volume, 60))
	}
	path := d.Cases[at].Images[dataset.Volume]
	if t.header, err = nifti.ReadHeader(path); err != nil {
		return problem.At(path, 0, "", "%v", err)
	}
	if t.header.Dim != t.series.Dim || !near(t.header.Affine, t.series.Affine) {
		return problem.At(path, 0, "", "is not the volume of series %s below the DICOM folder (%v voxels at %.5v, the series %v at %.5v): import it again",
			t.series.UID, t.header.Dim, t.header.Affine, t.series.Dim, t.series.Affine)
	}
	t.source, err = readHeader(t.series.Images[0].File)
	return err
}

// near compares affine maps: a header holds them as 32-bit numbers.
func near(a, b [12]float64) bool {
	for i := range a {
		if d := a[i] - b[i]; d > 1e-3 || d < -1e-3 {
			return false
		}
	}
	return true
}

// readHeader reads a file that the importer has read before.
func readHeader(path string) (d dicom.Dataset, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser is not ours
			err = problem.At(path, 0, "", "damaged: the DICOM parser fails on it")
		}
	}()
	raw, err := os.ReadFile(path)
	if err != nil {
		return d, problem.File(path, err)
	}
	d, err = dicom.Parse(bytes.NewReader(raw), int64(len(raw)), nil, dicom.SkipPixelData(), dicom.AllowUnknownSpecificCharacterSet(), dicom.AllowMissingMetaElementGroupLength())
	if err != nil {
		return d, problem.At(path, 0, "", "damaged or cut off: %v", err)
	}
	return d, nil
}

// text is an element of the source, "" when absent.
func (t *target) text(at tag.Tag) string {
	e, err := t.source.FindElementByTag(at)
	if err != nil || e.Value == nil {
		return ""
	}
	if v, ok := e.Value.GetValue().([]string); ok {
		return strings.Join(v, `\`)
	}
	return ""
}

// Elements that patient, study and frame of reference bring along: those that must be there,
// empty if need be, and those that come where the source has them (PS3.3 C.7.1, C.7.2, C.7.4).
var (
	sourceRequired = []tag.Tag{tag.PatientName, tag.PatientID, tag.PatientBirthDate, tag.PatientSex,
		tag.StudyDate, tag.StudyTime, tag.AccessionNumber, tag.ReferringPhysicianName, tag.StudyID}
	sourceOptional = []tag.Tag{tag.IssuerOfPatientID, tag.OtherPatientIDs, tag.PatientIdentityRemoved, tag.DeidentificationMethod,
		tag.StudyDescription, tag.PatientAge, tag.PatientSize, tag.PatientWeight}
)

// common are the modules every object has: patient and study of the source, a series and an
// instance of its own, the program as equipment.
func (t *target) common(kind, class, modality, description string, f *Findings, o *DICOMOptions) item {
	date, clock := f.Modified.Format("20060102"), f.Modified.Format("150405")
	instance := uid(kind, t.series.UID, f.SHA256, o.Algorithm.Name, o.Algorithm.Version, strings.Join(o.Algorithm.Parameters, "\n"))
	elements := item{
		set(tag.FileMetaInformationVersion, []byte{0, 1}), set(tag.MediaStorageSOPClassUID, class),
		set(tag.MediaStorageSOPInstanceUID, instance), set(tag.TransferSyntaxUID, explicitLittleEndian), set(tag.ImplementationClassUID, uid("implementation")),
		set(tag.SpecificCharacterSet, "ISO_IR 192"), set(tag.SOPClassUID, class), set(tag.SOPInstanceUID, instance),
		set(tag.InstanceCreationDate, date), set(tag.InstanceCreationTime, clock), set(tag.TimezoneOffsetFromUTC, "+0000"),
		set(tag.StudyInstanceUID, t.study()), set(tag.SeriesInstanceUID, uid("series", kind, t.series.UID, f.SHA256)),
		set(tag.Modality, modality), set(tag.SeriesNumber, "9000"), set(tag.SeriesDate, date), set(tag.SeriesTime, clock),
		set(tag.SeriesDescription, description), set(tag.InstanceNumber, "1"), set(tag.ContentDate, date), set(tag.ContentTime, clock),
		set(tag.Manufacturer, maker), set(tag.ManufacturerModelName, long(o.Algorithm.Name)),
		set(tag.DeviceSerialNumber, f.SHA256[:16]), set(tag.SoftwareVersions, o.Algorithm.Version),
	}
	for _, at := range sourceRequired {
		elements = append(elements, set(at, t.text(at)))
	}
	for _, at := range sourceOptional {
		if text := t.text(at); text != "" {
			elements = append(elements, set(at, text))
		}
	}
	return elements
}

// study is that of the source; images without one get their series' own.
func (t *target) study() string { return cmp.Or(t.series.Study, uid("study", t.series.UID)) }

// frameOfReference is that of the source; scans without one get their series' own.
func (t *target) frameOfReference() string {
	return cmp.Or(t.text(tag.FrameOfReferenceUID), uid("frame of reference", t.series.UID))
}

// reference names an image (PS3.3 10.8).
func reference(i importer.Image) item {
	out := item{set(tag.ReferencedSOPClassUID, i.SOPClass), set(tag.ReferencedSOPInstanceUID, i.SOPInstance)}
	if i.Frame > 0 {
		out = append(out, set(tag.ReferencedFrameNumber, strconv.Itoa(i.Frame)))
	}
	return out
}

// references names every instance of the images once.
func references(images []importer.Image) (out [][]*dicom.Element) {
	seen := map[string]bool{}
	for _, i := range images {
		if i.Frame = 0; !seen[i.SOPInstance] {
			out = append(out, reference(i))
		}
		seen[i.SOPInstance] = true
	}
	return out
}

// write sorts the elements and writes the object below out, whole or not at all.
func (t *target) write(out, suffix string, elements item) (string, error) {
	slices.SortFunc(elements, byTag)
	var b bytes.Buffer
	if err := dicom.Write(&b, dicom.Dataset{Elements: elements}); err != nil {
		return "", fmt.Errorf("DICOM object of %s: %w", t.volume, err)
	}
	path := filepath.Join(out, fileName(t.volume)+suffix)
	return path, atomicfile.WriteBytes(path, b.Bytes())
}

// byTag is the order in which DICOM wants elements.
func byTag(a, b *dicom.Element) int { return a.Tag.Compare(b.Tag) }

// voxels is the box of a finding in the volume's stored voxels, which are column, row and
// slice of its series; 0 is the centre of the first.
func (t *target) voxels(f *Finding) (low, top [3]float64, err error) {
	p := f.place()
	if p == nil {
		return low, top, problem.At(f.Key.Origin(), 0, "", "volume %q does not say where it lies in the patient", t.volume)
	}
	return p.LowVoxel, p.TopVoxel, nil
}

// slicesOf are the slices of the series whose middle lies in a finding, that of its key image first.
func (t *target) slicesOf(f *Finding, low, top [3]float64) []int {
	key := f.Key.Place(f.X1, f.Y1, f.X2, f.Y2, f.Key.KeySlice, f.Key.KeySlice)
	middle := clampInt(int((key.LowVoxel[2]+key.TopVoxel[2])/2+0.5), 0, t.series.Dim[2]-1)
	out := []int{middle}
	first, last := inside(t.series.Dim, low, top)
	for k := first[2]; k <= last[2]; k++ {
		if k != middle {
			out = append(out, k)
		}
	}
	return out
}

func clampInt(v, low, high int) int { return max(low, min(v, high)) }
