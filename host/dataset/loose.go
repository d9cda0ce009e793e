package dataset

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// looseSplit is the split of inputs that come without a table.
const looseSplit = "predict"

// openSlices takes a folder of slices as one stack in the natural order
// of names, or one slice alone; every slice is a case.
func openSlices(o *opener) error {
	there, folder := exists(o.path)
	if !there {
		return problem.File(o.path, fs.ErrNotExist)
	}
	files := []string{o.path}
	numbers := []int{0}
	if folder {
		var err error
		if files, numbers, err = o.sliceFiles(); err != nil {
			return err
		}
	} else {
		o.d.Dir = filepath.Dir(o.path)
	}
	if len(files) > 1 && o.spacing[0] <= 0 {
		o.warn("the slices' distance is unknown: every slice stands in for its neighbours; add ?spacing_mm=Z,Y,X to the data spec")
	}
	o.d.Modalities = []string{Volume}
	o.setClasses(nil)
	grey := false
	name := filepath.Base(o.path)
	s := &stack{files: map[int]string{}}
	o.d.stacks[name] = s
	for k, file := range files {
		n := numbers[k]
		s.files[n] = file
		i := o.addCase(Case{ID: filepath.Base(file), Patient: name, Split: looseSplit, Stack: name, KeySlice: n,
			Images: map[string]string{Volume: file}, SpacingMM: o.spacing, greyHU: o.opt.GreyHU}, file, 0)
		o.expect(expectedImage{caseIndex: i, path: file})
	}
	if err := o.readHeaders(); err != nil {
		return err
	}
	o.expects = nil
	for _, info := range o.infos {
		grey = grey || info.bits == 8
	}
	if grey && o.opt.GreyHU == [2]float64{} {
		o.warn("8-bit grey values are taken to fill the encoder's window; add ?grey_hu=LOW,HIGH to the data spec where their Hounsfield units are known")
	}
	for i := range o.d.Cases {
		if first, c := o.d.Cases[0].Size, &o.d.Cases[i]; c.Size != first && c.Size != [2]int{} && first != [2]int{} {
			o.problems.Add(files[i], 0, "", "is %d x %d pixels, the first slice is %d x %d", c.Size[1], c.Size[0], first[1], first[0])
		}
	}
	return nil
}

// sliceFiles lists the slices of a folder in the natural order of their names, with their
// places in the stack. Where all names end in a number and some numbers are absent, the
// others keep their distance. Files that may be slices in a format that is not read are
// an error, others a warning.
func (o *opener) sliceFiles() (files []string, places []int, err error) {
	names, err := sortedNames(o.path)
	if err != nil {
		return nil, nil, err
	}
	var others []string
	for _, n := range names {
		switch {
		case isPicture(n):
			files = append(files, filepath.Join(o.path, n))
			places = append(places, len(places))
		case slices.Contains([]string{".dcm", ".gif", ".jp2", ".heic", ".avif"}, strings.ToLower(filepath.Ext(n))):
			o.problems.Add(filepath.Join(o.path, n), 0, "", "is no %s: a slice would be missing; convert it, or move it elsewhere", pictureKinds)
		default:
			others = append(others, n)
		}
	}
	if len(files) == 0 {
		return nil, nil, problem.At(o.path, 0, "", "the folder holds no slices (%s)", pictureKinds)
	}
	if len(others) > 0 {
		o.warn("%s: %d files are no slices and are left out: %s", filepath.ToSlash(o.path), len(others), problem.Quote(others))
	}
	if stems := o.sliceStems(files); len(stems) > 1 {
		o.warn("%s: the names of its slices begin in %d ways, %s: one series is expected in a folder, and these are taken as neighbours", filepath.ToSlash(o.path), len(stems), problem.Quote(stems))
	}
	if numbers := sliceNumbers(files); numbers != nil {
		gaps := numbers[len(numbers)-1] - numbers[0] + 1 - len(numbers)
		k := 1
		for gaps > 0 && numbers[k] == numbers[k-1]+1 {
			k++
		}
		if gaps > 0 {
			o.warn("%s: %d slices are missing by their numbers, the first after %s, where %s follows: the others keep their distance",
				filepath.ToSlash(o.path), gaps, filepath.Base(files[k-1]), filepath.Base(files[k]))
			for k := range places {
				places[k] = numbers[k] - numbers[0]
			}
		}
	}
	return files, places, nil
}

var trailingNumber = regexp.MustCompile(`^(.*?)(\d{1,9})$`)

