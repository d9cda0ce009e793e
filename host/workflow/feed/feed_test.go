package feed

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// A mirrored pass hands the encoder the pictures turned left-right, also of cases whose
// tokens are cached: those are of the pictures as they are.
func TestMirroredPassTurnsPictures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := synth.Table(t.Context(), dir, synth.TableOptions{Patients: 8, Size: 32, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open("table:"+filepath.Join(dir, "data.csv"), dataset.Options{Task: dataset.Classify})
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(configuration(t, config.Classify, "data.size=32", "data.cache_dir="+filepath.Join(dir, "cache")), d, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	port := sdk.Port{Name: d.Modalities[0], DType: tensor.FP32, Shape: []string{"N", "3", "H", "W"}, Required: true}
	f.Encoder = &pipeline.Member{Opened: &sdk.OpenResponse{Inputs: []sdk.Port{port}}}
	pixels := func() ([]float32, []int64) {
		l, err := f.Loader(t.Context(), d.Cases)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		b, err := l.Next()
		if err != nil {
			t.Fatal(err)
		}
		x := b.Tensors[port.Name]
		if x == nil {
			t.Fatalf("no %s in the batch", port.Name)
		}
		values, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		return values, x.Shape
	}
	plain, shape := pixels()
	f.tokens = NewTokenStore(1 << 20).of([32]byte{})
	for i := range d.Cases {
		f.tokens.cases[d.Cases[i].ID] = map[string]*tensor.Tensor{}
	}
	f.View = View{FlipX: true}
	mirrored, _ := pixels()
	width := int(shape[len(shape)-1])
	symmetric := true
	for i := range plain {
		row, column := i/width, i%width
		if got, want := mirrored[i], plain[row*width+width-1-column]; got != want {
			t.Fatalf("row %d, column %d: %g, want %g", row, column, got, want)
		}
		symmetric = symmetric && plain[i] == mirrored[i]
	}
	if symmetric {
		t.Error("the pictures are symmetric: the test shows nothing")
	}
}

// Whoever lacks a picture lacks what every network makes of it, and nothing else.
func TestTokensOfEveryNetworkAreAbsentWithTheirPicture(t *testing.T) {
	var made []sdk.Port
	for _, name := range []string{"tokens.derm", "tokens.derm+vit", "tokens.derm+clinic", "tokens.dermis"} {
		made = append(made, sdk.Port{Name: name})
	}
	f := &Feed{
		Data:    &dataset.Dataset{Modalities: []string{"image.derm", "image.dermis", "image.derm+clinic"}},
		Encoder: &pipeline.Member{Opened: &sdk.OpenResponse{Outputs: made}},
	}
	lacks := []bool{false, true}
	got := f.absentTokens(&dataset.Batch{Absent: map[string][]bool{"image.derm": lacks}})
	if want := map[string][]bool{"tokens.derm": lacks, "tokens.derm+vit": lacks}; !reflect.DeepEqual(got, want) {
		t.Errorf("absent %v, want %v", got, want)
	}
}

// Slices whose boxes are not known are trained on where no stage takes targets, and refused
// where one does.
func TestSlicesWithoutBoxesAreForStagesThatTakeNone(t *testing.T) {
	dir := t.TempDir()
	picture := filepath.Join(dir, "images", "a.png")
	if err := os.MkdirAll(filepath.Dir(picture), 0o777); err != nil {
		t.Fatal(err)
	}
	var encoded bytes.Buffer
	if err := png.Encode(&encoded, image.NewGray(image.Rect(0, 0, 32, 32))); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{picture: encoded.String(), filepath.Join(dir, "images.csv"): "image,patient,split\na.png,P,train\n"} {
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	c := configuration(t, config.Detect, "data.validation_split=")
	c.Data = "boxes:" + dir
	data, err := PrepareTraining(c)
	if err != nil {
		t.Fatal(err)
	}
	if data.NoTargets == nil || !strings.Contains(data.NoTargets.Error(), `the first is "a.png"`) {
		t.Errorf("NoTargets is %v, want the case without boxes", data.NoTargets)
	}
	f, err := New(c, data.Data, data.Labels, nil)
	if err != nil {
		t.Fatal(err)
	}
	port := ports.Named(ports.Volume.Name, ports.Required, ports.Intensity(sdk.Intensity{High: 255, OutHigh: 1}), ports.Shape("N", "1", "1", "H", "W"))
	f.Encoder = &pipeline.Member{Opened: &sdk.OpenResponse{Inputs: []sdk.Port{port}}}
	for _, f.Unlabelled = range []bool{true, false} {
		batches, err := f.Source(t.Context(), data.Training).Epoch(0, 0)
		if err == nil {
			err = batches.Close()
		}
		if refused := err != nil; refused == f.Unlabelled {
			t.Errorf("no stage takes targets: %v; error %v", f.Unlabelled, err)
		}
	}
}
