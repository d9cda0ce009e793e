package boxops

// Matcher assigns reference boxes (anchors or proposals) to lesions by
// intersection over union, as mmdetection's MaxIoUAssigner does.
type Matcher struct {
	Convention Convention
	// PositiveIoU: a box with at least this IoU takes its best lesion.
	PositiveIoU float32
	// NegativeIoU: a box below it with every lesion is background.
	NegativeIoU float32
	// MinimumIoU: every lesion also takes all boxes that share its highest IoU,
	// when that is at least MinimumIoU and above 0.
	MinimumIoU float32
	// IgnoreOverlap: a background box is left out when its intersection with an
	// ignore region is more than this part of the box's or of the region's area.
	// Boxes that match a lesion keep it. 0 means 0.5.
	IgnoreOverlap float32
}

// Assignments of boxes that have no lesion.
const (
	Background = -1
	Ignored    = -2
)

// Assign returns for every box the index of its lesion, Background or Ignored.
// Boxes for which valid is false are Ignored; a nil valid means all are valid.
// Without lesions everything valid is background: images without lesions train.
func (m Matcher) Assign(boxes, lesions, ignore []Box, valid []bool) []int32 {
	assigned := make([]int32, len(boxes))
	best := make([]float32, len(boxes))
	argBest := make([]int32, len(boxes))
	lesionBest := make([]float32, len(lesions))
	lesionArgs := make([][]int32, len(lesions)) // the boxes that share lesionBest
	usable := func(i int) bool { return valid == nil || valid[i] }
	for g, lesion := range lesions {
		for i := range boxes {
			if !usable(i) {
				continue
			}
			if iou := m.Convention.IoU(boxes[i], lesion); iou > 0 {
				if iou > best[i] {
					best[i], argBest[i] = iou, int32(g)
				}
				if iou > lesionBest[g] {
					lesionBest[g], lesionArgs[g] = iou, lesionArgs[g][:0]
				}
				if iou == lesionBest[g] {
					lesionArgs[g] = append(lesionArgs[g], int32(i))
				}
			}
		}
	}
	for i := range boxes {
		switch {
		case !usable(i):
			assigned[i] = Ignored
		case best[i] > 0 && best[i] >= m.PositiveIoU:
			assigned[i] = argBest[i]
		case best[i] < m.NegativeIoU:
			assigned[i] = Background
		default:
			assigned[i] = Ignored
		}
	}
	for g := range lesions {
		if lesionBest[g] < m.MinimumIoU {
			continue
		}
		for _, i := range lesionArgs[g] {
			assigned[i] = int32(g)
		}
	}
	m.ignore(assigned, boxes, ignore)
	return assigned
}

func (m Matcher) ignore(assigned []int32, boxes, regions []Box) {
	limit := m.IgnoreOverlap
	if limit == 0 {
		limit = 0.5
	}
	for _, region := range regions {
		area := m.Convention.Area(region)
		for i, b := range boxes {
			if assigned[i] != Background {
				continue
			}
			if inter := m.Convention.Intersection(b, region); inter > 0 && inter > limit*min(area, m.Convention.Area(b)) {
				assigned[i] = Ignored
			}
		}
	}
}

// Inside reports for every box whether it lies wholly in an image of the given
// size in pixels (mmdetection's allowed_border 0).
func (c Convention) Inside(boxes []Box, width, height float32) []bool {
	out := make([]bool, len(boxes))
	for i, b := range boxes {
		if c.Inclusive {
			out[i] = b[0] >= 0 && b[1] >= 0 && b[2] < width && b[3] < height
		} else {
			out[i] = b[0] >= 0 && b[1] >= 0 && b[2] <= width && b[3] <= height
		}
	}
	return out
}