var copied = regexp.MustCompile(`( ?\(\d+\)|[ _-]copy( ?\d+)?)$`)

// sliceStems are the ways in which numbered names begin; copies that a file manager made are
// one of them, by their whole names.
func (o *opener) sliceStems(files []string) []string {
	var stems []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		stem := name
		if m := trailingNumber.FindStringSubmatch(name); m != nil {
			stem = m[1]
		} else if !copied.MatchString(strings.ToLower(name)) {
			continue
		}
		if !slices.Contains(stems, stem) {
			stems = append(stems, stem)
		}
	}
	return stems
}

// sliceNumbers are the numbers at the ends of slices' names, or nil unless all names are
// alike but for numbers that rise.
func sliceNumbers(files []string) []int {
	var stem string
	numbers := make([]int, len(files))
	for k, file := range files {
		m := trailingNumber.FindStringSubmatch(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
		if m == nil || k > 0 && m[1] != stem {
			return nil
		}
		stem = m[1]
		numbers[k], _ = strconv.Atoi(m[2]) // nine digits fit
		if k > 0 && numbers[k] <= numbers[k-1] {
			return nil
		}
	}
	return numbers
}

// openImage takes one picture as a case without targets.
func openImage(o *opener) error {
	if o.opt.Task == Detect {
		return openSlices(o)
	}
	o.d.Task = Classify
	o.d.Dir = filepath.Dir(o.path)
	o.d.Modalities = []string{single}
	c := Case{ID: filepath.Base(o.path), Split: looseSplit, Images: map[string]string{single: o.path}}
	o.expect(expectedImage{caseIndex: o.addCase(c, o.path, 0), path: o.path})
	o.unlabelled()
	return nil
}

// openNIfTI takes NIfTI volumes; every axial slice is a case. Slices are turned so
// that columns run to the patient's left and rows to the back, as in DeepLesion.
func openNIfTI(o *opener) error {
	there, folder := exists(o.path)
	if !there {
		return problem.File(o.path, fs.ErrNotExist)
	}
	files := []string{o.path}
	if folder {
		names, err := sortedNames(o.path)
		if err != nil {
			return err
		}
		files = nil
		for _, n := range names {
			if strings.HasSuffix(n, ".nii") || strings.HasSuffix(n, ".nii.gz") {
				files = append(files, filepath.Join(o.path, n))
			}
		}
		if len(files) == 0 {
			return problem.At(o.path, 0, "", "the folder holds no .nii or .nii.gz files")
		}
	} else {
		o.d.Dir = filepath.Dir(o.path)
	}
	if o.opt.Task == Classify {
		o.wholeVolumes(files)
		return nil
	}
	o.d.Modalities = []string{Volume}
	o.setClasses(nil)
	var frames []*volumeFrame
	for _, file := range files {
		h, err := nifti.ReadHeader(file)
		if err != nil {
			o.problems.Add(file, 0, "", "%v", err)
			continue
		}
		info, err := os.Stat(file)
		if err != nil {
			return problem.File(file, err)
		}
		name := filepath.Base(file)
		f := h.Frame()
		frames = append(frames, &volumeFrame{file, h, f, info.Size()})
		o.d.stacks[name] = &stack{nifti: file, depth: f.Depth, fileBytes: info.Size()}
		for z := range f.Depth {
			o.addCase(Case{ID: fmt.Sprintf("%s#%d", name, z), Patient: name, Split: looseSplit, Stack: name, KeySlice: z,
				Images: map[string]string{Volume: file}, SpacingMM: f.SpacingMM, Size: [2]int{f.Height, f.Width},
				WorldRAS: &f.WorldRAS, StoredRAS: &h.Affine}, file, 0)
		}
	}
	o.warnOfFrames(frames)
	return nil
}

// wholeVolumes takes NIfTI volumes as cases of a classifier, without targets.
func (o *opener) wholeVolumes(files []string) {
	o.d.Task = Classify
	s := &scans{o: o, t: &table.Table{Path: o.path}, frames: map[string]*volumeFrame{}}
	o.d.windows = map[string][]window{}
	o.d.Modalities = s.expand("path", Volume)
	for _, file := range files {
		i := o.addCase(Case{ID: filepath.Base(file), Patient: filepath.Base(file), Split: looseSplit, Images: map[string]string{}}, file, 0)
		for _, m := range o.d.Modalities {
			o.d.Cases[i].Images[m] = file
		}
		s.add(i, table.Row{}, map[string]string{"path": file})
	}
	s.show()
	o.unlabelled()
}
