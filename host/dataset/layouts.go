package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Layout is one way in which a data set lies on disk. A new layout is a file with the
// function that opens it and a row of the table below: help, messages and the
// completion of commands come from the row.
type Layout struct {
	Name string
	// Path is what stands behind the colon of a data spec: DIR, FILE.csv, PATH, FILE.
	Path string
	// Help says which files lie there.
	Help string
	// Targets says that there are splits, boxes or labels, and columns of attributes:
	// data to train on. The others are for prediction.
	Targets bool

	open func(*opener) error
	// table is the file below Path whose rows have the splits, or several of which it is the
	// first that is there; "." for Path itself, "" when there is none that one may change.
	table string
}

var layouts = []Layout{
	{"deeplesion", "DIR", "DL_info.csv, Images_png/PPPPPP_SS_EE/NNN.png, optional attributes.csv", true, openDeepLesion, ""},
	{"boxes", "DIR", "images.csv, boxes.csv, optional ignore.csv, images/; or FILE.csv, one table of both", true, openBoxes, "images.csv"},
	{"table", "FILE.csv", "id, image or image.NAME (pictures, or scans with window=), volume or volume.NAME, patient, split, label or label.TASK; every other column is an attribute", true, openTable, "."},
	{"volumes", "DIR", "volumes.csv, boxes.csv (or labels, to classify), optional attributes.csv, NIfTI volumes (alignedfusion data import makes it)", true, openVolumes, "volumes.csv"},
	{"patches", "DIR", "patches of slides: patches.csv (patch, slide, x, y, label) or folders SLIDE/X_Y.png, optional slides.csv (slide, patient, split, label, attributes) and attributes.csv; or FILE.csv, one table of both", true, openPatches, "slides.csv,patches.csv"},
	{"derm7pt", "DIR", "meta/meta.csv, meta/*_indexes.csv, images/ (or all of them in DIR)", true, openDerm7pt, ""},
	{"milk10k", "DIR", "MILK10k_Training_Metadata.csv, MILK10k_Training_GroundTruth.csv, MILK10k_Test_Metadata.csv, MILK10k_Training_Input/, MILK10k_Test_Input/", true, openMILK10k, ""},
	{"isic", "DIR", "ISIC_2019_Training_GroundTruth.csv, ISIC_2019_Training_Metadata.csv, ISIC_2019_Test_Metadata.csv, ISIC_2019_Training_Input/, ISIC_2019_Test_Input/; or the same of 2020", true, openISIC, ""},
	{"pad-ufes-20", "DIR", "metadata.csv and the pictures in any folder below", true, openPAD, "metadata.csv"},
	{"nifti", "PATH", "a .nii or .nii.gz file, or a folder of them; to predict", false, openNIfTI, ""},
	{"slices", "PATH", "a folder of slices (PNG, JPEG, TIFF, BMP, WebP), or one of them; to predict", false, openSlices, ""},
	{"image", "FILE", "one picture; to predict", false, openImage, ""},
}

// Layouts returns the layouts that Open knows, those to train on first.
func Layouts() []Layout { return append([]Layout(nil), layouts...) }

// String returns the form of the layout's data specs, for example deeplesion:DIR.
func (l Layout) String() string { return l.Name + ":" + l.Path }

// HasTargets reports whether a data spec names data to train on.
func HasTargets(spec string) bool {
	l, _, _, err := layoutOf(spec)
	return err == nil && l.Targets
}

var specOption = regexp.MustCompile(`\?[a-z_]+(\.[\w-]+)*=`)

