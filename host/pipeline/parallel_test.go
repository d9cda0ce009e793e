package pipeline

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/group"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// rows are some cases of a batch.
func rows(b Batch, first, end int) Batch {
	out := Batch{IDs: b.IDs[first:end], Inputs: map[string]*tensor.Tensor{}}
	for name, t := range b.Inputs {
		size, shape := len(t.Data)/int(t.Shape[0]), append([]int64{int64(end - first)}, t.Shape[1:]...)
		out.Inputs[name] = &tensor.Tensor{DType: t.DType, Shape: shape, Data: t.Data[first*size : end*size]}
	}
	return out
}

// Two processes share batches unevenly, and one of them meets a loss that is no number: they
// do what one with all cases does.
func TestProcessesStepAsOne(t *testing.T) {
	var batches []Batch
	for seed := range uint64(3) {
		batches = append(batches, batch(4, seed))
	}
	broken, err := batches[1].Inputs["image.rgb"].Float32s()
	if err != nil {
		t.Fatal(err)
	}
	broken[len(broken)-1] = float32(math.NaN()) // of the last case
	steps := func(p *Pipeline, g *group.Group, part func(Batch) Batch) (out []StepResult) {
		s := &Stepper{Pipeline: p, Seed: 1, ClipNorm: 0.1, Group: g}
		for i, b := range batches {
			r, err := s.Step(context.Background(), i, []Batch{part(b)}, rates(0.1))
			if err != nil {
				t.Error(err)
			}
			out = append(out, r)
		}
		return out
	}
	silent := map[string]string{"noise": "0"}
	alone := openClassifier(t, false, silent)
	want := steps(alone, nil, func(b Batch) Batch { return b })
	if !want[1].Skipped || want[0].Skipped || want[2].Skipped {
		t.Fatalf("%+v: want the second step skipped", want)
	}
	world, err := group.Local(2, "")
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	for rank := range 2 {
		p := openClassifier(t, false, silent)
		working.Go(func() {
			own := *world
			own.Rank = rank
			g, err := group.Join(context.Background(), &own, func(string) {}, nil)
			if err == nil {
				err = p.Join(context.Background(), g, false)
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer g.Close(nil)
			got := steps(p, g, func(b Batch) Batch {
				mine := rows(b, 3*rank, 3+rank) // three cases, and one
				mine.Weight = float64(len(mine.IDs)) / 2
				return mine
			})
			for i, r := range got {
				if r.Skipped != want[i].Skipped || !r.Skipped && (math.Abs(r.Loss-want[i].Loss)+math.Abs(r.GradNorm-want[i].GradNorm) > 1e-6) {
					t.Errorf("rank %d, step %d: %+v, want %+v", rank, i, r, want[i])
				}
			}
		})
	}
	working.Wait()
}

func TestAStageThatCannotShareItsGradientsIsNamed(t *testing.T) {
	world, err := group.Local(2, "")
	if err != nil {
		t.Fatal(err)
	}
	var working sync.WaitGroup
	for rank := range 2 {
		p, _ := openRecorded(t) // no sdk.Parallel
		working.Go(func() {
			own := *world
			own.Rank = rank
			g, err := group.Join(context.Background(), &own, func(string) {}, nil)
			if err != nil {
				t.Error(err)
				return
			}
			err = p.Join(context.Background(), g, false)
			if text := fmt.Sprint(err); !strings.Contains(text, "encoder toy cannot be trained in 2 processes") || sdk.CodeOf(err) != sdk.Unimplemented {
				t.Errorf("rank %d: %v", rank, err)
			}
			g.Close(nil)
		})
	}
	working.Wait()
}
