package predictions

import (
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/dataset"
)

// Place is where a box lies in the patient and in its file.
type Place struct {
	// LPSMM are the corners x1 y1 z1 x2 y2 z2 in mm towards left, back and head (DICOM's
	// frame); Voxels those in the voxels i, j, k as the file stores them.
	LPSMM      [6]float64 `json:"lps_mm"`
	Voxels     [6]float64 `json:"stored_voxels"`
	DiameterMM float64    `json:"diameter_mm"`
	VolumeMM3  float64    `json:"volume_mm3"`
}

// placeColumns are those that a table has for boxes of volumes.
var placeColumns = []string{"x1_lps_mm", "y1_lps_mm", "z1_lps_mm", "x2_lps_mm", "y2_lps_mm", "z2_lps_mm",
	"i1", "j1", "k1", "i2", "j2", "k2", "diameter_mm", "volume_mm3"}

func placeOf(p *dataset.Place) *Place {
	if p == nil {
		return nil
	}
	out := &Place{DiameterMM: p.DiameterMM, VolumeMM3: p.VolumeMM3}
	copy(out.LPSMM[:], p.LowLPS[:])
	copy(out.LPSMM[3:], p.TopLPS[:])
	copy(out.Voxels[:], p.LowVoxel[:])
	copy(out.Voxels[3:], p.TopVoxel[:])
	return out
}

// cells are the columns of a table, empty where the place is not known.
func (p *Place) cells() []string {
	out := make([]string, len(placeColumns))
	if p == nil {
		return out
	}
	for k := range 6 {
		out[k], out[6+k] = thousandths(p.LPSMM[k]), thousandths(p.Voxels[k])
	}
	out[12], out[13] = thousandths(p.DiameterMM), thousandths(p.VolumeMM3)
	return out
}

func thousandths(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }
