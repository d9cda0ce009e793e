package importer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Options of Import.
type Options struct {
	// Source is the folder of scans, Out the data set's, which may be there: what it has
	// already is kept.
	Source, Out string
	// Boxes is a CSV of boxes; "" none. Coordinates says what they are in: one of nifti.Frames.
	Boxes, Coordinates string
	// Reports are a CSV or a folder of texts, by the names of the scans or pictures; "" none. They
	// become reports.csv.
	Reports string
	// Masks is a folder of label volumes, one for each scan by name; "" none, or labelsTr
	// beside a Source called imagesTr.
	Masks string
	// Instances says what one lesion of a mask is: one of InstanceRules.
	Instances string
	// Part, unless nil, are the scans to write of n, from first to before end; no table is
	// written then.
	Part func(n int) (first, end int)
	// Found is told of the fingerprints of all scans by their volumes' paths in Out, before
	// anything is written, and may refuse them; nil: nobody.
	Found func(scans map[string]string) error
	// Progress is told of every scan written, by several goroutines; nil: nobody.
	Progress func(done, all int, id string)
}

// Summary says what was found and written.
type Summary struct {
	SchemaVersion int    `json:"schema_version"`
	Spec          string `json:"spec"`
	Volumes       int    `json:"volumes"`
	// Images are pictures; a data set has them or volumes.
	Images   int      `json:"images,omitempty"`
	Written  int      `json:"written"`
	Patients int      `json:"patients"`
	Slices   int      `json:"slices"`
	Boxes    int      `json:"boxes"`
	Reports  int      `json:"reports,omitempty"`
	Notes    []string `json:"notes,omitempty"`

	// Made are the fingerprints of the scans of Options.Part by their volumes' paths in Out.
	Made map[string]string `json:"-"`
}

// ErrPart is returned for a source whose import cannot be divided.
var ErrPart = errors.New("a folder of pictures is imported as a whole")

// scan is a volume found in the source.
type scan struct {
	id, source, series string
	// patient is a pseudonym; names and numbers of patients stay in the headers.
	patient string
	dim     [3]int
	// affine maps the source's voxel indices to mm towards right, anterior, superior.
	affine      [12]float64
	fingerprint string
	// write writes the volume with a note.
	write func(path, note string) error
	notes []string
}

// volumePath is where a scan's volume lies in the data set.
func volumePath(id string) string { return "volumes/" + id + ".nii" }

// Import reads all scans of a folder, DICOM series and NIfTI volumes, and writes them in
// the layout volumes. What was written before by the same scan is left alone, so that an
// import that was cut off goes on. A folder of pictures with boxes of COCO, Pascal VOC or YOLO
// becomes the layout boxes. Problems with the scans come together, as
// problem.List, before anything is written.
func Import(ctx context.Context, o Options) (*Summary, error) {
	var before []string
	var unread error // pictures, where there are no scans
	if images := filepath.Join(o.Source, "imagesTr"); isFolder(images) {
		before = append(before, filepath.ToSlash(images)+" holds the scans (nnU-Net, nnDetection); what lies beside it is not imported")
		o.Source = images
	}
	if o.Boxes == "" && o.Masks == "" && len(before) == 0 {
		s, err := importPictures(ctx, o)
		if s != nil || err != nil && !errors.Is(err, errNoAnnotations) {
			return s, err
		}
		unread = err
	}
	scans, notes, err := find(ctx, o.Source)
	if err != nil {
		return nil, errors.Join(err, unread)
	}
	notes = append(before, notes...)
	boxes, more, err := o.boxes(scans)
	if err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for name, one := range byName(scans) {
		ids[name] = one.id
	}
	texts, of, err := o.readReports(ids)
	if err != nil {
		return nil, err
	}
	more = append(more, of...)
	s := &Summary{SchemaVersion: 1, Spec: "volumes:" + filepath.ToSlash(o.Out), Volumes: len(scans), Boxes: len(boxes), Notes: append(notes, more...)}
	patients := map[string]bool{}
	found := map[string]string{}
	for _, one := range scans {
		found[volumePath(one.id)] = one.fingerprint
		s.Slices += one.dim[2]
		patients[one.patient] = true
	}
	s.Notes = append(s.Notes, notesOf(scans)...)
	s.Patients = len(patients)
	if o.Found != nil {
		if err := o.Found(found); err != nil {
			return nil, err
		}
	}
	folders := []string{filepath.Join(o.Out, "volumes"), o.Out}
	made := slices.DeleteFunc(slices.Clone(folders), isFolder)
	if err := os.MkdirAll(folders[0], 0o777); err != nil {
		return nil, err
	}
	if o.Part != nil {
		first, end := o.Part(len(scans))
		scans, s.Made = scans[first:end], map[string]string{}
		for _, one := range scans {
			s.Made[volumePath(one.id)] = one.fingerprint
		}
	}
	if s.Written, err = writeVolumes(ctx, o, scans); err != nil || o.Part != nil {
		for _, folder := range made {
			_ = os.Remove(folder) // where it is empty
		}
		return s, err
	}
	notes, err = writeTables(o.Out, scans, boxes, o.Boxes != "" || o.Masks != "")
	if s.Notes = append(s.Notes, notes...); err != nil {
		return nil, err
	}
	if err := texts.write(o.Out, s); err != nil {
		return nil, err
	}
	return s, recordSource(o)
}

