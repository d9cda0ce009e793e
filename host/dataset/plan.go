package dataset

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// minVisible is the share of a box that must stay in a crop for it to remain a
// target. Less becomes a region to ignore: neither lesion nor background.
const minVisible = 0.4

// plan is everything about a sample that is decided before pixels are read, so that
// batches can be laid out and samples rendered in any order.
type plan struct {
	c *Case
	// geometry by modality; NetHeight and NetWidth are set when the batch is laid out.
	geometry map[string]*Geometry
	// contentHeight and contentWidth are the part of the input that the image fills.
	contentHeight, contentWidth map[string]int
	color                       colorChange
	noiseSeed                   uint64
	boxes                       [][4]float32
	recist                      [][8]float32
	classes                     []int64
	ignore                      [][4]float32
	// patches are the plans of a bag's patches, picks their numbers in the slide.
	patches []*plan
	picks   []int
}

// colorChange are factors drawn once per sample; the zero value changes nothing.
type colorChange struct{ brightness, contrast, saturation float64 }

// splitmix64 spreads seeds (Steele, Lea, Flood 2014).
func splitmix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// sampleRand is the randomness of one case in one epoch: a function of seed, epoch
// and index alone, so that workers cannot change it.
func sampleRand(seed uint64, epoch, index int) *rand.Rand {
	return rand.New(rand.NewPCG(splitmix64(seed^splitmix64(uint64(epoch))), splitmix64(uint64(index)+1)))
}

// newPlan plans case index, which has come repeat times before in this epoch.
func (l *Loader) newPlan(index, repeat int) (*plan, error) {
	c := &l.cases[index]
	rng := sampleRand(l.opt.Load.Seed, l.opt.Epoch, index+repeat*len(l.cases))
	p := &plan{c: c, geometry: map[string]*Geometry{}, contentHeight: map[string]int{}, contentWidth: map[string]int{}}
	if len(c.Patches) > 0 {
		l.planBag(p, rng)
		return p, nil
	}
	for _, modality := range l.modalities {
		path := c.Images[modality]
		if path == "" {
			continue // absent
		}
		v := c.sight(modality)
		size := v.size
		if known, ok := l.data.sizes[path]; ok && c.sights[modality] == nil {
			size = known
		}
		if size[0] < 1 || size[1] < 1 {
			return nil, fmt.Errorf("%w: case %q (%s): the size of %s is unknown", ErrData, c.ID, c.at, modality)
		}
		l.planModality(p, modality, size, v.crop, rng)
	}
	if err := p.planAbsent(l.modalities); err != nil {
		return nil, err
	}
	p.color, p.noiseSeed = l.drawColor(rng), rng.Uint64()
	return p, nil
}

func (l *Loader) drawColor(rng *rand.Rand) colorChange {
	a := l.opt.Load.Augment
	uniform := func(limit float64) float64 { return limit * (2*rng.Float64() - 1) }
	return colorChange{uniform(a.Brightness), uniform(a.Contrast), uniform(a.Saturation)}
}

// planAbsent gives modalities without a picture the geometry of one that there is.
func (p *plan) planAbsent(modalities []string) error {
	i := slices.IndexFunc(modalities, func(m string) bool { return p.geometry[m] != nil })
	if i < 0 && len(modalities) > 0 {
		return fmt.Errorf("%w: case %q (%s) has no %s", ErrData, p.c.ID, p.c.at, strings.Join(modalities, " and no "))
	}
	for _, m := range modalities {
		if p.geometry[m] == nil {
			g := *p.geometry[modalities[i]]
			p.geometry[m], p.contentHeight[m], p.contentWidth[m] = &g, p.contentHeight[modalities[i]], p.contentWidth[modalities[i]]
		}
	}
	return nil
}

