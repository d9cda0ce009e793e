package a3d

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/alignedfusion/alignedfusion/plugins/a3d/boxops"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// detector is an encoder and a head wired as the host wires them, without fusion.
type detector struct {
	encoder, head *stagetest.Stage
	t             testing.TB
}

func openDetector(t testing.TB, threads int, encoder, head sdk.Settings) *detector {
	t.Helper()
	d := &detector{t: t}
	plugin := Plugin()
	optimizer := sdk.Optimizer{Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 1e-4}}
	d.encoder = stagetest.Open(t, plugin, sdk.OpenRequest{Stage: "encoder", Settings: encoder, Seed: 1, Threads: threads, Train: true, Group: t.Name(), Optimizer: optimizer})
	d.head = stagetest.Open(t, plugin, sdk.OpenRequest{Stage: "head", Settings: head, Seed: 2, Threads: threads, Train: true, Group: t.Name(), Optimizer: optimizer,
		Inputs: d.encoder.Response.Outputs})
	return d
}

// train runs forward and backward and returns the losses. Gradients stay in the stages.
func (d *detector) train(seed uint64, volume *tensor.Tensor, targets map[string]*tensor.Tensor) map[string]float64 {
	d.t.Helper()
	left := d.encoder.Train(seed, map[string]*tensor.Tensor{"volume": volume})
	in := map[string]*tensor.Tensor{"tokens.volume": left.Outputs["tokens.volume"]}
	for name, v := range targets {
		in[name] = v
	}
	right := d.head.Train(seed, in)
	weights := map[string]float64{}
	for name := range right.Losses {
		weights[name] = 1
	}
	grads := d.head.Backward(nil, weights)
	d.encoder.Backward(map[string]*tensor.Tensor{"tokens.volume": grads["tokens.volume"]}, nil)
	return right.Losses
}

func (d *detector) detect(volume *tensor.Tensor) map[string]*tensor.Tensor {
	d.t.Helper()
	left := d.encoder.Eval(map[string]*tensor.Tensor{"volume": volume})
	return d.head.Eval(map[string]*tensor.Tensor{"tokens.volume": left.Outputs["tokens.volume"]}).Outputs
}

func total(losses map[string]float64) float64 {
	sum := 0.0
	for _, v := range losses {
		sum += v
	}
	return sum
}

// blobs draws volumes of noise with one bright disc each, and their boxes.
func blobs(rng *rand.Rand, images, slices, side int) (*tensor.Tensor, map[string]*tensor.Tensor) {
	values := make([]float32, images*slices*side*side)
	var boxes []float32
	var owner []int32
	for n := range images {
		r := 4 + 6*rng.Float64()
		x, y := r+2+rng.Float64()*(float64(side)-2*r-4), r+2+rng.Float64()*(float64(side)-2*r-4)
		for d := range slices {
			for j := range side {
				for i := range side {
					v := 20 * rng.NormFloat64()
					if math.Hypot(float64(i)-x, float64(j)-y) < r {
						v += 80
					}
					values[((n*slices+d)*side+j)*side+i] = float32(v)
				}
			}
		}
		boxes = append(boxes, float32(x-r), float32(y-r), float32(x+r), float32(y+r))
		owner = append(owner, int32(n))
	}
	return tensor.OfFloat32s(values, int64(images), 1, int64(slices), int64(side), int64(side)), map[string]*tensor.Tensor{
		"target.boxes": tensor.OfFloat32s(boxes, int64(images), 4), "target.image": tensor.OfInt32s(owner, int64(images)),
	}
}

func TestTinyDetectorLearnsToFindDiscs(t *testing.T) {
	d := openDetector(t, 2, sdk.Settings{"slices": "3"}, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	var first, last float64
	const steps = 120
	for step := range steps {
		volume, targets := blobs(rng, 4, 3, 64)
		loss := total(d.train(uint64(step), volume, targets))
		rate := 0.02 * math.Min(1, float64(step+1)/20)
		d.encoder.Step(rate)
		d.head.Step(rate)
		if step < 10 {
			first += loss / 10
		}
		if step >= steps-10 {
			last += loss / 10
		}
	}
	t.Logf("mean loss of the first and last ten steps: %.3f %.3f", first, last)
	if last > 0.6*first {
		t.Errorf("the loss fell from %.3f to %.3f only", first, last)
	}
	volume, targets := blobs(rng, 16, 3, 64)
	found := d.detect(volume)
	want, _ := targets["target.boxes"].Float32s()
	boxes, _ := found["boxes"].Float32s()
	image, _ := found["image"].Int32s()
	hits, seen := 0, map[int32]bool{}
	for i, n := range image { // boxes come best first within an image
		if seen[n] {
			continue
		}
		seen[n] = true
		if (boxops.Convention{}).IoU([4]float32(boxes[4*i:]), [4]float32(want[4*n:])) >= 0.5 {
			hits++
		}
	}
	t.Logf("the best box of %d of 16 images is right", hits)
	if hits < 12 {
		t.Errorf("the best box is right in %d of 16 images", hits)
	}
}

func BenchmarkTinyTrainingStep(b *testing.B) {
	d := openDetector(b, 2, sdk.Settings{"slices": "7"}, nil)
	volume, targets := blobs(rand.New(rand.NewPCG(1, 2)), 4, 7, 128)
	for b.Loop() {
		d.train(1, volume, targets)
	}
}

// What a step of the detector reads: the sum of the volumes, which it takes where they came from,
// in the host's memory; from the device the encoder's tokens, of the head the proposals of all
// images, losses with metrics, and the gradients of the tokens.
func TestADetectorsStepWaitsForTheDeviceFourTimes(t *testing.T) {
	d := openDetector(t, 2, nil, nil)
	volume, targets := blobs(rand.New(rand.NewPCG(4, 4)), 3, 3, 64)
	before := torchstage.Reads()
	d.train(1, volume, targets)
	if n := torchstage.Reads() - before; n != 1+4 {
		t.Errorf("%d reads, want 1 of the host's memory and 4", n)
	}
}
