// Package deeplesion reads the rows of DL_info.csv, DeepLesion's table of lesions.
package deeplesion

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Columns are the 18 columns of DL_info.csv.
var Columns = []string{"File_name", "Patient_index", "Study_index", "Series_ID", "Key_slice_index",
	"Measurement_coordinates", "Bounding_boxes", "Lesion_diameters_Pixel_", "Normalized_lesion_location",
	"Coarse_lesion_type", "Possibly_noisy", "Slice_range", "Spacing_mm_px_", "Image_size", "DICOM_windows",
	"Patient_gender", "Patient_age", "Train_Val_Test"}

// Needed are the columns that Parse reads.
var Needed = []string{"File_name", "Bounding_boxes", "Lesion_diameters_Pixel_", "Coarse_lesion_type", "Possibly_noisy",
	"Spacing_mm_px_", "Train_Val_Test"}

// Types names Coarse_lesion_type 1 to 8.
var Types = []string{"bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis"}

// Padding is what the boxes add around the RECIST diameters, in pixels: so far one may
// leave its image.
const Padding = 5

// CellError is the error of a cell that cannot be used.
type CellError struct {
	Column string
	Err    error
}

func (e *CellError) Error() string { return e.Column + ": " + e.Err.Error() }

// Unwrap returns what is wrong with the cell.
func (e *CellError) Unwrap() error { return e.Err }

func bad(column, format string, args ...any) error {
	return &CellError{column, fmt.Errorf(format, args...)}
}

// Lesion is one row.
type Lesion struct {
	File string
	// Split is train, val or test.
	Split string
	Noisy bool
	// Box counts pixels from 0; the table counts from 1.
	Box box.Box
	// LongPixels is the long RECIST diameter.
	LongPixels float64
	// SpacingMM is z, y, x; 0 where the table gives no positive number.
	SpacingMM [3]float64
	// Type is one of Types; "" is unknown.
	Type string
}

// DiameterMM is the long RECIST diameter; 0 where the spacing is unknown.
func (l *Lesion) DiameterMM() float64 { return l.LongPixels * l.SpacingMM[2] }

// Split reads Train_Val_Test.
func Split(text string) (string, error) {
	switch text {
	case "1":
		return "train", nil
	case "2":
		return "val", nil
	case "3":
		return "test", nil
	}
	return "", bad("Train_Val_Test", "%q, want 1 (train), 2 (val) or 3 (test)", problem.Clip(text, 20))
}

// ParseBox reads Bounding_boxes; the box counts pixels from 0.
func ParseBox(text string) (box.Box, error) {
	corners, err := table.Numbers(text, 4)
	if err != nil {
		return box.Box{}, err
	}
	return box.Box{X1: corners[0] - 1, Y1: corners[1] - 1, X2: corners[2] - 1, Y2: corners[3] - 1}, nil
}

// Parse reads a row; get returns the cell of a column. The error is a *CellError.
func Parse(get func(column string) string) (*Lesion, error) {
	l := &Lesion{File: get("File_name"), SpacingMM: spacing(get("Spacing_mm_px_"))}
	var err error
	if l.Box, err = ParseBox(get("Bounding_boxes")); err != nil {
		return nil, &CellError{"Bounding_boxes", err}
	}
	if !l.Box.Valid() {
		return nil, bad("Bounding_boxes", "x2 < x1 or y2 < y1 in %q", get("Bounding_boxes"))
	}
	diameters, err := table.Numbers(get("Lesion_diameters_Pixel_"), 2)
	if err != nil {
		return nil, &CellError{"Lesion_diameters_Pixel_", err}
	}
	l.LongPixels = diameters[0]
	if l.Split, err = Split(get("Train_Val_Test")); err != nil {
		return nil, err
	}
	switch noisy := get("Possibly_noisy"); noisy {
	case "0", "1":
		l.Noisy = noisy == "1"
	default:
		return nil, bad("Possibly_noisy", "%q, want 0 or 1", problem.Clip(noisy, 20))
	}
	switch kind, err := strconv.Atoi(get("Coarse_lesion_type")); {
	case err != nil || kind != -1 && (kind < 1 || kind > len(Types)):
		return nil, bad("Coarse_lesion_type", "%q, want -1 (unknown) or 1 to %d", problem.Clip(get("Coarse_lesion_type"), 20), len(Types))
	case kind > 0:
		l.Type = Types[kind-1]
	}
	return l, nil
}

// spacing reads "x, y, z" in mm as z, y, x; what is not a positive number is unknown
// and becomes 0.
func spacing(text string) [3]float64 {
	var mm [3]float64
	for i, part := range strings.SplitN(text, ",", 3) {
		if v, err := table.Number(strings.TrimSpace(part)); err == nil && v > 0 {
			mm[2-i] = v
		}
	}
	return mm
}