// planModality draws the geometry of one image, or of a part of it, and, for volumes, its
// targets.
func (l *Loader) planModality(p *plan, modality string, size [2]int, part [4]float64, rng *rand.Rand) {
	load, a := l.opt.Load, l.opt.Load.Augment
	uniform := func(limit float64) float64 { return limit * (2*rng.Float64() - 1) }
	h, w := float64(size[0]), float64(size[1])
	g := Geometry{A: [6]float64{1, 0, 0, 0, 1, 0}, Height: size[0], Width: size[1]}
	if part != ([4]float64{}) {
		g = g.then([6]float64{1, 0, -part[0], 0, 1, -part[1]})
		h, w = part[3]-part[1]+1, part[2]-part[0]+1
	}

	if a.ResizedCropMin > 0 && a.ResizedCropMin < 1 {
		area := h * w * (a.ResizedCropMin + (1-a.ResizedCropMin)*rng.Float64())
		ratio := math.Exp(uniform(math.Log(4.0 / 3)))
		cropW, cropH := min(w, math.Sqrt(area*ratio)), min(h, math.Sqrt(area/ratio))
		x, y := rng.Float64()*(w-cropW), rng.Float64()*(h-cropH)
		g = g.then([6]float64{1, 0, -x, 0, 1, -y})
		h, w = cropH, cropW
	}
	scale := load.Zoom
	if load.Size > 0 {
		scale = float64(load.Size) / max(h, w)
	}
	contentH, contentW := max(1, math.Round(h*scale)), max(1, math.Round(w*scale))
	sx, sy := contentW/w, contentH/h
	g = g.then([6]float64{sx, 0, 0.5*sx - 0.5, 0, sy, 0.5*sy - 0.5})

	if a.ShiftScaleRotate > 0 && rng.Float64() < a.ShiftScaleRotate {
		angle, f := uniform(a.RotateDeg)*math.Pi/180, 1+uniform(a.Scale)
		dx, dy := uniform(a.Shift)*contentW, uniform(a.Shift)*contentH
		cx, cy := (contentW-1)/2, (contentH-1)/2
		cos, sin := f*math.Cos(angle), f*math.Sin(angle)
		g = g.then([6]float64{cos, -sin, cx - cos*cx + sin*cy + dx, sin, cos, cy - sin*cx - cos*cy + dy})
	}
	if a.FlipX > 0 && rng.Float64() < a.FlipX {
		g = g.then([6]float64{-1, 0, contentW - 1, 0, 1, 0})
	}
	if a.FlipY > 0 && rng.Float64() < a.FlipY {
		g = g.then([6]float64{1, 0, 0, 0, -1, contentH - 1})
	}
	if a.Transpose > 0 && rng.Float64() < a.Transpose {
		g = g.then([6]float64{0, 1, 0, 1, 0, 0})
		contentH, contentW = contentW, contentH
	}
	if load.CropSize > 0 {
		x, y := cropOffset(p.c, g, load, contentH, contentW, rng)
		g = g.then([6]float64{1, 0, -x, 0, 1, -y})
		contentH, contentW = float64(load.CropSize), float64(load.CropSize)
	}
	p.geometry[modality] = &g
	p.contentHeight[modality], p.contentWidth[modality] = int(contentH), int(contentW)
	if modality == Volume && l.opt.Targets {
		p.target(g, contentH-1, contentW-1)
	}
}

// cropOffset draws where a crop begins: around a lesion with probability
// PositiveCrop, anywhere in the content otherwise; small content is not centred
// but lies anywhere in the crop.
func cropOffset(c *Case, g Geometry, load LoadOptions, contentH, contentW float64, rng *rand.Rand) (x, y float64) {
	size := float64(load.CropSize)
	free := func(low, high float64) float64 { // whole pixels from low to high
		if high < low {
			low, high = high, low
		}
		return math.Floor(low) + math.Floor(rng.Float64()*(math.Floor(high)-math.Floor(low)+1))
	}
	positive := rng.Float64() < load.PositiveCrop && len(c.Boxes) > 0
	if !positive {
		return free(0, contentW-size), free(0, contentH-size)
	}
	i := rng.IntN(len(c.Boxes))
	b := moveBox(g, c, i)
	around := func(low, high, content float64) float64 {
		if high-low >= size { // a lesion larger than the crop: cut around its centre
			return math.Floor((low + high - size) / 2)
		}
		v := free(high-size+1, low)
		return clamp(v, min(0, content-size), max(0, content-size))
	}
	return around(b[0], b[2], contentW), around(b[1], b[3], contentH)
}

