package importer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Transfer syntaxes (DICOM PS3.6, table A-1).
const (
	implicitLittle  = "1.2.840.10008.1.2"
	explicitLittle  = "1.2.840.10008.1.2.1"
	deflatedLittle  = "1.2.840.10008.1.2.1.99"
	explicitBig     = "1.2.840.10008.1.2.2"
	runLength       = "1.2.840.10008.1.2.5"
	jpegLossless    = "1.2.840.10008.1.2.4.57"
	jpegLosslessSV1 = "1.2.840.10008.1.2.4.70"
)

var (
	uncompressed = []string{implicitLittle, explicitLittle, deflatedLittle, explicitBig, ""}
	decodedHere  = []string{runLength, jpegLossless, jpegLosslessSV1}
)

// plane is where one frame lies in the patient: millimetres towards left, posterior,
// head (PS3.3 C.7.6.2).
type plane struct {
	position [3]float64
	// row and column are the directions in which the column and the row index rise.
	row, column [3]float64
	// spacing is the distance of rows and that of columns.
	spacing [2]float64
	// slope and intercept of the rescaling, which is given or not.
	slope, intercept float64
	rescaled         bool
	placed           bool
}

// instance is what is used of one DICOM file.
type instance struct {
	path                      string
	sop, class, series, study string
	patient, name, modality   string
	description, syntax       string
	localizer, lossy          bool
	rows, columns, samples    int
	bitsAllocated, bitsStored int
	highBit                   int
	signed, inverted          bool
	planes                    []plane
}