// fewNotes of one text are given scan by scan.
const fewNotes = 3

// notesOf are the notes of scans; one that many have is counted.
func notesOf(scans []*scan) (notes []string) {
	ids := map[string][]string{}
	for _, one := range scans {
		for _, n := range one.notes {
			ids[n] = append(ids[n], one.id)
		}
	}
	for _, one := range scans {
		for _, n := range one.notes {
			switch of := ids[n]; {
			case len(of) <= fewNotes:
				notes = append(notes, one.id+": "+n)
			case of[0] == one.id:
				notes = append(notes, fmt.Sprintf("%d scans, the first is %s, each: %s", len(of), one.id, n))
			}
		}
	}
	return notes
}

// writeVolumes writes what is not there yet, as many at once as there are processors.
func writeVolumes(ctx context.Context, o Options, scans []*scan) (written int, err error) {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	done := 0
	for _, one := range scans {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			path := filepath.Join(o.Out, filepath.FromSlash(volumePath(one.id)))
			there := nifti.Note(path) == one.fingerprint
			if !there {
				if err := one.write(path, one.fingerprint); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			if !there {
				written++
			}
			if o.Progress != nil {
				o.Progress(done, len(scans), one.id)
			}
			return nil
		})
	}
	return written, group.Wait()
}

// walk lists the plain files below a folder, or takes one file.
func walk(ctx context.Context, root string) (files, notes []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return problem.File(path, err)
		case path != root && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return filepath.SkipDir
			}
		case d.IsDir():
		case !d.Type().IsRegular():
			notes = append(notes, filepath.ToSlash(path)+" is a link or no plain file: left out")
		default:
			files = append(files, path)
		}
		return ctx.Err()
	})
	return files, notes, err
}

// find looks for scans below a folder, or takes one file.
func find(ctx context.Context, root string) (scans []*scan, notes []string, err error) {
	files, notes, err := walk(ctx, root)
	if err != nil {
		return nil, nil, err
	}
	var volumes, others []string
	channels := 0
	for _, f := range files {
		if m := laterChannel.FindStringSubmatch(f); m != nil && slices.Contains(files, m[1]+"_0000"+m[2]) {
			channels++
			continue
		}
		if nifti.IsVolume(f) {
			if ext := strings.ToLower(strings.TrimSuffix(f, ".gz")); strings.HasSuffix(ext, ".img") {
				continue // its header names it
			}
			volumes = append(volumes, f)
		} else {
			others = append(others, f)
		}
	}
	if channels > 0 {
		notes = append(notes, fmt.Sprintf("%d volumes are second or later channels (_0001 …): left out, one channel is read", channels))
	}
	var problems problem.List
	for _, path := range volumes {
		one, files, err := niftiScan(root, path)
		if err != nil {
			problems.AddError(path, 0, "", err)
			continue
		}
		scans = append(scans, one)
		for _, used := range files {
			others = slices.DeleteFunc(others, func(f string) bool { return f == used })
		}
	}
	series, more, err := findSeries(ctx, root, others, &problems)
	if err != nil {
		return nil, nil, err
	}
	scans, notes = append(scans, series...), append(notes, more...)
	if err := problems.Err(); err != nil {
		return nil, nil, err
	}
	if len(scans) == 0 {
		return nil, nil, problem.At(root, 0, "", "holds no scan: neither a DICOM series of two slices or more nor a NIfTI, MetaImage or NRRD volume, in %d files", len(files))
	}
	slices.SortFunc(scans, func(a, b *scan) int { return strings.Compare(a.id, b.id) })
	for k := 1; k < len(scans); k++ {
		if scans[k].id == scans[k-1].id {
			return nil, nil, problem.At(scans[k].source, 0, "", "has the name of another scan, %s: both would be %s", filepath.ToSlash(scans[k-1].source), scans[k].id)
		}
	}
	return scans, notes, nil
}

