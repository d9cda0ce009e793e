package classifier_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/sbinet/npyio/npz"

	"github.com/alignedfusion/alignedfusion/internal/realdata"
	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/plugins/internal/stagetest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// encoder opens the encoder for the given modalities.
func encoder(t testing.TB, settings map[string]string, modalities ...string) *stagetest.Stage {
	t.Helper()
	return stagetest.Open(t, classifier.Plugin(), request(settings, modalities...))
}

func request(settings map[string]string, modalities ...string) sdk.OpenRequest {
	req := sdk.OpenRequest{Stage: "encoder", Settings: settings, Train: true, Seed: 3}
	for _, m := range modalities {
		port := sdk.Port{Name: "image." + m, DType: tensor.FP32, Shape: []string{"N", "3", "H", "W"}}
		if ports.Scan(m) {
			port.Name, port.Shape = m, []string{"N", "1", "D", "H", "W"}
		}
		req.Inputs = append(req.Inputs, port)
	}
	return req
}

func image(x *tensor.Tensor) map[string]*tensor.Tensor {
	return map[string]*tensor.Tensor{"image.photo": x}
}

func TestConvAgreesWithPyTorch(t *testing.T) { convAgrees(t, "conv", "photo") }

// TestAutoTakesPicturesOrVolumes: without encoder.kind the small network is that for what the data
// have.
func TestAutoTakesPicturesOrVolumes(t *testing.T) {
	for _, c := range []struct {
		modality string
		x        *tensor.Tensor
	}{{"photo", stagetest.Formula("x", []int64{1, 3, 16, 16})}, {"volume", stagetest.Formula("x", []int64{1, 1, 4, 16, 16})}} {
		set := map[string]string{"width": "4", "layers": "2", "slices": "4"}
		name := "image.photo"
		if c.modality == "volume" {
			name = c.modality
		}
		r := encoder(t, set, c.modality).Eval(map[string]*tensor.Tensor{name: c.x})
		if tokens := r.Outputs["tokens."+c.modality]; tokens == nil || tokens.Shape[2] != 8 {
			t.Errorf("%s: %v", c.modality, r.Outputs)
		}
	}
}

func TestConv3DAgreesWithPyTorch(t *testing.T) { convAgrees(t, "conv3d", "volume") }

func convAgrees(t *testing.T, name, modality string) {
	t.Helper()
	f := stagetest.Read(t, "testdata/"+name+".safetensors")
	set := f.Settings()
	set["weights"] = stagetest.WriteWeights(t, f.Group("param."))
	s := encoder(t, set, modality)
	in, tokens := f.Group("in."), "tokens."+modality
	stagetest.Near(t, "eval", s.Eval(in).Outputs[tokens], f.Tensors["eval.tokens"], 1e-5)
	stagetest.Near(t, "train", s.Train(1, in).Outputs[tokens], f.Tensors["train.tokens"], 1e-5)
	s.Backward(map[string]*tensor.Tensor{tokens: f.Tensors["train.grad"]}, nil)
	after := s.StepsByGradients(f.Group("param."), f.Group("grad.param."), 1e-4)
	for name, want := range f.Group("after.") {
		stagetest.Near(t, name, after[name], want, 1e-5)
	}
}

// agree compares a network filled by the formula with the stored outputs.
func agree(t *testing.T, name string, rename func(string) string) {
	t.Helper()
	f := stagetest.Read(t, "testdata/"+name+".safetensors")
	set := f.Settings()
	set["weights"] = f.FormulaWeights(rename)
	var shape []int64
	if err := json.Unmarshal([]byte(f.Metadata["input"]), &shape); err != nil {
		t.Fatal(err)
	}
	modality, port := "photo", "image.photo"
	if len(shape) == 5 {
		modality, port = "volume", "volume"
	}
	s := encoder(t, set, modality)
	in := map[string]*tensor.Tensor{port: stagetest.Formula("in.image", shape)}
	some, mean := summed(t, s.Eval(in).Outputs["tokens."+modality])
	stagetest.Near(t, "some tokens", some, f.Tensors["tokens.some"], 2e-5)
	stagetest.Near(t, "mean token", mean, f.Tensors["tokens.mean"], 2e-5)
	if f.Tensors["train.some"] == nil {
		return
	}
	some, mean = summed(t, s.Train(1, in).Outputs["tokens."+modality])
	stagetest.Near(t, "some tokens in training", some, f.Tensors["train.some"], 2e-5)
	stagetest.Near(t, "mean token in training", mean, f.Tensors["train.mean"], 2e-5)
	s.Release()
}

