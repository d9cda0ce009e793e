// Package detect combines detections: of several runs or of mirrored passes over the
// same image (weighted box fusion), and of neighbouring slices into three-dimensional
// findings. Coordinates are continuous: a box is x2-x1 wide.
package detect

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/alignedfusion/alignedfusion/internal/box"
)

// Box is a detection in one image.
type Box = box.Detection

// FuseOptions steer Fuse.
type FuseOptions struct {
	// IoU above which boxes of one class are the same finding; 0 means 0.55.
	IoU float64
	// Weights of the sources; nil means equal ones.
	Weights []float64
	// MinScore drops boxes below it before fusing.
	MinScore float64
}

// Check reports options that make no sense for a number of sources.
func (o FuseOptions) Check(sources int) error {
	if !(o.IoU >= 0 && o.IoU < 1) {
		return fmt.Errorf("fusing boxes: IoU %g given, want 0 (for 0.55) up to below 1", o.IoU)
	}
	if o.Weights != nil && len(o.Weights) != sources {
		return fmt.Errorf("fusing boxes: %d weights given for %d sources", len(o.Weights), sources)
	}
	for _, w := range o.Weights {
		if !(w > 0) || math.IsInf(w, 0) {
			return fmt.Errorf("fusing boxes: weight %g given, want a finite number above 0", w)
		}
	}
	return nil
}

// Fuse combines the boxes that several sources (runs, mirrored passes) found in one
// image: weighted box fusion (Solovyev, Wang and Gabruseva, Image and Vision Computing
// 2021, section 3). Boxes of one class that overlap become their mean weighted by
// score; its score is the weighted mean of theirs, times the share of the sources'
// weight that contributed, so that what only one of them sees counts less. The result
// is ordered by score.
func Fuse(sources [][]Box, o FuseOptions) ([]Box, error) {
	if err := o.Check(len(sources)); err != nil {
		return nil, err
	}
	threshold := o.IoU
	if threshold == 0 {
		threshold = 0.55
	}
	weight := func(source int) float64 {
		if o.Weights == nil {
			return 1
		}
		return o.Weights[source]
	}
	type member struct {
		Box
		source int
		// rank is the score times the source's weight.
		rank float64
	}
	var all []member
	var sum float64
	for k, boxes := range sources {
		sum += weight(k)
		for _, b := range boxes {
			if b.Score >= o.MinScore {
				all = append(all, member{b, k, b.Score * weight(k)})
			}
		}
	}
	slices.SortFunc(all, func(a, b member) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), box.ByScore(a.Box, b.Box), cmp.Compare(a.source, b.source))
	})
	type cluster struct {
		members []member
		fused   Box
	}
	var clusters []*cluster
	for _, m := range all {
		var best *cluster
		bestIoU := threshold
		for _, c := range clusters {
			if c.fused.Class != m.Class {
				continue
			}
			if iou := box.IoU(c.fused.Box, m.Box.Box); iou > bestIoU {
				best, bestIoU = c, iou
			}
		}
		if best == nil {
			best = &cluster{}
			clusters = append(clusters, best)
		}
		best.members = append(best.members, m)
		var f Box
		var total, weights float64
		for _, m := range best.members {
			f.X1 += float64(m.rank * m.X1)
			f.Y1 += float64(m.rank * m.Y1)
			f.X2 += float64(m.rank * m.X2)
			f.Y2 += float64(m.rank * m.Y2)
			total += m.rank
			weights += weight(m.source)
		}
		if total > 0 {
			f.X1, f.Y1, f.X2, f.Y2 = f.X1/total, f.Y1/total, f.X2/total, f.Y2/total
		} else {
			f = best.members[0].Box // scores of 0 weigh nothing
		}
		f.Class = m.Class
		f.Score = total / weights
		best.fused = f
	}
	out := make([]Box, len(clusters))
	for i, c := range clusters {
		seen := map[int]bool{}
		share := 0.0
		for _, m := range c.members {
			if !seen[m.source] {
				seen[m.source] = true
				share += weight(m.source)
			}
		}
		out[i] = c.fused
		out[i].Score *= share / sum
	}
	slices.SortFunc(out, box.ByScore)
	return out, nil
}

// suppressIoU is the overlap above which Suppress drops the lower of two boxes.
const suppressIoU = 0.5

