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
	z1, z2 := float64(first)-0.5, float64(last)+0.5
	low, top := [3]float64{x1, y1, z1}, [3]float64{x2, y2, z2}
	p.LowLPS, p.TopLPS = nifti.Hull(low, top, func(at [3]float64) [3]float64 {
		ras := nifti.Apply(c.WorldRAS, at)
		return [3]float64{-ras[0], -ras[1], ras[2]}
	})
	stored := nifti.Frame{WorldRAS: *c.StoredRAS}
	p.LowVoxel, p.TopVoxel = nifti.Hull(low, top, func(at [3]float64) [3]float64 { return stored.VoxelOf(nifti.Apply(c.WorldRAS, at)) })
	width, height, depth := (x2-x1)*c.SpacingMM[2], (y2-y1)*c.SpacingMM[1], (z2-z1)*c.SpacingMM[0]
	p.VolumeMM3, p.DiameterMM = math.Pi/6*width*height*depth, max(width, height)
	return p
}