// summed is every 20th token of tokens [N,T,C], and their mean.
func summed(t *testing.T, y *tensor.Tensor) (some, mean *tensor.Tensor) {
	t.Helper()
	v := stagetest.Floats(t, y)
	n, tokens, c := int(y.Shape[0]), int(y.Shape[1]), int(y.Shape[2])
	var picked []float32
	means := make([]float32, n*c)
	for i := range n {
		for j := range tokens {
			row := v[(i*tokens+j)*c:][:c]
			if j%20 == 0 {
				picked = append(picked, row...)
			}
			for k, x := range row {
				means[i*c+k] += x / float32(tokens)
			}
		}
	}
	return tensor.OfFloat32s(picked, int64(n), int64((tokens+19)/20), int64(c)), tensor.OfFloat32s(means, int64(n), int64(c))
}

func TestViTAgreesWithTorchvision(t *testing.T) { agree(t, "vit_small", nil) }

func TestViTB16AgreesWithTorchvision(t *testing.T) {
	if testing.Short() {
		t.Skip("86 million weights")
	}
	agree(t, "vit_b_16", nil)
}

func TestR3D18AgreesWithTorchvision(t *testing.T) {
	if testing.Short() {
		t.Skip("33 million weights")
	}
	agree(t, "r3d_18", nil)
}

// A network takes pictures or volumes; whoever has the other kind is told which network does.
func TestPicturesAndVolumesHaveEncodersOfTheirOwn(t *testing.T) {
	for _, c := range []struct {
		settings map[string]string
		modality string
		want     string
	}{
		{map[string]string{"kind": "conv"}, "volume", "no picture for an encoder of kind=conv; encoder.kind=conv3d, encoder.kind=r3d_18 or --encoder a3d takes volume"},
		{map[string]string{"kind": "conv3d"}, "photo", "no volume for an encoder of kind=conv3d; another encoder.kind, such as conv takes image.photo"},
		{map[string]string{"kind": "conv3d", "image_size": "32"}, "volume", "data.size is the side of volumes"},
	} {
		if _, err := stagetest.TryOpen(t, classifier.Plugin(), request(c.settings, c.modality)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v of %s: %v, want %q", c.settings, c.modality, err, c.want)
		}
	}
}

// Several phases have tokens of their own; pool takes means within a slice of the map.
func TestVolumesArePooledSliceBySlice(t *testing.T) {
	volume := stagetest.Formula("in.volume", []int64{2, 1, 8, 16, 16})
	set := map[string]string{"kind": "conv3d", "width": "4", "layers": "2"}
	all := stagetest.Floats(t, encoder(t, set, "volume").Eval(map[string]*tensor.Tensor{"volume": volume}).Outputs["tokens.volume"])
	set["pool"] = "4"
	got := encoder(t, set, "volume").Eval(map[string]*tensor.Tensor{"volume": volume}).Outputs["tokens.volume"]
	want := make([]float32, 2*2*8) // [2,2,4,4] places of 8 channels
	for i, v := range all {
		want[i/(16*8)*8+i%8] += v / 16
	}
	stagetest.Near(t, "tokens", got, tensor.OfFloat32s(want, 2, 2, 8), 1e-5)
	phases := encoder(t, map[string]string{"kind": "conv3d", "width": "4", "layers": "2"}, "volume.art", "volume.ven")
	out := phases.Eval(map[string]*tensor.Tensor{"volume.art": volume, "volume.ven": volume}).Outputs
	stagetest.Near(t, "phases", out["tokens.art"], out["tokens.ven"], 0)
}

