package importer

import (
	"os"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// IsDICOM reports whether a file is a DICOM file, by its first bytes.
func IsDICOM(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [132]byte
	_, err = f.ReadAt(head[:], 0)
	return err == nil && string(head[128:]) == "DICM"
}

// SliceSize is the height and the width of a DICOM file of one frame, in pixels.
func SliceSize(path string) (height, width int, err error) {
	in, err := readSlice(path)
	if err != nil {
		return 0, 0, err
	}
	return in.rows, in.columns, nil
}

// ReadSlice is a DICOM file of one frame as [height, width] of rescaled values, Hounsfield
// units for CT.
func ReadSlice(path string) (values []float32, height, width int, err error) {
	in, err := readSlice(path)
	if err != nil {
		return nil, 0, 0, err
	}
	frames, err := decode(path)
	if err != nil {
		return nil, 0, 0, err
	}
	p := in.planes[0]
	values = make([]float32, len(frames[0]))
	for i, stored := range frames[0] {
		values[i] = float32(float64(stored)*p.slope + p.intercept)
	}
	return values, in.rows, in.columns, nil
}

func readSlice(path string) (*instance, error) {
	in, _, err := readInstance(path, false)
	switch {
	case err != nil:
		return nil, problem.File(path, err)
	case len(in.planes) != 1:
		return nil, problem.At(path, 0, "", "has %d frames, want one slice; a volume is made of it by alignedfusion data import", len(in.planes))
	case in.samples != 1:
		return nil, problem.At(path, 0, "", "has %d samples per pixel, a colour image; want one (grey)", in.samples)
	case in.modality == "CT" && !in.planes[0].rescaled:
		return nil, problem.At(path, 0, "", "is CT without RescaleSlope and RescaleIntercept: its values are no Hounsfield units")
	}
	return in, nil
}