// laterChannel is a file of nnU-Net that has a channel but the first.
var laterChannel = regexp.MustCompile(`^(.*)_(?:000[1-9]|00[1-9]\d)(\.(?:nii|nii\.gz|nrrd|mha))$`)

// name makes an id of a path below root: its folders joined, without what no file name
// can hold.
func name(root, path string) string {
	rel, err := filepath.Rel(root, path)
	if err != nil || rel == "." {
		rel = filepath.Base(path)
	}
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`/\:*?"<>|#`+"\x00", r) {
			return '_'
		}
		return r
	}, rel)
}

// pseudonym stands for a patient: equal for equal patients, and no way back to a name.
func pseudonym(patient string) string {
	return "P-" + digest.Of("alignedfusion patient " + patient)[:10]
}

// groupSeries reads the headers of DICOM files and sorts them into series; what is damaged
// is added to problems.
func groupSeries(ctx context.Context, files []string, problems *problem.List) (bySeries map[string][]*instance, notes []string, err error) {
	instances := make([]*instance, len(files))
	errs := make([]error, len(files))
	var group errgroup.Group
	group.SetLimit(2 * runtime.GOMAXPROCS(0))
	for k, path := range files {
		group.Go(func() error {
			instances[k], _, errs[k] = readInstance(path, false)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	bySeries = map[string][]*instance{}
	other, localizers, made := 0, 0, 0
	for k, in := range instances {
		switch {
		case errors.Is(errs[k], errNotDICOM) || errors.Is(errs[k], errNoImage):
			other++
		case errors.Is(errs[k], errDerived):
			made++
		case errs[k] != nil:
			problems.AddError(files[k], 0, "", errs[k])
		case in.localizer:
			localizers++
		default:
			bySeries[in.series] = append(bySeries[in.series], in)
		}
	}
	if other > 0 {
		notes = append(notes, fmt.Sprintf("%d files are no DICOM images: left out", other))
	}
	if localizers > 0 {
		notes = append(notes, fmt.Sprintf("%d localizers are left out", localizers))
	}
	if made > 0 {
		notes = append(notes, fmt.Sprintf("%d DICOM segmentations or doses are left out: masks are read as NIfTI, NRRD or MetaImage (--masks)", made))
	}
	return bySeries, notes, nil
}

// bears reports whether a path holds all words of a patient's name.
func bears(path, name string) bool {
	words := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) })
	words = slices.DeleteFunc(words, func(w string) bool { return len(w) < 3 })
	path = strings.ToLower(path)
	return len(words) > 0 && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(path, w) })
}

// findSeries makes a scan of every series of DICOM files.
func findSeries(ctx context.Context, root string, files []string, problems *problem.List) (scans []*scan, notes []string, err error) {
	bySeries, notes, err := groupSeries(ctx, files, problems)
	if err != nil {
		return nil, nil, err
	}
	folders := map[string][]*series{}
	for _, list := range bySeries {
		s, err := newSeries(list)
		if errors.Is(err, errOneImage) {
			notes = append(notes, fmt.Sprintf("%s: a series of one image is no volume: left out", filepath.ToSlash(list[0].path)))
			continue
		}
		if err != nil {
			problems.AddError(list[0].path, 0, "", err)
			continue
		}
		folder := filepath.Dir(s.slices[0].file)
		folders[folder] = append(folders[folder], s)
	}
	slices.Sort(notes)
	named := 0
	for folder, list := range folders {
		slices.SortFunc(list, func(a, b *series) int { return strings.Compare(a.first.series, b.first.series) })
		for n, s := range list {
			id := name(root, folder)
			if len(list) > 1 {
				id = fmt.Sprintf("%s_%d", id, n+1)
			}
			if s.first.name != s.first.patient && bears(id, s.first.name) {
				named++
			}
			patient := s.first.patient
			if patient == "" {
				patient = s.first.study
				s.notes = append(s.notes, "has no PatientID: its study stands for the patient")
			}
			scans = append(scans, &scan{id: id, source: folder, series: s.first.series, patient: pseudonym(patient),
				dim: [3]int{s.first.columns, s.first.rows, len(s.slices)}, affine: s.affine(), fingerprint: s.fingerprint(), write: s.write, notes: s.notes})
		}
	}
	if named > 0 {
		notes = append(notes, fmt.Sprintf("%d scans lie in folders that bear the patient's name, and so do their ids: rename the folders where it is to stay behind", named))
	}
	return scans, notes, nil
}

// niftiName is the name of a volume without its endings, and without nnU-Net's channel.
func niftiName(path string) string {
	base := filepath.Base(path)
	for _, ending := range []string{".gz", ".nii", ".mha", ".mhd", ".hdr", ".nrrd", ".nhdr", ".seg"} {
		if at := len(base) - len(ending); at > 0 && strings.EqualFold(base[at:], ending) {
			base = base[:at]
		}
	}
	return strings.TrimSuffix(base, "_0000")
}

