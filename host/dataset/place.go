package dataset

import (
	"math"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// Place is where a box on slices of a volume lies.
type Place struct {
	// LowLPS and TopLPS are its corners in mm towards the patient's left, back and head, as
	// DICOM has them.
	LowLPS, TopLPS [3]float64
	// LowVoxel and TopVoxel are its corners in the voxels i, j, k as the file stores them.
	LowVoxel, TopVoxel [3]float64
	// VolumeMM3 is the volume of the ellipsoid that the box encloses, DiameterMM the longer
	// of its sides in the slices.
	VolumeMM3, DiameterMM float64
}

// Place finds the place of a box x1, y1 to x2, y2 (pixels) on the slices first to last
// (each a slice thick), or nil for a case that is not from a volume that says where it
// lies.
func (c *Case) Place(x1, y1, x2, y2 float64, first, last int) *Place {
	if c.WorldRAS == nil || c.StoredRAS == nil {
		return nil
	}
	p := &Place{}
	for k := range 3 {
		p.LowLPS[k], p.TopLPS[k] = math.Inf(1), math.Inf(-1)
		p.LowVoxel[k], p.TopVoxel[k] = math.Inf(1), math.Inf(-1)
	}
	stored := nifti.Frame{WorldRAS: *c.StoredRAS}
	z1, z2 := float64(first)-0.5, float64(last)+0.5
	for _, x := range []float64{x1, x2} {
		for _, y := range []float64{y1, y2} {
			for _, z := range []float64{z1, z2} {
				ras := nifti.Apply(c.WorldRAS, [3]float64{x, y, z})
				voxel := stored.VoxelOf(ras)
				lps := [3]float64{-ras[0], -ras[1], ras[2]}
				for k := range 3 {
					p.LowLPS[k], p.TopLPS[k] = min(p.LowLPS[k], lps[k]), max(p.TopLPS[k], lps[k])
					p.LowVoxel[k], p.TopVoxel[k] = min(p.LowVoxel[k], voxel[k]), max(p.TopVoxel[k], voxel[k])
				}
			}
		}
	}
	width, height, depth := (x2-x1)*c.SpacingMM[2], (y2-y1)*c.SpacingMM[1], (z2-z1)*c.SpacingMM[0]
	p.VolumeMM3, p.DiameterMM = math.Pi/6*width*height*depth, max(width, height)
	return p
}