// moveBox maps box i into network pixels. Under rotation the hull of the corners
// would grow boxes by up to 1.4: with RECIST diameters the box is drawn anew around
// their moved end points, without them around the ellipse that the box encloses.
func moveBox(g Geometry, c *Case, i int) [4]float64 {
	b := c.Boxes[i]
	axisAligned := g.A[1] == 0 && g.A[3] == 0 || g.A[0] == 0 && g.A[4] == 0
	if !axisAligned && i < len(c.RECIST) {
		r := c.RECIST[i]
		x1, y1, x2, y2 := hull(r[:])
		padding := max(0, (x1-b.X1+y1-b.Y1+b.X2-x2+b.Y2-y2)/4) * g.scale()
		moved := moveRECIST(g, r)
		x1, y1, x2, y2 = hull(moved[:])
		return [4]float64{x1 - padding, y1 - padding, x2 + padding, y2 + padding}
	}
	cx, cy := g.ToNetwork(b.Centre())
	rx, ry := (b.X2-b.X1)/2, (b.Y2-b.Y1)/2
	hx, hy := math.Hypot(g.A[0]*rx, g.A[1]*ry), math.Hypot(g.A[3]*rx, g.A[4]*ry)
	return [4]float64{cx - hx, cy - hy, cx + hx, cy + hy}
}

func moveRECIST(g Geometry, r [8]float64) [8]float64 {
	for k := 0; k < 8; k += 2 {
		r[k], r[k+1] = g.ToNetwork(r[k], r[k+1])
	}
	return r
}

// hull returns the extent of x,y pairs.
func hull(points []float64) (x1, y1, x2, y2 float64) {
	x1, y1, x2, y2 = points[0], points[1], points[0], points[1]
	for k := 2; k < len(points); k += 2 {
		x1, x2 = min(x1, points[k]), max(x2, points[k])
		y1, y2 = min(y1, points[k+1]), max(y2, points[k+1])
	}
	return x1, y1, x2, y2
}

// target moves boxes, diameters and regions to ignore into the content, whose last
// pixels are right and bottom.
func (p *plan) target(g Geometry, bottom, right float64) {
	clipped := func(b [4]float64) ([4]float32, float64) {
		area := max(b[2]-b[0], 1e-6) * max(b[3]-b[1], 1e-6)
		x1, y1 := clamp(b[0], 0, right), clamp(b[1], 0, bottom)
		x2, y2 := clamp(b[2], 0, right), clamp(b[3], 0, bottom)
		return [4]float32{float32(x1), float32(y1), float32(x2), float32(y2)}, (x2 - x1) * (y2 - y1) / area
	}
	for i := range p.c.Boxes {
		inside, visible := clipped(moveBox(g, p.c, i))
		if visible < minVisible {
			if visible > 0 {
				p.ignore = append(p.ignore, inside)
			}
			continue
		}
		p.boxes = append(p.boxes, inside)
		p.classes = append(p.classes, int64(p.c.Boxes[i].Class))
		var recist [8]float32
		if i < len(p.c.RECIST) {
			for k, v := range moveRECIST(g, p.c.RECIST[i]) {
				recist[k] = float32(v)
			}
		} else {
			for k := range recist {
				recist[k] = float32(math.NaN())
			}
		}
		p.recist = append(p.recist, recist)
	}
	for _, region := range p.c.Ignore {
		x1, y1, x2, y2 := region.Bounds()
		cx, cy := g.ToNetwork((x1+x2)/2, (y1+y2)/2)
		rx, ry := (x2-x1)/2, (y2-y1)/2
		hx, hy := math.Hypot(g.A[0]*rx, g.A[1]*ry), math.Hypot(g.A[3]*rx, g.A[4]*ry)
		if inside, visible := clipped([4]float64{cx - hx, cy - hy, cx + hx, cy + hy}); visible > 0 {
			p.ignore = append(p.ignore, inside)
		}
	}
}

// scale is network pixels per original pixel.
func (g Geometry) scale() float64 {
	return math.Sqrt(math.Abs(g.A[0]*g.A[4] - g.A[1]*g.A[3]))
}
