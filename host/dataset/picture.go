package dataset

import (
	"fmt"

	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Picture is a slice or a picture at full resolution, for a person to look at. One of HU,
// Grey and RGB is set.
type Picture struct {
	Height, Width int
	// HU are Hounsfield units [H, W], Grey values without units [H, W], RGB colours [H, W, 3].
	HU   []float32
	Grey []uint8
	RGB  []uint8
}

// Viewer reads pictures of a data set one by one, at full resolution. It may be used by
// several goroutines at once.
type Viewer struct{ l *Loader }

// viewerCache is what a Viewer keeps of slices, in bytes.
const viewerCache = 128 << 20

// Viewer makes one.
func (d *Dataset) Viewer() *Viewer {
	return &Viewer{&Loader{data: d, opt: LoaderOptions{Cache: NewCache(viewerCache)}}}
}

// Slices returns the offsets from the key slice of the first and the last slice that are
// joined to it without a gap, at most reach away; 0 and 0 for a single picture.
func (v *Viewer) Slices(c *Case, reach int) (low, high int) {
	at := c.sight(Volume)
	s := v.l.data.stacks[at.stack]
	if s == nil {
		return 0, 0
	}
	for low > -reach && s.has(at.key+low-1) {
		low--
	}
	for high < reach && s.has(at.key+high+1) {
		high++
	}
	return low, high
}

// Picture reads a case's picture of a modality, for Volume the slice at an offset from the
// key slice. It fails with ErrData for one that is not there or cannot be read.
func (v *Viewer) Picture(c *Case, modality string, offset int) (*Picture, error) {
	path := c.Images[modality]
	if path == "" {
		return nil, fmt.Errorf("%w: case %q has no %s", ErrData, c.ID, modality)
	}
	if !ports.Scan(modality) {
		p, err := v.l.decodePicture(c, modality)
		if err != nil {
			return nil, err
		}
		return &Picture{Height: p.h, Width: p.w, RGB: p.rgb}, nil
	}
	at := c.sight(modality)
	s := v.l.data.stacks[at.stack]
	if offset != 0 && (s == nil || !s.has(at.key+offset)) {
		return nil, fmt.Errorf("%w: case %q has no slice %+d from its key slice", ErrData, c.ID, offset)
	}
	p, err := v.l.slice(c, modality, s, at.key+offset)
	if err != nil {
		return nil, err
	}
	out := &Picture{Height: p.h, Width: p.w, HU: p.hu32, Grey: p.grey8}
	switch {
	case p.hu16 != nil:
		out.HU = make([]float32, len(p.hu16))
		mix(out.HU, p.hu16, p.hu16, 0)
	case p.grey8 != nil && c.greyHU[0] != c.greyHU[1]:
		out.Grey, out.HU = nil, make([]float32, len(p.grey8))
		step := float32((c.greyHU[1] - c.greyHU[0]) / 255)
		for i, g := range p.grey8 {
			out.HU[i] = float32(c.greyHU[0]) + step*float32(g)
		}
	}
	return out, nil
}

// Pseudonym stands for an id of a case or a patient where the id itself is not to be shown:
// twelve digits of its SHA-256. Who has the ids finds them again by it.
func Pseudonym(id string) string {
	return digest.Of("alignedfusion id\x00" + id)[:12]
}