// niftiScan takes a NIfTI volume, and the files that hold it; it is turned to axial slices when it
// is written.
func niftiScan(root, path string) (*scan, []string, error) {
	h, err := nifti.ReadHeader(path)
	if err != nil {
		return nil, nil, problem.At(path, 0, "", "%v", err)
	}
	if !h.Oriented {
		return nil, nil, problem.At(path, 0, "", "does not say how it is oriented (neither sform nor qform, or no space of a patient): set one, else boxes have no place in the patient")
	}
	id := name(root, filepath.Join(filepath.Dir(path), niftiName(path)))
	if path == root {
		id = niftiName(path)
	}
	sum := sha256.New()
	fmt.Fprintln(sum, "volume 2", h.Dim, h.Affine, h.Datatype, h.Slope, h.Intercept)
	for _, file := range h.Files {
		info, err := os.Stat(file)
		if err != nil {
			return nil, nil, problem.File(file, err)
		}
		fmt.Fprintln(sum, info.Size(), info.ModTime().UnixNano())
	}
	one := &scan{id: id, source: path, patient: id, dim: h.Dim, affine: h.Affine, fingerprint: hex.EncodeToString(sum.Sum(nil))[:32]}
	one.notes = append(one.notes, "says nothing of its patient: it stands for one of its own")
	if skew := h.SkewDegrees(); skew > nifti.Skewed {
		one.notes = append(one.notes, fmt.Sprintf("its axes are %.1f degrees from perpendicular, as under a tilted gantry: slices are kept as they are, their places in the patient are right", skew))
	}
	one.write = func(to, note string) error {
		v, err := nifti.Read(path)
		if err != nil {
			return problem.At(path, 0, "", "%v", err)
		}
		out := &nifti.Image{Dim: [3]int{v.Width, v.Height, v.Depth}, Affine: v.WorldRAS, Note: note}
		out.Int16, out.Float32 = compact(v.Data)
		return nifti.Write(to, out)
	}
	return one, h.Files, nil
}

// compact takes whole numbers of 16 bits where they hold all values.
func compact(values []float32) ([]int16, []float32) {
	out := make([]int16, len(values))
	for i, v := range values {
		out[i] = int16(v)
		if float32(out[i]) != v {
			return nil, values
		}
	}
	return out, nil
}

// classesOf reads the classes of instances from nnDetection's JSON beside a mask, or nil.
func classesOf(mask string) (map[int]string, error) {
	path := filepath.Join(filepath.Dir(mask), niftiName(mask)+".json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, problem.File(path, err)
	}
	var doc struct {
		Instances map[string]int `json:"instances"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, problem.At(path, 0, "", "is no JSON of instances: %v", err)
	}
	names, err := labelNames(filepath.Dir(mask))
	if err != nil {
		return nil, err
	}
	classes := map[int]string{}
	for key, class := range doc.Instances {
		var n int
		if _, err := fmt.Sscanf(key, "%d", &n); err != nil || n < 1 {
			return nil, problem.At(path, 0, "", "instance %q is no label of a mask", problem.Clip(key, 40))
		}
		classes[n] = named(names, class)
	}
	return classes, nil
}

// labelNames reads what nnU-Net and nnDetection call the labels, from dataset.json beside the
// folder of masks: {"background": 0, "tumour": 1} or {"0": "background", "1": "tumour"}. nil
// where there is none, and where names are of several labels (nnU-Net's regions).
func labelNames(masks string) (map[int]string, error) {
	path := filepath.Join(filepath.Dir(masks), "dataset.json")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, problem.File(path, err)
	}
	var doc struct {
		Labels map[string]any `json:"labels"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, problem.At(path, 0, "", "is no JSON with labels: %v", err)
	}
	names := map[int]string{}
	for key, value := range doc.Labels {
		n, err := strconv.Atoi(key)
		text, isText := value.(string)
		if _, isRegion := value.([]any); isRegion {
			return nil, nil
		}
		if number, ok := value.(float64); ok && err != nil {
			names[int(number)] = key
		} else if err == nil && isText {
			names[n] = text
		}
	}
	return names, nil
}

// unnamed says whether others have a name and this label has none: the mask or the list is
// not what it is taken for.
func unnamed(names map[int]string, label int) bool {
	others := len(names)
	if names[0] != "" {
		others--
	}
	return others > 0 && names[label] == ""
}

// named is a label's name, or its number.
func named(names map[int]string, label int) string {
	if name := names[label]; name != "" {
		return name
	}
	return strconv.Itoa(label)
}
