package export

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/suyashkumar/dicom"
	"github.com/suyashkumar/dicom/pkg/tag"

	"github.com/alignedfusion/alignedfusion/host/dataset/importer"
)

// comprehensive3D is the SOP class of Comprehensive 3D SR.
const comprehensive3D = "1.2.840.10008.5.1.4.1.1.88.34"

// Concepts of the reports: of DICOM's own terms (PS3.16 annex D), SNOMED CT and UCUM.
var (
	cReport       = code{"126000", "DCM", "Imaging Measurement Report"}
	cLanguage     = code{"121049", "DCM", "Language of Content Item and Descendants"}
	cEnglish      = code{"en-US", "RFC5646", "English (United States)"}
	cObserverType = code{"121005", "DCM", "Observer Type"}
	cDevice       = code{"121007", "DCM", "Device"}
	cDeviceUID    = code{"121012", "DCM", "Device Observer UID"}
	cDeviceName   = code{"121013", "DCM", "Device Observer Name"}
	cManufacturer = code{"121014", "DCM", "Device Observer Manufacturer"}
	cProcedure    = code{"121058", "DCM", "Procedure reported"}
	cImaging      = code{"363679005", "SCT", "Imaging procedure"}
	cLibrary      = code{"111028", "DCM", "Image Library"}
	cLibraryGroup = code{"126200", "DCM", "Image Library Group"}
	cMeasurements = code{"126010", "DCM", "Imaging Measurements"}
	cGroup        = code{"125007", "DCM", "Measurement Group"}
	cTrackingID   = code{"112039", "DCM", "Tracking Identifier"}
	cTrackingUID  = code{"112040", "DCM", "Tracking Unique Identifier"}
	cFinding      = code{"121071", "DCM", "Finding"}
	cAlgorithm    = code{"111001", "DCM", "Algorithm Name"}
	cVersion      = code{"111003", "DCM", "Algorithm Version"}
	cParameters   = code{"111002", "DCM", "Algorithm Parameters"}
	cRegion       = code{"111030", "DCM", "Image Region"}
	cDiameter     = code{"81827009", "SCT", "Diameter"}
	cVolume       = code{"118565006", "SCT", "Volume"}
	cQualitative  = code{"C0034375", "UMLS", "Qualitative Evaluations"}
	cScore        = code{"score", scheme, "Detection score"}
	cRecovered    = code{"recovered", scheme, "Attribute recovered by an algorithm, not reported"}
	uMillimetre   = code{"mm", "UCUM", "mm"}
	uMillimetre3  = code{"mm3", "UCUM", "mm3"}
	uOne          = code{"1", "UCUM", "no units"}
)

// labelCodes are the codes of labels that have one; others get a private one.
var labelCodes = map[string]code{
	"lesion": {"52988006", "SCT", "Lesion"},
	"nodule": {"27925004", "SCT", "Nodule"},
}

func labelCode(label string) code {
	if c, ok := labelCodes[label]; ok {
		return c
	}
	return private(label)
}

// content is an item of a content tree (PS3.3 C.17.3).
func content(relationship, valueType string, name code, more ...*dicom.Element) item {
	return append(item{set(tag.RelationshipType, relationship), set(tag.ValueType, valueType), set(tag.ConceptNameCodeSequence, name.item())}, more...)
}

func container(relationship string, name code, children ...item) item {
	return content(relationship, "CONTAINER", name, set(tag.ContinuityOfContent, "SEPARATE"), set(tag.ContentSequence, children))
}

func coded(relationship string, name, value code) item {
	return content(relationship, "CODE", name, set(tag.ConceptCodeSequence, value.item()))
}

func words(relationship string, name code, text string) item {
	return content(relationship, "TEXT", name, set(tag.TextValue, text))
}

func uidRef(relationship string, name code, value string) item {
	return content(relationship, "UIDREF", name, set(tag.UID, value))
}

// measured is a number with a unit, inferred from a region: viewers look for it there. Spacings
// are 32-bit numbers in a volume's header, so seven digits are all there are.
func measured(name code, v float64, unit code, from item) item {
	return content("CONTAINS", "NUM", name, set(tag.ContentSequence, from), set(tag.MeasuredValueSequence, item{
		set(tag.MeasurementUnitsCodeSequence, unit.item()), set(tag.NumericValue, strconv.FormatFloat(v, 'g', 7, 64)), set(tag.FloatingPointValue, []float64{v})}))
}

// template says which template of PS3.16 a container follows.
func template(id string) *dicom.Element {
	return set(tag.ContentTemplateSequence, item{set(tag.MappingResource, "DCMR"), set(tag.TemplateIdentifier, id)})
}

