package pipeline

// LossScale is what losses are multiplied by before they are back-propagated, and gradients
// divided by before they are used: half precision has no numbers below 6e-8. One holds for all
// stages, through which gradients travel, and for all processes of a training. It follows
// PyTorch's GradScaler.
type LossScale struct {
	Scale float64
	// Good counts the steps since it has changed last, Skipped all whose gradients overflowed.
	Good, Skipped int
}

const (
	firstLossScale = 1 << 16
	// growthSteps in a row without an overflow double the scale.
	growthSteps = 2000
)

// NewLossScale is that of a training's first step.
func NewLossScale() *LossScale { return &LossScale{Scale: firstLossScale} }

// value is 1 where nothing is scaled.
func (l *LossScale) value() float64 {
	if l == nil {
		return 1
	}
	return l.Scale
}

// overflow halves the scale, and answers false where that cannot help.
func (l *LossScale) overflow() bool {
	if l == nil || l.Scale <= 1 {
		return false
	}
	l.Scale, l.Good, l.Skipped = l.Scale/2, 0, l.Skipped+1
	return true
}

// updated counts a step that was taken.
func (l *LossScale) updated() {
	if l == nil {
		return
	}
	if l.Good++; l.Good == growthSteps {
		l.Scale, l.Good = l.Scale*2, 0
	}
}