func TestSwinTAgreesWithTorchvision(t *testing.T) { agree(t, "swin_t", nil) }

func TestSwinTPadsOddMapsAsTorchvision(t *testing.T) { agree(t, "swin_t_odd", nil) }

func TestViTLoadsTimmNames(t *testing.T) {
	agree(t, "vit_small", func(name string) string {
		for _, r := range [][2]string{
			{"class_token", "cls_token"}, {"encoder.pos_embedding", "pos_embed"}, {"conv_proj", "patch_embed.proj"},
			{"encoder.ln.", "norm."}, {"encoder.layers.encoder_layer_", "blocks."}, {"ln_1", "norm1"}, {"ln_2", "norm2"},
			{"self_attention.in_proj_weight", "attn.qkv.weight"}, {"self_attention.in_proj_bias", "attn.qkv.bias"},
			{"self_attention.out_proj", "attn.proj"}, {"mlp.0", "mlp.fc1"}, {"mlp.3", "mlp.fc2"},
		} {
			name = strings.Replace(name, r[0], r[1], 1)
		}
		return name
	})
}

// array reads a float32 array of an npz file.
func array(t *testing.T, f *npz.Reader, name string) *tensor.Tensor {
	t.Helper()
	h := f.Header(name)
	if h == nil {
		t.Fatalf("no array %q", name)
	}
	var v []float32
	if err := f.Read(name, &v); err != nil {
		t.Fatal(err)
	}
	shape := make([]int64, len(h.Descr.Shape))
	for i, n := range h.Descr.Shape {
		shape[i] = int64(n)
	}
	return tensor.OfFloat32s(v, shape...)
}

