package events

import (
	"math"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// weightsFile is what stages of both SDKs call their weights in a checkpoint.
const weightsFile = "weights.safetensors"

// histogramBuckets is how many equal parts the range of a tensor's values is counted in; as
// many as TensorBoard's own summaries take.
const histogramBuckets = 30

// Weights writes a histogram of every weight of a checkpoint, as weights/ROLE/NAME. Stages
// that keep their weights in another kind of file have none.
func (w *Writer) Weights(c *runs.Checkpoint) error {
	roles, err := os.ReadDir(c.Dir)
	if err != nil {
		return fault.Wrap(fault.Resource, err)
	}
	var summary []byte
	for _, role := range roles {
		path := filepath.Join(c.StageDir(role.Name()), weightsFile)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if summary, err = appendWeights(summary, path, "weights/"+role.Name()+"/"); err != nil {
			return err
		}
	}
	if summary == nil {
		return nil
	}
	return w.event(c.State.Step, 5, summary)
}

func appendWeights(summary []byte, path, group string) ([]byte, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Data, err)
	}
	defer f.Close()
	for _, name := range f.Names() {
		t, err := f.Tensor(name)
		if err != nil {
			return nil, fault.Wrap(fault.Data, err)
		}
		if values := finite(t); len(values) > 0 {
			value := appendBytes(appendBytes(nil, 1, []byte(group+name)), 5, histogram(values))
			summary = appendBytes(summary, 1, value)
		}
	}
	return summary, nil
}

// finite returns the numbers of a tensor of floats that are finite; none of another type.
func finite(t *tensor.Tensor) []float64 {
	var values []float64
	if single, err := t.Float32s(); err == nil {
		values = make([]float64, len(single))
		for i, v := range single {
			values[i] = float64(v)
		}
	} else if double, err := t.Float64s(); err == nil {
		values = slices.Clone(double)
	}
	return slices.DeleteFunc(values, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

// histogram is a HistogramProto: least, largest, number, sum and sum of squares of values, and
// how many of them lie up to each limit.
func histogram(values []float64) []byte {
	low, high := slices.Min(values), slices.Max(values)
	var sum, squares float64
	limits, counts := make([]float64, histogramBuckets), make([]float64, histogramBuckets)
	if low == high {
		limits, counts = limits[:1], counts[:1]
	}
	width := (high - low) / float64(len(limits))
	for i := range limits {
		limits[i] = low + float64(i+1)*width
	}
	limits[len(limits)-1] = high
	for _, v := range values {
		sum += v
		squares += v * v
		i := 0
		if width > 0 {
			i = min(int((v-low)/width), len(counts)-1)
		}
		counts[i]++
	}
	var out []byte
	for i, v := range []float64{low, high, float64(len(values)), sum, squares} {
		out = appendDouble(protowire.AppendTag(out, protowire.Number(i+1), protowire.Fixed64Type), v)
	}
	for i, list := range [][]float64{limits, counts} {
		var packed []byte
		for _, v := range list {
			packed = appendDouble(packed, v)
		}
		out = appendBytes(out, protowire.Number(i+6), packed)
	}
	return out
}

func appendDouble(to []byte, v float64) []byte {
	return protowire.AppendFixed64(to, math.Float64bits(v))
}
