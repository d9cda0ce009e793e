package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func resolved(t *testing.T, task string, sets ...string) *Config {
	t.Helper()
	c, err := New(task)
	if err != nil {
		t.Fatal(err)
	}
	c.Data = "boxes:a folder"
	c.Fusion.Plugin = "itfusion"
	for _, s := range sets {
		if err := c.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Resolve(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestResolvedConfigReadsBackEqual(t *testing.T) {
	for _, task := range []string{Detect, Classify} {
		c := resolved(t, task, "encoder.preset=tiny", "fusion.layers=3", "train.lr=3e-4", "data.crop=96", "data.size=128", "train.optimizer=sgd", "train.nesterov=true", "loss.reconstruction=0.5",
			"text.dim=64", "text.model=/x: y", "text.plugin=bert:text", "head.note=yes: \"#1\"\n- 0x10")
		c.Attributes = &[]string{"age", "no"}
		c.Seed = 1<<63 + 1
		data, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if diff := cmp.Diff(c, back, cmpopts.IgnoreUnexported(Config{})); diff != "" {
			t.Errorf("%s\n%s", diff, data)
		}
		if err := back.Resolve(); err != nil {
			t.Fatal(err)
		}
		again, err := back.YAML()
		if err != nil || string(again) != string(data) {
			t.Errorf("written twice the configuration differs: %v", cmp.Diff(string(data), string(again)))
		}
	}
}

func TestYAMLNumbersNeedNoQuotes(t *testing.T) {
	c, err := Parse([]byte("schema_version: 1\ntask: detect\ndata: boxes:x\ntrain: {lr: 0.5, epochs: 3, nesterov: true, milestones: \"1,2\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Resolve(); err != nil {
		t.Fatal(err)
	}
	want := Train{LearningRate: 0.5, Epochs: 3, Nesterov: true, Milestones: []float64{1, 2}, BatchSize: 4}
	got := Train{LearningRate: c.Train.LearningRate, Epochs: c.Train.Epochs, Nesterov: c.Train.Nesterov, Milestones: c.Train.Milestones, BatchSize: c.Train.BatchSize}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c.Encoder.Plugin != "a3d" || c.Fusion.Plugin != None {
		t.Errorf("defaults of detect are missing: %+v", c)
	}
}

func TestBadConfigurationsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		"schema_version: 1\ntask: detect\ndata: boxes:x\nepochs: 3\n":             `unknown field "epochs"`,
		"schema_version: 1\ntask: detect\nencoder: {plugin: a3d, preset: tiny}\n": `unknown field "preset"`,
		"schema_version: 1\ntask: segment\n":                                      `task is "segment", want detect or classify`,
		"task: detect\n":                                                          "schema_version is 0",
		"schema_version: 1\ntask: detect\nseed: many\n":                           "3:",
		"schema_version: 1\ntask: detect\ntrain: {milestones: [1, 2]}\n":          `lists: "1,2,3"`,
		"schema_version: 1\ntask: detect\n---\ntask: detect\n":                    "more than one",
		"schema_version: 1\ntask: [\n":                                            "2:",
		"schema_version: 1\ntask: detect\ntask: classify\n":                       "already defined",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func TestUnknownSettingsSuggestTheNearest(t *testing.T) {
	for set, want := range map[string]string{
		"train.epocs=3":        `did you mean "epochs"`,
		"data.crp=3":           `did you mean "crop"`,
		"train.lr=fast":        `"fast" given, want a number`,
		"train.batch_size=0":   "at least 1",
		"train.optimizer=adam": "want one of adamw, sgd",
		"text.dimension=3":     `unknown setting "dimension"`,
		"loss.a=-1":            "from 0 to",
		"loss.a=1e308":         "from 0 to",
		"loss.a=nan":           "from 0 to",
		"trian.lr=1":           `did you mean "train"`,
		"lr=1":                 "want GROUP.KEY=VALUE",
		"train.lr":             "want GROUP.KEY=VALUE",
		"fusion.layers=2":      "there is no fusion",
	} {
		c, err := New(Detect)
		if err != nil {
			t.Fatal(err)
		}
		c.Data = "boxes:x"
		if err = c.Set(set); err == nil {
			err = c.Resolve()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", set, err, want)
		}
	}
}

func TestLossNamesAreCheckedAgainstTheStages(t *testing.T) {
	c := resolved(t, Detect, "loss.reconstruction=0.5")
	w, err := c.LossWeights([]string{"rpn_class", "reconstruction"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"rpn_class": 1, "reconstruction": 0.5}, w); diff != "" {
		t.Error(diff)
	}
	if _, err := c.LossWeights([]string{"rpn_class", "reconstruct"}); err == nil || !strings.Contains(err.Error(), `did you mean "reconstruct"`) {
		t.Error(err)
	}
}

func TestATrainingWithoutAnyWeightIsRefused(t *testing.T) {
	c := resolved(t, Detect, "loss.rpn_class=0", "loss.mask=0")
	if _, err := c.LossWeights([]string{"rpn_class", "mask"}); err == nil || !strings.Contains(err.Error(), "every loss (rpn_class, mask) has the weight 0") {
		t.Error(err)
	}
	if _, err := c.LossWeights([]string{"rpn_class", "mask", "rpn_box"}); err != nil {
		t.Error(err)
	}
}

func TestPluginReferences(t *testing.T) {
	for text, want := range map[string][2]string{
		"a3d":              {"a3d", ""},
		"a3d:head":         {"a3d", "head"},
		"./bin/a3d":        {"./bin/a3d", ""},
		"/x/y:z/a3d":       {"/x/y:z/a3d", ""},
		"/x/y:z/a3d:fused": {"/x/y:z/a3d", "fused"},
	} {
		p, s, err := ParseRef(text)
		if err != nil || p != want[0] || s != want[1] {
			t.Errorf("%s: %q %q %v, want %q", text, p, s, err, want)
		}
	}
	for _, bad := range []string{"", ":head", "a3d:"} {
		if _, _, err := ParseRef(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("schema_version: 1\ntask: detect\ndata: boxes:x\ntrain: {lr: 1e-3}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		if _, err := c.YAML(); err != nil {
			t.Fatal(err)
		}
	})
}