// readInstance reads a DICOM file's header, and with pixels its frames as stored values.
// The error names the file; notDicom is returned for a file of another kind.
func readInstance(path string, pixels bool) (in *instance, frames [][]int32, err error) {
	defer func() {
		if p := recover(); p != nil { // the parser is not ours
			in, frames, err = nil, nil, problem.At(path, 0, "", "damaged: the DICOM parser fails on it")
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, problem.File(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, problem.File(path, err)
	}
	raw := bufio.NewReaderSize(f, headBytes)
	if head, err := raw.Peek(132); err != nil || string(head[128:]) != "DICM" {
		return nil, nil, errNotDICOM
	}
	options := []dicom.ParseOption{dicom.AllowUnknownSpecificCharacterSet(), dicom.AllowMissingMetaElementGroupLength(), dicom.SkipProcessingPixelDataValue()}
	d := elements{}
	if !pixels {
		options[2] = dicom.SkipPixelData()
		d = before(raw, info.Size(), options)
	}
	var set dicom.Dataset
	if d.list == nil {
		if set, err = dicom.Parse(raw, info.Size(), nil, options...); err != nil {
			return nil, nil, problem.At(path, 0, "", "damaged or cut off: %v", err)
		}
		d.list = set.Elements
	}
	in = &instance{path: path, sop: d.text(tag.SOPInstanceUID), class: d.text(tag.SOPClassUID), series: d.text(tag.SeriesInstanceUID), study: d.text(tag.StudyInstanceUID),
		patient: d.text(tag.PatientID), name: d.text(tag.PatientName), modality: d.text(tag.Modality), description: d.text(tag.SeriesDescription), syntax: d.text(tag.TransferSyntaxUID),
		localizer: strings.Contains(strings.ToUpper(d.text(tag.ImageType)), "LOCALIZER"),
		lossy:     d.text(tag.LossyImageCompression) == "01",
		rows:      d.whole(tag.Rows), columns: d.whole(tag.Columns), samples: max(1, d.whole(tag.SamplesPerPixel)),
		bitsAllocated: d.whole(tag.BitsAllocated), bitsStored: d.whole(tag.BitsStored), highBit: d.whole(tag.HighBit),
		signed: d.whole(tag.PixelRepresentation) == 1, inverted: d.text(tag.PhotometricInterpretation) == "MONOCHROME1"}
	if in.rows == 0 || in.columns == 0 {
		return nil, nil, errNoImage
	}
	if slices.Contains(derived, in.class) {
		return nil, nil, errDerived
	}
	if d.text(tag.HighBit) == "" {
		in.highBit = in.bitsStored - 1
	}
	if err := in.check(); err != nil {
		return nil, nil, err
	}
	if in.planes, err = d.planes(max(1, d.whole(tag.NumberOfFrames))); err != nil {
		return nil, nil, problem.At(path, 0, "", "%v", err)
	}
	if pixels {
		frames, err = in.frames(set)
	}
	return in, frames, err
}

// headBytes of a file are looked at for its header.
const headBytes = 1 << 16

// before reads what stands before the pixels of an image of one frame, so that the pixels of a
// large archive are read once. It returns no elements where that does not suffice: the pixels are
// cut off or lie farther behind, are deflated or big-endian, or the image has several frames.
func before(raw *bufio.Reader, size int64, options []dicom.ParseOption) elements {
	head, _ := raw.Peek(headBytes)
	for at := 132; ; at++ {
		next := bytes.Index(head[at:], []byte{0xe0, 0x7f, 0x10, 0}) // the tag of pixel data
		if at += next; next < 0 || at+12 > len(head) {
			return elements{}
		}
		length, from := binary.LittleEndian.Uint32(head[at+4:]), at+8
		if vr := string(head[at+4 : at+6]); vr == "OW" || vr == "OB" {
			length, from = binary.LittleEndian.Uint32(head[at+8:]), at+12
		}
		if length != tag.VLUndefinedLength && int64(from)+int64(length) > size {
			continue
		}
		set, err := dicom.Parse(bytes.NewReader(head[:at]), int64(at), nil, options...)
		d := elements{set.Elements}
		// The tag may also stand within an element. All that is read of such an image stands in group
		// 0028 or before.
		placed := d.text(tag.ImagePositionPatient) != "" && d.text(tag.RescaleSlope) != ""
		if err == nil && placed && d.whole(tag.Rows) > 0 && d.whole(tag.BitsStored) > 0 && d.whole(tag.NumberOfFrames) < 2 {
			return d
		}
	}
}

// derived are the SOP classes of segmentations and of doses, images that are no scans (PS3.4,
// table B.5-1).
var derived = []string{"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.2"}

// Files that are passed over: the importer says how many they were.
var (
	errNotDICOM = errors.New("no DICOM file")
	errNoImage  = errors.New("a DICOM file without an image")
	errDerived  = errors.New("a DICOM segmentation or dose, no scan")
)

// check refuses what cannot be an axial scan.
func (in *instance) check() error {
	wrong := func(format string, args ...any) error { return problem.At(in.path, 0, "", format, args...) }
	switch {
	case in.series == "":
		return wrong("has no SeriesInstanceUID (0020,000E): it is not known which scan it belongs to")
	case in.samples != 1: // which newSeries refuses, unless it is a picture of its own
		return nil
	case in.bitsAllocated != 8 && in.bitsAllocated != 16 && in.bitsAllocated != 32:
		return wrong("has BitsAllocated %d, want 8, 16 or 32", in.bitsAllocated)
	case in.bitsStored < 1 || in.bitsStored > in.bitsAllocated:
		return wrong("has BitsStored %d of %d allocated", in.bitsStored, in.bitsAllocated)
	case in.highBit < in.bitsStored-1 || in.highBit >= in.bitsAllocated:
		return wrong("has HighBit %d, with %d bits stored of %d allocated", in.highBit, in.bitsStored, in.bitsAllocated)
	case in.rows > 1<<14 || in.columns > 1<<14:
		return wrong("claims %d x %d pixels, sides of at most 16384 are read", in.columns, in.rows)
	}
	return nil
}

// frames decodes the pixels.
func (in *instance) frames(set dicom.Dataset) ([][]int32, error) {
	element, err := set.FindElementByTag(tag.PixelData)
	if err != nil {
		return nil, problem.At(in.path, 0, "", "has no pixel data")
	}
	info := dicom.MustGetPixelDataInfo(element.Value)
	n := len(in.planes)
	var fragments [][]byte
	for _, f := range info.Frames {
		fragments = append(fragments, f.EncapsulatedData.Data)
	}
	switch {
	case slices.Contains(uncompressed, in.syntax):
		var order binary.ByteOrder = binary.LittleEndian
		if in.syntax == explicitBig {
			order = binary.BigEndian
		}
		size := in.rows * in.columns * in.bitsAllocated / 8
		if len(info.UnprocessedValueData) < n*size {
			return nil, problem.At(in.path, 0, "", "cut off: %d bytes of pixels, %d frames of %d x %d need %d", len(info.UnprocessedValueData), n, in.columns, in.rows, n*size)
		}
		out := make([][]int32, n)
		for k := range out {
			out[k] = in.unpack(info.UnprocessedValueData[k*size:(k+1)*size], order)
		}
		return out, nil
	}
	if !slices.Contains(decodedHere, in.syntax) {
		return nil, errCompressed
	}
	if len(fragments) > n && n == 1 { // one frame in several fragments
		fragments = [][]byte{bytes.Join(fragments, nil)}
	}
	if len(fragments) != n {
		return nil, problem.At(in.path, 0, "", "holds %d compressed frames in %d pieces: convert it with gdcmconv --raw", n, len(fragments))
	}
	out := make([][]int32, n)
	for k, data := range fragments {
		switch in.syntax {
		case runLength:
			raw, err := unRLE(data, in.rows*in.columns, in.bitsAllocated/8)
			if err != nil {
				return nil, problem.At(in.path, 0, "", "frame %d: %v", k, err)
			}
			out[k] = in.unpack(raw, binary.LittleEndian)
		default: // lossless JPEG
			values, err := decodeLosslessJPEG(data, in.columns, in.rows)
			if err != nil {
				return nil, problem.At(in.path, 0, "", "frame %d: %v", k, err)
			}
			for i, v := range values {
				values[i] = in.value(uint32(v))
			}
			out[k] = values
		}
	}
	return out, nil
}

// errCompressed is the answer to a transfer syntax that is decoded by gdcmconv.
var errCompressed = errors.New("compressed")

// unpack reads stored values.
func (in *instance) unpack(raw []byte, order binary.ByteOrder) []int32 {
	out := make([]int32, in.rows*in.columns)
	switch in.bitsAllocated {
	case 8:
		for i := range out {
			out[i] = in.value(uint32(raw[i]))
		}
	case 16:
		for i := range out {
			out[i] = in.value(uint32(order.Uint16(raw[2*i:])))
		}
	default:
		for i := range out {
			out[i] = in.value(order.Uint32(raw[4*i:]))
		}
	}
	return out
}

// value takes the bits stored, their sign, and the inversion of MONOCHROME1.
func (in *instance) value(bits uint32) int32 {
	bits >>= in.highBit + 1 - in.bitsStored
	shift := 32 - in.bitsStored
	if in.signed {
		v := int32(bits<<shift) >> shift
		if in.inverted {
			v = -1 - v
		}
		return v
	}
	v := bits << shift >> shift
	if in.inverted {
		v = uint32(1<<in.bitsStored-1) - v
	}
	return int32(v)
}

// unRLE undoes the run lengths of PS3.5, annex G: a segment per byte of a pixel, the most
// significant first. It returns little-endian pixels.
func unRLE(data []byte, pixels, bytesPerPixel int) ([]byte, error) {
	if len(data) < 64 {
		return nil, errors.New("the run-length header is cut off")
	}
	if n := int(binary.LittleEndian.Uint32(data)); n != bytesPerPixel {
		return nil, fmt.Errorf("%d run-length segments, want %d", n, bytesPerPixel)
	}
	out := make([]byte, pixels*bytesPerPixel)
	for s := range bytesPerPixel {
		at := int(binary.LittleEndian.Uint32(data[4+4*s:]))
		n := 0
		for n < pixels {
			if at < 64 || at >= len(data) {
				return nil, fmt.Errorf("run-length segment %d ends after %d of %d pixels", s, n, pixels)
			}
			control := int(int8(data[at]))
			at++
			literal := control >= 0
			count := 1 - control
			if literal {
				count = control + 1
			} else if control == -128 {
				continue
			}
			for range count {
				if at >= len(data) || n >= pixels {
					return nil, fmt.Errorf("run-length segment %d does not fit %d pixels", s, pixels)
				}
				out[n*bytesPerPixel+bytesPerPixel-1-s] = data[at]
				n++
				if literal {
					at++
				}
			}
			if !literal {
				at++
			}
		}
	}
	return out, nil
}

// elements are a data set or an item of a sequence.
type elements struct{ list []*dicom.Element }

func (d elements) find(t tag.Tag) *dicom.Element {
	for _, e := range d.list {
		if e.Tag == t {
			return e
		}
	}
	return nil
}

// text is the element's text, several values joined by backslashes; "" when absent.
func (d elements) text(t tag.Tag) string {
	e := d.find(t)
	if e == nil || e.Value == nil {
		return ""
	}
	switch v := e.Value.GetValue().(type) {
	case []string:
		return strings.Trim(strings.Join(v, `\`), " \x00")
	case []int:
		if len(v) > 0 {
			return strconv.Itoa(v[0])
		}
	}
	return ""
}

func (d elements) whole(t tag.Tag) int {
	n, err := strconv.Atoi(strings.TrimSpace(d.text(t)))
	if err != nil {
		return 0
	}
	return n
}

// numbers reads n decimal values; ok is false when the element is absent.
func (d elements) numbers(t tag.Tag, n int) (v []float64, ok bool, err error) {
	text := d.text(t)
	if text == "" {
		return nil, false, nil
	}
	parts := strings.Split(text, `\`)
	if len(parts) != n {
		return nil, false, fmt.Errorf("%v has %d values, want %d", t, len(parts), n)
	}
	for _, p := range parts {
		x, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, false, fmt.Errorf("%v: %q is no finite number", t, problem.Clip(p, 40))
		}
		v = append(v, x)
	}
	return v, true, nil
}

// items are the items of a sequence.
func (d elements) items(t tag.Tag) []elements {
	e := d.find(t)
	if e == nil || e.Value == nil {
		return nil
	}
	list, ok := e.Value.GetValue().([]*dicom.SequenceItemValue)
	if !ok {
		return nil
	}
	var out []elements
	for _, item := range list {
		if inside, ok := item.GetValue().([]*dicom.Element); ok {
			out = append(out, elements{inside})
		}
	}
	return out
}

// planes places every frame: from the image itself, else from the functional groups of a
// multi-frame image, shared or per frame (PS3.3 C.7.6.16).
func (d elements) planes(n int) ([]plane, error) {
	if n > 1<<14 {
		return nil, fmt.Errorf("claims %d frames, at most 16384 are read", n)
	}
	shared := d.items(tag.SharedFunctionalGroupsSequence)
	each := d.items(tag.PerFrameFunctionalGroupsSequence)
	if n > 1 && len(each) != n {
		return nil, fmt.Errorf("has %d frames and functional groups of %d: it is not known where its frames lie", n, len(each))
	}
	out := make([]plane, n)
	for k := range out {
		groups := append([]elements{d}, shared...)
		if k < len(each) {
			groups = append(groups, each[k])
		}
		p := plane{slope: 1}
		for _, g := range groups {
			all := []elements{g}
			for _, t := range []tag.Tag{tag.PlanePositionSequence, tag.PlaneOrientationSequence, tag.PixelMeasuresSequence, tag.PixelValueTransformationSequence} {
				all = append(all, g.items(t)...)
			}
			for _, from := range all {
				if err := p.read(from); err != nil {
					return nil, err
				}
			}
		}
		p.placed = p.placed && p.row != [3]float64{} && p.spacing != [2]float64{}
		out[k] = p
	}
	return out, nil
}

// read takes what the elements say of the plane.
func (p *plane) read(d elements) error {
	if v, ok, err := d.numbers(tag.ImagePositionPatient, 3); err != nil {
		return err
	} else if ok {
		p.position, p.placed = [3]float64(v), true
	}
	if v, ok, err := d.numbers(tag.ImageOrientationPatient, 6); err != nil {
		return err
	} else if ok {
		p.row, p.column = [3]float64(v[:3]), [3]float64(v[3:])
		if math.Abs(norm(p.row)-1) > 1e-2 || math.Abs(norm(p.column)-1) > 1e-2 || math.Abs(dot(p.row, p.column)) > 1e-2 {
			return fmt.Errorf("ImageOrientationPatient %v is no pair of perpendicular directions", v)
		}
	}
	if v, ok, err := d.numbers(tag.PixelSpacing, 2); err != nil {
		return err
	} else if ok {
		p.spacing = [2]float64(v)
		if min(v[0], v[1]) <= 0 {
			return fmt.Errorf("PixelSpacing %v is not positive", v)
		}
	}
	slope, hasSlope, err := d.numbers(tag.RescaleSlope, 1)
	if err != nil {
		return err
	}
	intercept, hasIntercept, err := d.numbers(tag.RescaleIntercept, 1)
	if err != nil {
		return err
	}
	if hasSlope && hasIntercept {
		p.slope, p.intercept, p.rescaled = slope[0], intercept[0], true
	}
	return nil
}

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

func norm(a [3]float64) float64 { return math.Sqrt(dot(a, a)) }

func cross(a, b [3]float64) [3]float64 {
	return [3]float64{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}
