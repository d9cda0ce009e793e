package pipeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// How many of the first steps a stage may have a gradient of exactly zero. A layer that
// starts at zero hides what lies before it until its first update, and there may be some
// in a row: the residual of a fusion, the gate of the joint summary in a head.
const (
	quietSteps = 5
	// emptySteps is the bound where steps with a loss of exactly 0 count too: batches of
	// cases whose labels are all unknown teach nothing.
	emptySteps = 50
)

// learning watches the first steps of a training for stages that do not take part.
type learning struct {
	steps, quiet int
	alive        map[sdk.Kind]bool
}

// check is told of a step's losses and gradients before anything is updated. The error
// is a *StageError: in the first step for a stage that left out a loss it promised, or declares some and gave none,
// later for one whose gradients have all been zero.
func (l *learning) check(members []*Member, result StepResult) error {
	if l.steps >= emptySteps {
		return nil
	}
	l.steps++
	if result.Loss != 0 {
		l.quiet++
	}
	if l.alive == nil {
		l.alive = map[sdk.Kind]bool{}
	}
	for i, m := range members {
		norm, updated := result.GradNorms[string(m.Role)]
		if !updated {
			continue
		}
		if missing := slices.DeleteFunc(slices.Clone(m.Opened.Losses), result.has); l.steps == 1 && len(missing) > 0 {
			return m.fail("train", fmt.Errorf("a training forward did not return %s, which Open promised (it returned %s): a loss that a batch has nothing for is 0, one that these settings or inputs do without is left out of OpenResponse.losses",
				strings.Join(missing, ", "), cmp.Or(lossText(result), "none")))
		}
		if l.steps == 1 && !gaveLoss(m, result) && !feedsLearner(m, members[i+1:]) {
			return m.fail("train", fmt.Errorf("a training forward returned none of its losses (%s): the targets that they are computed from are not among its inputs, or it leaves them out",
				strings.Join(m.Stage.Losses, ", ")))
		}
		if norm != 0 {
			l.alive[m.Role] = true
		}
		if !l.alive[m.Role] && (l.quiet == quietSteps || l.steps == emptySteps) {
			return m.fail("train", fmt.Errorf("its gradient was exactly 0 in each of the first %d steps: nothing that it computes from its %d trainable parameters reaches a loss with a weight (%s); `--set train.%s_lr_factor=0` freezes it",
				l.steps, m.Opened.TrainableCount, lossText(result), m.Role))
		}
	}
	return nil
}

// gaveLoss reports whether a stage's loss has arrived: one of those that it declares, or
// any for one that declares none.
func gaveLoss(m *Member, result StepResult) bool {
	return len(m.Stage.Losses) == 0 && len(result.Losses) > 0 || slices.ContainsFunc(m.Stage.Losses, result.has)
}

func (r StepResult) has(loss string) bool {
	_, there := r.Losses[loss]
	return there
}

// feedsLearner reports whether a later stage may send gradients to m: then m's own losses
// may be left out, as a fusion's are without reports.
func feedsLearner(m *Member, later []*Member) bool {
	for _, out := range m.Opened.Outputs {
		for _, other := range later {
			in := sdk.FindPort(other.Opened.Inputs, out.Name)
			if out.Differentiable && in != nil && in.Differentiable {
				return true
			}
		}
	}
	return false
}

func lossText(result StepResult) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(result.Losses)) {
		parts = append(parts, fmt.Sprintf("%s %.4g", name, result.Losses[name]))
	}
	return strings.Join(parts, ", ")
}
