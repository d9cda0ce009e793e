package events

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/runs"
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
a = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'images': 0})
a.Reload()
print(json.dumps({'loss': [[e.step, round(e.value, 4)] for e in a.Scalars('train/loss')],
  'metric': [[e.step, round(e.value, 4)] for e in a.Scalars('validation/mean_sensitivity')],
  'images': [[e.step, e.width, e.height] for e in a.Images('validation/a.png')]}))
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
	if want := `{"images":[[3,7,5]],"loss":[[1,4],[2,2.5],[3,1.5]],"metric":[[3,0.25]]}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
}
