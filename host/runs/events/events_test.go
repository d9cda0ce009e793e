package events

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"image"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// The CRC-32C of "123456789" is 0xe3069283; TFRecord's mask turns it by 15 bits and adds
// 0xa282ead8: (0xe3069283>>15 | 0xe3069283<<17) + 0xa282ead8 = 0xc789b0ed.
func TestARecordHasLengthAndMaskedSums(t *testing.T) {
	data := []byte("123456789")
	if sum := crc32.Checksum(data, castagnoli); sum != 0xe3069283 {
		t.Fatalf("%#x", sum)
	}
	got := record(data)
	if n := binary.LittleEndian.Uint64(got); n != 9 || !bytes.Equal(got[12:21], data) {
		t.Errorf("%d bytes, %q", n, got[12:21])
	}
	sum := uint32(0xe3069283)
	if want := (sum>>15 | sum<<17) + 0xa282ead8; binary.LittleEndian.Uint32(got[21:]) != want {
		t.Errorf("%#x, want %#x", got[21:], want)
	}
}

const readBack = `
import sys, json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'images': 0, 'histograms': 0})
a.Reload()
print(json.dumps({'loss': [[e.step, round(e.value, 4)] for e in a.Scalars('train/loss')],
  'metric': [[e.step, round(e.value, 4)] for e in a.Scalars('validation/mean_sensitivity')],
  'images': [[e.step, e.width, e.height] for e in a.Images('validation/a.png')],
  'weights': [[e.step, h.min, h.max, h.num, h.sum, h.sum_squares, len(h.bucket), h.bucket[0], h.bucket[-1], sum(h.bucket), h.bucket_limit[-1]]
    for e in a.Histograms('weights/head/layer.weight') for h in [e.histogram_value]]}))
`

// TensorBoard's own reader sees what was written; a run that goes on after step 1 forgets
// the steps that it takes again.
func TestTensorBoardReadsItBack(t *testing.T) {
	python := os.Getenv("ALIGNEDFUSION_TENSORBOARD")
	if python == "" {
		t.Skip("ALIGNEDFUSION_TENSORBOARD names no Python with tensorboard")
	}
	run := t.TempDir()
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewRGBA(image.Rect(0, 0, 7, 5))); err != nil {
		t.Fatal(err)
	}
	saved := t.TempDir()
	if err := os.Mkdir(filepath.Join(saved, "head"), 0o777); err != nil {
		t.Fatal(err)
	}
	err := safetensors.Write(filepath.Join(saved, "head", weightsFile), map[string]*tensor.Tensor{
		"layer.weight": tensor.OfFloat32s([]float32{-1, 0, 0.5, 1, 2, float32(math.NaN())}, 2, 3),
		"layer.calls":  tensor.OfInt64s([]int64{7}, 1),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	write := func(after int, losses ...float64) {
		w, err := Open(run, after)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range losses {
			if err := w.Record(runs.Record{Kind: "step", Step: after + k + 1, Loss: &v}); err != nil {
				t.Fatal(err)
			}
		}
		last := after + len(losses)
		if err := w.Record(runs.Record{Kind: "validation", Step: last, Metrics: map[string]float64{"mean_sensitivity": 0.25}}); err != nil {
			t.Fatal(err)
		}
		if err := w.Image("validation/a.png", last, picture.Bytes()); err != nil {
			t.Fatal(err)
		}
		c := &runs.Checkpoint{Dir: saved, State: runs.State{Step: last}}
		if err := w.Weights(c); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 4, 3, 2)
	write(1, 2.5, 1.5)
	out, err := exec.Command(python, "-c", readBack, filepath.Join(run, Dir)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got map[string][][]float64
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err, string(out))
	}
	text, _ := json.Marshal(got)
	if want := `{"images":[[3,7,5]],"loss":[[1,4],[2,2.5],[3,1.5]],"metric":[[3,0.25]],"weights":[[3,-1,2,5,2.5,6.25,30,1,1,5,2]]}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
}