func TestDarknetAgreesWithItsPublishedOutput(t *testing.T) {
	weights := realdata.Path(t, "models", "darknet_tiny.safetensors")
	r, err := npz.Open(realdata.Path(t, "models", "darknet_tiny_check.npz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	picture, features := array(t, r, "image.npy"), array(t, r, "features.npy")
	want := make([]float32, features.Len())
	src := stagetest.Floats(t, features) // [1,512,14,14]
	for c := range 512 {
		for i := range 196 {
			want[i*512+c] = src[c*196+i]
		}
	}
	for _, frozen := range []string{"true", "false"} {
		s := encoder(t, map[string]string{"kind": "darknet", "weights": weights, "frozen": frozen}, "photo")
		got := s.Eval(image(picture)).Outputs["tokens.photo"]
		stagetest.Near(t, "frozen="+frozen, got, tensor.OfFloat32s(want, 1, 196, 512), 1e-4)
	}
}

func TestMobileNetAgreesWithPyTorch(t *testing.T) { agree(t, "mobilenet", nil) }

// The peer is the package efficientnet-lite-pytorch.
func TestEfficientNetLite0AgreesWithPyTorch(t *testing.T) { agree(t, "efficientnet_lite0", nil) }

// Weights as Keras publishes them, names and order of axes, give what PyTorch makes of them.
func TestMobileNetReadsPublishedWeights(t *testing.T) {
	weights := realdata.Path(t, "models", "mobilenet_v1_075_224.safetensors")
	f := stagetest.Read(t, "testdata/mobilenet_published.safetensors")
	s := encoder(t, map[string]string{"kind": "mobilenet", "weights": weights}, "photo")
	y := s.Eval(image(stagetest.Formula("in.image", []int64{2, 3, 224, 224}))).Outputs["tokens.photo"]
	some, mean := summed(t, y)
	stagetest.Near(t, "some tokens", some, f.Tensors["tokens.some"], 1e-5)
	stagetest.Near(t, "mean token", mean, f.Tensors["tokens.mean"], 1e-5)
}

func TestFrozenEncoderSeesEveryPictureAlone(t *testing.T) {
	s := encoder(t, map[string]string{"frozen": "true", "width": "4", "layers": "2"}, "photo")
	if s.Response.TrainableCount != 0 {
		t.Errorf("%d trainable parameters, want none", s.Response.TrainableCount)
	}
	if len(s.Response.Notes) != 1 || !strings.HasPrefix(s.Response.Notes[0], "frozen") {
		t.Errorf("notes %q, want the one that lets the host keep tokens", s.Response.Notes)
	}
	a, b := stagetest.Random(1, 1, 3, 16, 16), stagetest.Random(2, 2, 3, 16, 16)
	both := tensor.OfFloat32s(append(stagetest.Floats(t, a), stagetest.Floats(t, b)...), 3, 3, 16, 16)
	alone := stagetest.Floats(t, s.Eval(image(a)).Outputs["tokens.photo"])
	first := stagetest.Floats(t, s.Train(1, image(both)).Outputs["tokens.photo"])[:len(alone)]
	stagetest.Near(t, "in a training batch", tensor.OfFloat32s(first), tensor.OfFloat32s(alone), 1e-6)
	s.Release()
}

func TestSeveralImagesShareTheNetworkAndAreToldApart(t *testing.T) {
	s := encoder(t, map[string]string{"width": "4", "layers": "2"}, "clinic", "derm")
	x := stagetest.Random(1, 2, 3, 16, 16)
	in := map[string]*tensor.Tensor{"image.clinic": x, "image.derm": x}
	r := s.Eval(in).Outputs
	if !stagetest.Same(r["tokens.clinic"], r["tokens.derm"]) {
		t.Error("before training one picture gives two kinds of tokens")
	}
	g := stagetest.Random(5, r["tokens.derm"].Shape...)
	s.Train(1, in)
	s.Backward(map[string]*tensor.Tensor{"tokens.derm": g}, nil)
	s.Step(0.1)
	r = s.Eval(in).Outputs
	if stagetest.Same(r["tokens.clinic"], r["tokens.derm"]) {
		t.Error("after training the two images of a case are not told apart")
	}
}

// Weights of an encoder of several pictures start one of as many, or of one, or a frozen one; PyTorch's
// counters of batches are let pass.
func TestWeightsOfSeveralImagesAreTakenByOthers(t *testing.T) {
	set := map[string]string{"width": "4", "layers": "1"}
	values := encoder(t, set, "clinic", "derm").Weights()
	set["weights"] = stagetest.WriteWeights(t, values)
	encoder(t, set, "clinic", "derm")
	set["frozen"] = "true"
	encoder(t, set, "clinic", "derm")
	values = encoder(t, map[string]string{"kind": "efficientnet_lite0"}, "photo").Weights()
	values["_bn0.num_batches_tracked"] = tensor.OfInt64s([]int64{5})
	encoder(t, map[string]string{"kind": "efficientnet_lite0", "weights": stagetest.WriteWeights(t, values)}, "photo")
}

func TestImagesOfOtherSizesAreResized(t *testing.T) {
	s := encoder(t, map[string]string{"image_size": "16", "width": "4", "layers": "2"}, "photo")
	flat := func(v float32, h, w int64) *tensor.Tensor {
		x := make([]float32, 3*h*w)
		for i := range x {
			x[i] = v
		}
		return tensor.OfFloat32s(x, 1, 3, h, w)
	}
	want := s.Eval(image(flat(0.25, 16, 16))).Outputs["tokens.photo"]
	for _, size := range [][2]int64{{8, 8}, {64, 40}, {20, 9}} {
		got := s.Eval(image(flat(0.25, size[0], size[1]))).Outputs["tokens.photo"]
		stagetest.Near(t, "one grey", got, want, 1e-5)
	}
}

func TestPoolAveragesCellsOfTheMap(t *testing.T) {
	x := image(stagetest.Random(1, 2, 3, 20, 28)) // a map of 5 x 7 cells, pooled to 2 x 3
	open := func(pool string) *stagetest.Stage {
		return encoder(t, map[string]string{"width": "4", "layers": "2", "pool": pool}, "photo")
	}
	cells := stagetest.Floats(t, open("1").Eval(x).Outputs["tokens.photo"])
	const c = 8
	want := make([]float32, 2*2*3*c)
	for n := range 2 {
		for y := range 4 {
			for col := range 6 {
				for k := range c {
					want[((n*2+y/2)*3+col/2)*c+k] += cells[((n*5+y)*7+col)*c+k] / 4
				}
			}
		}
	}
	stagetest.Near(t, "pooled", open("2").Eval(x).Outputs["tokens.photo"], tensor.OfFloat32s(want, 2, 6, c), 1e-5)
	if _, err := open("8").TryForward(false, 1, x); err == nil || !strings.Contains(err.Error(), "map is 5 x 7") {
		t.Errorf("a pool larger than the map: error %v", err)
	}
}

func TestEncoderNamesBadSettingsAndInput(t *testing.T) {
	for _, c := range []struct {
		settings map[string]string
		want     string
	}{
		{map[string]string{"kind": "vit", "image_size": "230"}, "divisor of image_size=230"},
		{map[string]string{"kind": "vit", "width": "20", "heads": "3"}, "divisor of width=20"},
		{map[string]string{"kind": "resnet"}, "want one of auto, conv"},
		{map[string]string{"kind": "darknet", "weights": "testdata/conv.safetensors"}, "do not fit"},
		{map[string]string{"layers": "20"}, "at most 8"},
		{map[string]string{"kind": "vit", "width": "64", "layers": "1", "pool": "2"}, "setting pool: 2 given, want 1"},
	} {
		_, err := stagetest.TryOpen(t, classifier.Plugin(), request(c.settings, "photo"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.settings, err, c.want)
		}
	}
	if _, err := stagetest.TryOpen(t, classifier.Plugin(), request(nil)); err == nil {
		t.Error("no error without images")
	}
	s := encoder(t, map[string]string{"width": "4"}, "clinic", "derm")
	_, err := s.TryForward(false, 1, map[string]*tensor.Tensor{"image.derm": stagetest.Random(1, 1, 3, 16, 16)})
	if err == nil || !strings.Contains(err.Error(), "image.clinic") {
		t.Errorf("one image missing: error %v", err)
	}
}

// A second network gives the tokens that it gives alone, beside those of the first, from a file of
// its own or from that of a mixture.
func TestTwoNetworksGiveTheTokensOfEach(t *testing.T) {
	x := image(stagetest.Formula("in.image", []int64{2, 3, 40, 40}))
	one := map[string]string{"kind": "conv", "width": "4", "layers": "2", "image_size": "32"}
	two := map[string]string{"kind": "mobilenet", "image_size": "32"}
	first, further := encoder(t, one, "photo"), encoder(t, two, "photo")
	set := maps.Clone(one)
	set["second"], set["weights"] = "mobilenet", stagetest.WriteWeights(t, first.Weights())
	set["second_weights"] = stagetest.WriteWeights(t, further.Weights())
	mixture := encoder(t, set, "photo")
	both := maps.Clone(one)
	both["second"], both["weights"] = "mobilenet", stagetest.WriteWeights(t, mixture.Weights())
	trained := func(s *stagetest.Stage) map[string]*tensor.Tensor {
		defer s.Release()
		return s.Train(1, x).Outputs
	}
	evals := []*tensor.Tensor{first.Eval(x).Outputs["tokens.photo"], further.Eval(x).Outputs["tokens.photo"]}
	trains := []*tensor.Tensor{trained(first)["tokens.photo"], trained(further)["tokens.photo"]}
	for name, s := range map[string]*stagetest.Stage{"two files": mixture, "one file": encoder(t, both, "photo")} {
		eval, train := s.Eval(x).Outputs, trained(s)
		for i, port := range []string{"tokens.photo", "tokens.photo+mobilenet"} {
			stagetest.Near(t, name+", "+port, eval[port], evals[i], 0)
			stagetest.Near(t, name+" in training, "+port, train[port], trains[i], 0)
		}
	}
	set["frozen"] = "true"
	if s := encoder(t, set, "photo"); s.Response.TrainableCount != 0 {
		t.Errorf("frozen: %d trainable parameters, want none", s.Response.TrainableCount)
	}
}

func TestSecondNetworkReadsPublishedWeights(t *testing.T) {
	set := map[string]string{
		"kind": "darknet", "weights": realdata.Path(t, "models", "darknet_tiny.safetensors"),
		"second": "mobilenet", "second_weights": realdata.Path(t, "models", "mobilenet_v1_075_224.safetensors"),
	}
	f := stagetest.Read(t, "testdata/mobilenet_published.safetensors")
	y := encoder(t, set, "photo").Eval(image(stagetest.Formula("in.image", []int64{2, 3, 224, 224}))).Outputs["tokens.photo+mobilenet"]
	some, mean := summed(t, y)
	stagetest.Near(t, "some tokens", some, f.Tensors["tokens.some"], 1e-5)
	stagetest.Near(t, "mean token", mean, f.Tensors["tokens.mean"], 1e-5)
}

func TestSecondNetworkIsRefusedWhereItDoesNotFit(t *testing.T) {
	small := map[string]string{"kind": "conv", "width": "4", "layers": "1", "second": "conv"}
	mixture := stagetest.WriteWeights(t, encoder(t, small, "photo").Weights())
	alone := stagetest.WriteWeights(t, encoder(t, map[string]string{"kind": "conv", "width": "4", "layers": "1"}, "photo").Weights())
	with := func(more ...string) map[string]string {
		set := maps.Clone(small)
		for i := 0; i < len(more); i += 2 {
			set[more[i]] = more[i+1]
		}
		return set
	}
	for _, c := range []struct {
		settings   map[string]string
		modalities []string
		want       string
	}{
		{map[string]string{"second_weights": "x.safetensors"}, []string{"photo"}, "there is no second network: the setting second says which"},
		{map[string]string{"kind": "conv3d", "second": "conv"}, []string{"volume"}, "conv given, want none with kind=conv3d"},
		{with("second", "vit", "pool", "2"), []string{"photo"}, "setting pool: 2 given, want 1 with a vit"},
		{with("weights", mixture, "second_weights", alone), []string{"photo"}, "holds both networks"},
		{with("weights", alone, "second_weights", alone), []string{"photo"}, "do not fit"},
		{with(), []string{"photo", "photo+conv"}, "would both give tokens.photo+conv: rename the picture image.photo+conv"},
		{map[string]string{"kind": "conv", "width": "4", "layers": "1", "weights": mixture}, []string{"photo"}, "unexpected"},
	} {
		_, err := stagetest.TryOpen(t, classifier.Plugin(), request(c.settings, c.modalities...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v of %v: error %v, want %q", c.settings, c.modalities, err, c.want)
		}
	}
	s := encoder(t, with("weights", alone), "photo")
	if !slices.ContainsFunc(s.Response.Notes, func(n string) bool { return strings.Contains(n, "starts as drawn") }) {
		t.Errorf("weights of the first alone: notes %q do not say how the second starts", s.Response.Notes)
	}
}

func TestTwoProcessesNormalizeAsOne(t *testing.T) {
	for kind, x := range map[string]*tensor.Tensor{
		"conv": stagetest.Random(5, 3, 3, 32, 32), "conv3d": stagetest.Random(5, 3, 1, 8, 16, 16),
	} {
		t.Run(kind, func(t *testing.T) {
			modality := "photo"
			if kind == "conv3d" {
				modality = "volume"
			}
			req := request(map[string]string{"kind": kind}, modality)
			in := map[string]*tensor.Tensor{req.Inputs[0].Name: x}
			stagetest.TwoNormalizeAsOne(t, classifier.Plugin(), req, in, ports.TokensOf(modality).Name)
		})
	}
}