// Suppress combines the boxes that several sources found in one image by keeping, from the
// highest score down, those that overlap none kept of their class by more than an IoU of
// 0.5: non-maximum suppression over all sources together. Boxes and scores stay as they are:
// what one source alone sees counts as much as what all see. The result is ordered by score.
func Suppress(sources [][]Box) []Box {
	all := slices.Concat(sources...)
	slices.SortFunc(all, box.ByScore)
	var kept []Box
	for _, b := range all {
		if !slices.ContainsFunc(kept, func(k Box) bool { return k.Class == b.Class && box.IoU(k.Box, b.Box) > suppressIoU }) {
			kept = append(kept, b)
		}
	}
	return kept
}

// Slice holds the detections of one slice of a volume.
type Slice struct {
	// Z is the slice's index in the volume.
	Z     int
	Boxes []Box
}

// Finding is a lesion followed through slices.
type Finding struct {
	// X1 to Y2 enclose the boxes of all slices; Z1 and Z2 are the first and last slice.
	X1 float64 `json:"x1"`
	Y1 float64 `json:"y1"`
	X2 float64 `json:"x2"`
	Y2 float64 `json:"y2"`
	Z1 int     `json:"z1"`
	Z2 int     `json:"z2"`
	// Score is that of the best slice, BestZ its index.
	Score float64 `json:"score"`
	BestZ int     `json:"best_z"`
	Class int     `json:"class"`
	// Slices is the number of slices it was seen in.
	Slices int `json:"slices"`
}

// MergeOptions steer Merge.
type MergeOptions struct {
	// IoU that boxes of neighbouring slices must have at least; 0 means 0.4.
	IoU float64
	// Gap is the number of slices without a box that a finding may bridge.
	Gap int
	// MinScore drops boxes below it first.
	MinScore float64
}

// Check reports options that make no sense.
func (o MergeOptions) Check() error {
	if !(o.IoU >= 0 && o.IoU <= 1) || o.Gap < 0 {
		return fmt.Errorf("merging slices: IoU %g and gap %d given, want 0 (for 0.4) to 1 and at least 0", o.IoU, o.Gap)
	}
	return nil
}

// Merge follows boxes through the slices of one volume. From the best box on that is
// still free, it goes up and down slice by slice and takes the free box of its class
// that overlaps the last one most. Every box belongs to one finding. The findings are
// ordered by score.
func Merge(volume []Slice, o MergeOptions) ([]Finding, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	threshold := o.IoU
	if threshold == 0 {
		threshold = 0.4
	}
	type node struct {
		Box
		z    int
		free bool
	}
	byZ := map[int][]*node{}
	var all []*node
	low, high := math.MaxInt, math.MinInt
	for _, s := range volume {
		for _, b := range s.Boxes {
			if b.Score < o.MinScore {
				continue
			}
			n := &node{b, s.Z, true}
			byZ[s.Z] = append(byZ[s.Z], n)
			all = append(all, n)
			low, high = min(low, s.Z), max(high, s.Z)
		}
	}
	slices.SortFunc(all, func(a, b *node) int { return cmp.Or(box.ByScore(a.Box, b.Box), cmp.Compare(a.z, b.z)) })
	for _, list := range byZ {
		slices.SortFunc(list, func(a, b *node) int { return box.ByScore(a.Box, b.Box) })
	}
	var out []Finding
	for _, seed := range all {
		if !seed.free {
			continue
		}
		seed.free = false
		f := Finding{seed.X1, seed.Y1, seed.X2, seed.Y2, seed.z, seed.z, seed.Score, seed.z, seed.Class, 1}
		for _, step := range []int{1, -1} {
			last, missed := seed, 0
			for z := seed.z + step; z >= low && z <= high && missed <= o.Gap; z += step {
				var next *node
				bestIoU := threshold
				for _, n := range byZ[z] {
					if iou := box.IoU(last.Box.Box, n.Box.Box); n.free && n.Class == seed.Class && iou >= bestIoU && (next == nil || iou > bestIoU) {
						next, bestIoU = n, iou
					}
				}
				if next == nil {
					missed++
					continue
				}
				missed = 0
				next.free = false
				last = next
				f.X1, f.Y1, f.X2, f.Y2 = min(f.X1, next.X1), min(f.Y1, next.Y1), max(f.X2, next.X2), max(f.Y2, next.Y2)
				f.Z1, f.Z2 = min(f.Z1, z), max(f.Z2, z)
				f.Slices++
			}
		}
		out = append(out, f)
	}
	return out, nil
}