// WriteReports writes a Comprehensive 3D SR of TID 1500 for every volume with findings, as
// VOLUME_sr.dcm, and returns the paths. Equal findings give equal files.
func WriteReports(ctx context.Context, f *Findings, o DICOMOptions) ([]string, error) {
	names, byVolume := f.byVolume()
	targets, err := o.targets(ctx, names, byVolume)
	if err != nil {
		return nil, err
	}
	var paths []string
	for i := range targets {
		elements, err := targets[i].report(f, &o)
		if err != nil {
			return paths, err
		}
		path, err := targets[i].write(o.Out, "_sr.dcm", elements)
		if err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// report is the document of a volume.
func (t *target) report(f *Findings, o *DICOMOptions) (item, error) {
	var groups []item
	used := map[int]bool{}
	for n := range t.findings {
		group, on, err := t.group(n, &o.Algorithm)
		if err != nil {
			return nil, err
		}
		groups = append(groups, group)
		for _, k := range on {
			used[k] = true
		}
	}
	var images []importer.Image
	var library []item
	for k, image := range t.series.Images {
		if used[k] {
			images = append(images, image)
			library = append(library, item{set(tag.RelationshipType, "CONTAINS"), set(tag.ValueType, "IMAGE"), set(tag.ReferencedSOPSequence, reference(image))})
		}
	}
	root := []item{
		coded("HAS CONCEPT MOD", cLanguage, cEnglish),
		coded("HAS OBS CONTEXT", cObserverType, cDevice),
		uidRef("HAS OBS CONTEXT", cDeviceUID, uid("device", o.Algorithm.Name, o.Algorithm.Version)),
		words("HAS OBS CONTEXT", cDeviceName, o.Algorithm.Name),
		words("HAS OBS CONTEXT", cManufacturer, maker),
		coded("HAS CONCEPT MOD", cProcedure, cImaging),
		container("CONTAINS", cLibrary, container("CONTAINS", cLibraryGroup, library...)),
		container("CONTAINS", cMeasurements, groups...),
	}
	if recovered := t.recovered(o); len(recovered) > 0 {
		root = append(root, container("CONTAINS", cQualitative, recovered...))
	}
	elements := t.common("sr", comprehensive3D, "SR", "Findings: "+long(o.Algorithm.Name), f, o)
	return append(elements,
		set(tag.ReferencedPerformedProcedureStepSequence, []item{}), set(tag.PerformedProcedureCodeSequence, []item{}),
		set(tag.CompletionFlag, "COMPLETE"), set(tag.VerificationFlag, "UNVERIFIED"), set(tag.PreliminaryFlag, "PRELIMINARY"),
		set(tag.CurrentRequestedProcedureEvidenceSequence, item{set(tag.StudyInstanceUID, t.study()),
			set(tag.ReferencedSeriesSequence, item{set(tag.SeriesInstanceUID, t.series.UID), set(tag.ReferencedSOPSequence, references(images))})}),
		set(tag.ValueType, "CONTAINER"), set(tag.ConceptNameCodeSequence, cReport.item()), set(tag.ContinuityOfContent, "SEPARATE"),
		template("1500"), set(tag.ContentSequence, root)), nil
}

// group is the measurement group of a finding (TID 1411) and the slices it refers to.
func (t *target) group(n int, a *Algorithm) (item, []int, error) {
	f := &t.findings[n]
	low, top, err := t.voxels(f)
	if err != nil {
		return nil, nil, err
	}
	children := []item{
		words("HAS OBS CONTEXT", cTrackingID, t.trackingID(n)),
		uidRef("HAS OBS CONTEXT", cTrackingUID, t.tracking(n)),
		coded("CONTAINS", cFinding, labelCode(f.Label)),
		words("HAS CONCEPT MOD", cAlgorithm, a.Name), words("HAS CONCEPT MOD", cVersion, a.Version),
	}
	for _, p := range a.Parameters {
		children = append(children, words("HAS CONCEPT MOD", cParameters, p))
	}
	on := t.slicesOf(f, low, top)
	// A pixel's centre is half a pixel from the corner that spatial coordinates count from.
	x1, y1, x2, y2 := low[0]+0.5, low[1]+0.5, top[0]+0.5, top[1]+0.5
	region := func(relationship string, k int) item {
		image := item{set(tag.RelationshipType, "SELECTED FROM"), set(tag.ValueType, "IMAGE"), set(tag.ReferencedSOPSequence, reference(t.series.Images[k]))}
		return content(relationship, "SCOORD", cRegion, set(tag.GraphicType, "POLYLINE"),
			set(tag.GraphicData, []float64{x1, y1, x2, y1, x2, y2, x1, y2, x1, y1}), set(tag.ContentSequence, image))
	}
	for _, k := range on {
		children = append(children, region("CONTAINS", k))
	}
	place := f.place()
	for _, m := range []struct {
		name  code
		value float64
		unit  code
	}{{cDiameter, place.DiameterMM, uMillimetre}, {cVolume, place.VolumeMM3, uMillimetre3}, {cScore, f.Score, uOne}} {
		children = append(children, measured(m.name, m.value, m.unit, region("INFERRED FROM", on[0])))
	}
	return append(container("CONTAINS", cGroup, children...), template("1411")), on, nil
}

// trackingID is the name of a finding in its volume.
func (t *target) trackingID(n int) string {
	return fmt.Sprintf("%s %d", long(t.findings[n].Label), n+1)
}

// tracking is the identifier of a finding: of its place and label, so that reports and
// segmentations of it share it.
func (t *target) tracking(n int) string {
	f := &t.findings[n]
	return uid("finding", t.series.UID, f.text(), strconv.Itoa(f.Z1), strconv.Itoa(f.Z2), f.Label, strconv.Itoa(n))
}

// recovered are the attributes that the algorithm recovers for the key slices of the findings,
// beside the measurements: they are no findings.
func (t *target) recovered(o *DICOMOptions) (out []item) {
	var keys []string
	for _, f := range t.findings {
		if !slices.Contains(keys, f.Key.ID) {
			keys = append(keys, f.Key.ID)
		}
	}
	for _, id := range keys {
		for _, r := range o.Recovered[id] {
			out = append(out, words("CONTAINS", cRecovered, fmt.Sprintf("%s, %s: %s (output of %s %s; the report does not mention it)",
				filepath.Base(id), r.Attribute, r.Summary, o.Algorithm.Name, o.Algorithm.Version)))
		}
	}
	return out
}
