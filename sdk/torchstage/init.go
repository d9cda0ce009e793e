package torchstage

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
)

// Init fills a new parameter. It draws from a generator seeded by the stage's seed
// and the parameter's name, so that values do not depend on the order of creation.
type Init func(values []float32, shape []int64, rng *rand.Rand)

// NewRand returns the generator of a name under a seed.
func NewRand(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// Constant fills with v.
func Constant(v float64) Init {
	return func(values []float32, _ []int64, _ *rand.Rand) {
		for i := range values {
			values[i] = float32(v)
		}
	}
}

// Zeros fills with 0.
func Zeros() Init { return Constant(0) }

// Ones fills with 1.
func Ones() Init { return Constant(1) }

// Normal draws from N(mean, std^2).
func Normal(mean, std float64) Init {
	return func(values []float32, _ []int64, rng *rand.Rand) {
		for i := range values {
			values[i] = float32(mean + std*rng.NormFloat64())
		}
	}
}

// Uniform draws from [low, high).
func Uniform(low, high float64) Init {
	return func(values []float32, _ []int64, rng *rand.Rand) {
		for i := range values {
			values[i] = float32(low + (high-low)*rng.Float64())
		}
	}
}

// fans returns the fan-in and fan-out of a weight: [out, in, k…] (a matrix is [out, in]).
func fans(shape []int64) (in, out float64) {
	if len(shape) < 2 {
		return 1, 1
	}
	receptive := 1.0
	for _, d := range shape[2:] {
		receptive *= float64(d)
	}
	return float64(shape[1]) * receptive, float64(shape[0]) * receptive
}

// KaimingNormal draws from N(0, 2/fan) (He et al. 2015, Eq. 10): fan-in, or fan-out
// when fanOut is set.
func KaimingNormal(fanOut bool) Init {
	return func(values []float32, shape []int64, rng *rand.Rand) {
		fan, out := fans(shape)
		if fanOut {
			fan = out
		}
		Normal(0, math.Sqrt(2/fan))(values, shape, rng)
	}
}

// KaimingUniform draws from U(-b, b) with b = sqrt(6 / ((1+a^2) fan-in)); a is the
// negative slope of the rectifier (a=1: Caffe2's "XavierFill").
func KaimingUniform(a float64) Init {
	return func(values []float32, shape []int64, rng *rand.Rand) {
		fan, _ := fans(shape)
		b := math.Sqrt(6 / ((1 + a*a) * fan))
		Uniform(-b, b)(values, shape, rng)
	}
}

// XavierUniform draws from U(-b, b) with b = sqrt(6 / (fan-in + fan-out)) (Glorot and
// Bengio 2010, Eq. 16).
func XavierUniform() Init {
	return func(values []float32, shape []int64, rng *rand.Rand) {
		in, out := fans(shape)
		b := math.Sqrt(6 / (in + out))
		Uniform(-b, b)(values, shape, rng)
	}
}
