package weights

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Entry describes one tensor of a weights file.
type Entry struct {
	Name  string  `json:"name"`
	DType string  `json:"dtype"`
	Shape []int64 `json:"shape"`
	Bytes int64   `json:"bytes"`
	// NonFinite counts NaN and infinite elements of float tensors.
	NonFinite int64 `json:"non_finite"`
}

// Report describes a weights file.
type Report struct {
	Entries  []Entry           `json:"tensors"`
	Elements int64             `json:"elements"`
	Bytes    int64             `json:"bytes"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Skipped names entries of a checkpoint that hold no weights (optimizer, counters).
	Skipped []string `json:"skipped,omitempty"`
}

// Keys under which training frameworks keep the weights in a larger checkpoint.
var stateKeys = []string{"state_dict", "model_state_dict", "model", "net", "weights"}

// Prefixes that wrappers of a whole model put before every name.
var wrapperPrefixes = []string{"module.", "_orig_mod."}

// Import reads a PyTorch checkpoint (.pth, .pt; torch.save's zip or older layout) and
// writes its weights as safetensors. It takes the state dict itself or the one inside
// a training checkpoint. It fails with ErrUnsafe when the pickle does more than build
// tensors and containers, with ErrFormat when the file is damaged; then nothing is
// written.
func Import(from, to string) (*Report, error) {
	value, err := readTorch(from)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	tensors, skipped, err := stateDict(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if err := safetensors.Write(to, tensors, map[string]string{"format": "pt"}); err != nil {
		return nil, err
	}
	report := describe(tensors)
	report.Skipped = skipped
	return report, nil
}

// Read returns the weights of a safetensors file or of a PyTorch checkpoint.
func Read(path string) (*Report, error) {
	f, err := safetensors.Open(path)
	if err == nil {
		defer f.Close()
		report := &Report{Metadata: f.Metadata()}
		for _, name := range f.Names() {
			t, err := f.Tensor(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			report.add(name, t)
		}
		return report, nil
	}
	if !errors.Is(err, safetensors.ErrFormat) {
		return nil, err
	}
	if !looksLikeTorch(path) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	value, err := readTorch(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	tensors, skipped, err := stateDict(value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	report := describe(tensors)
	report.Skipped = skipped
	return report, nil
}

func looksLikeTorch(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [4]byte
	n, _ := f.Read(head[:])
	return n == 4 && (string(head[:]) == "PK\x03\x04" || head[0] == 0x80)
}

// stateDict finds the named tensors of a checkpoint.
func stateDict(value any) (map[string]*tensor.Tensor, []string, error) {
	top, ok := value.(*dict)
	if !ok {
		return nil, nil, fmt.Errorf("%w: it holds a %s, want a dictionary of weights", ErrFormat, kindOf(value))
	}
	var skipped []string
	for _, key := range stateKeys {
		if inner, ok := top.get(key); ok {
			if d, ok := inner.(*dict); ok {
				for _, k := range top.keys {
					if name, ok := k.(string); ok && name != key {
						skipped = append(skipped, name)
					}
				}
				top = d
				break
			}
		}
	}
	tensors := map[string]*tensor.Tensor{}
	for i, k := range top.keys {
		name, ok := k.(string)
		if !ok {
			return nil, nil, fmt.Errorf("%w: an entry's name is a %s", ErrFormat, kindOf(k))
		}
		t, ok := top.values[i].(*torchTensor)
		if !ok {
			skipped = append(skipped, name)
			continue
		}
		v, err := t.values()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		tensors[name] = v
	}
	if len(tensors) == 0 {
		return nil, nil, fmt.Errorf("%w: no weights among its %d entries", ErrFormat, len(top.keys))
	}
	sort.Strings(skipped)
	return unwrapped(tensors), skipped, nil
}

// unwrapped removes a wrapper's prefix when every name has it.
func unwrapped(tensors map[string]*tensor.Tensor) map[string]*tensor.Tensor {
	for _, prefix := range wrapperPrefixes {
		all := true
		for name := range tensors {
			all = all && strings.HasPrefix(name, prefix) && len(name) > len(prefix)
		}
		if !all {
			continue
		}
		out := make(map[string]*tensor.Tensor, len(tensors))
		for name, t := range tensors {
			out[strings.TrimPrefix(name, prefix)] = t
		}
		tensors = out
	}
	return tensors
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case *list, tuple:
		return "list"
	case *torchTensor:
		return "tensor"
	case string:
		return "string"
	case int64, float64, bool:
		return "number"
	}
	return "object"
}

func describe(tensors map[string]*tensor.Tensor) *Report {
	names := make([]string, 0, len(tensors))
	for name := range tensors {
		names = append(names, name)
	}
	sort.Strings(names)
	r := &Report{}
	for _, name := range names {
		r.add(name, tensors[name])
	}
	return r
}

func (r *Report) add(name string, t *tensor.Tensor) {
	r.Entries = append(r.Entries, Entry{name, string(t.DType), t.Shape, int64(len(t.Data)), nonFinite(t)})
	r.Elements += int64(t.Len())
	r.Bytes += int64(len(t.Data))
}

// nonFinite counts the elements whose exponent bits are all set.
func nonFinite(t *tensor.Tensor) int64 {
	var n int64
	switch t.DType {
	case tensor.FP16, tensor.BF16:
		exponent := byte(0x7c)
		if t.DType == tensor.BF16 {
			exponent = 0x7f
		}
		for i := 0; i+1 < len(t.Data); i += 2 {
			high := t.Data[i+1] & exponent
			if high == exponent && (t.DType == tensor.FP16 || t.Data[i]&0x80 != 0) {
				n++
			}
		}
	case tensor.FP32:
		values, err := t.Float32s()
		if err != nil {
			return 0
		}
		for _, v := range values {
			if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
				n++
			}
		}
	case tensor.FP64:
		values, err := t.Float64s()
		if err != nil {
			return 0
		}
		for _, v := range values {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				n++
			}
		}
	}
	return n
}