// layoutOf takes LAYOUT:PATH?OPTIONS apart.
func layoutOf(spec string) (layout Layout, path, options string, err error) {
	name, path, _ := strings.Cut(spec, ":")
	if at := specOption.FindStringIndex(path); at != nil {
		path, options = path[:at[0]], path[at[0]:]
	}
	names := make([]string, len(layouts))
	for i, l := range layouts {
		if l.Name == name && path != "" {
			return l, path, options, nil
		}
		names[i] = l.Name
	}
	hint := nearest.Meant(name, names)
	if hint == "" {
		hint = specFor(spec)
	}
	return Layout{}, "", "", fmt.Errorf("%w: data spec %q: want LAYOUT:PATH%s; there are the layouts %s", ErrData, spec, hint, strings.Join(names, ", "))
}

// specFor says how a path that stands without a layout is given, by what lies there; "" where
// that does not tell.
func specFor(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	ending := strings.ToLower(filepath.Ext(path))
	if !info.IsDir() {
		switch {
		case ending == ".csv":
			return fmt.Sprintf("; a table of cases is %q", "table:"+path)
		case strings.HasSuffix(path, ".nii") || strings.HasSuffix(path, ".nii.gz"):
			return fmt.Sprintf("; a volume to predict is %q", "nifti:"+path)
		}
		return ""
	}
	for _, file := range []struct{ name, layout string }{{"volumes.csv", "volumes"}, {"DL_info.csv", "deeplesion"}, {"patches.csv", "patches"}, {"slides.csv", "patches"}, {"boxes.csv", "boxes"}, {"meta", "derm7pt"},
		{"MILK10k_Training_Metadata.csv", "milk10k"}, {"ISIC_2019_Training_GroundTruth.csv", "isic"}, {"ISIC_2020_Training_GroundTruth.csv", "isic"}, {"metadata.csv", "pad-ufes-20"}} {
		if _, err := os.Stat(filepath.Join(path, file.name)); err == nil {
			return fmt.Sprintf("; this folder is %q", file.layout+":"+path)
		}
	}
	return "; scans as they come (DICOM series, NIfTI) are made a data set by `alignedfusion data import`"
}

// TableOf is the file whose column split divides a data set. It fails with ErrData for a
// layout whose splits are published with the data.
func TableOf(spec string) (string, error) {
	l, path, _, err := layoutOf(spec)
	if err != nil {
		return "", err
	}
	if _, folder := exists(path); l.table == "." || l.table != "" && !folder {
		return path, nil
	}
	if l.table == "" {
		return "", fmt.Errorf("%w: %s has no table of splits to be written; table:, boxes:, volumes: and patches: have", ErrData, l)
	}
	names := strings.Split(l.table, ",")
	for _, name := range names {
		if there, _ := exists(filepath.Join(path, name)); there {
			return filepath.Join(path, name), nil
		}
	}
	return filepath.Join(path, names[0]), nil
}

// SpecOptions are the options behind a data spec's path.
func SpecOptions(spec string) string {
	_, _, options, _ := layoutOf(spec)
	return options
}

// shownOptions say what a network is shown of an image.
var shownOptions = []string{"level", "view", "margin_mm", "mask", "window"}

// Shown is a data spec that shows images as another one does, where it does not say itself
// how: what a classifier was trained on is what it is to predict.
func Shown(spec, like string) string {
	has := func(options, name string) bool {
		return regexp.MustCompile(`[?&]` + name + `[.=]`).MatchString(options)
	}
	own := SpecOptions(spec)
	for _, part := range strings.FieldsFunc(SpecOptions(like), func(r rune) bool { return r == '?' || r == '&' }) {
		name, _, _ := strings.Cut(strings.SplitN(part, "=", 2)[0], ".")
		if slices.Contains(shownOptions, name) && !has(own, name) {
			spec += map[bool]string{true: "?", false: "&"}[SpecOptions(spec) == ""] + part
		}
	}
	return spec
}

// AbsoluteSpec is a data spec whose path does not depend on the working directory. It
// fails with ErrData for what is no spec.
func AbsoluteSpec(spec string) (string, error) {
	layout, path, options, err := layoutOf(spec)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	options, err = absoluteOptions(options)
	return layout.Name + ":" + path + options, err
}
