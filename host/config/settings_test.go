package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// parsed reads a configuration of a task with a line more.
func parsed(task, line string) (*Config, error) {
	return Parse([]byte("schema_version: 1\ntask: " + task + "\ndata: table:x\n" + line + "\n"))
}

func TestDefaultsOfEveryTask(t *testing.T) {
	train := Train{Epochs: 20, BatchSize: 4, Accumulate: 1, Optimizer: AdamW, LearningRate: 0.001, EncoderFactor: 1, FusionFactor: 1, HeadFactor: 1,
		WeightDecay: 0.0001, Momentum: 0.9, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, PluginRules: true, Schedule: Cosine, WarmupSteps: 50, WarmupFactor: 0.01,
		Milestones: []float64{9, 16}, Gamma: 0.1, MinLRFactor: 0.01, ClipNorm: 35, BestBy: MeanSensitivity, ThresholdBy: NoThreshold, ValidateEvery: 1, AMP: AMPNone}
	data := Data{TrainSplit: "train", ValidationSplit: "val", TrainFraction: 1, MissingValidation: -1, Impute: ImputeNone, ClassWeights: Unweighted, Intervals: 10, Sampler: SampleShuffled,
		Zoom: 1, PositiveCrop: 0.7, BagSize: 64, SliceSpacingMM: 2, Augment: AugmentDetection, CacheMiB: 1024, CacheDirMiB: 32768, MaxBoxes: 100, Protocol: "deeplesion", FPPI: []float64{0.5, 1, 2}}
	for _, task := range []string{Detect, Classify} {
		plugin := "a3d"
		if task == Classify {
			plugin = "classifier"
			train.BatchSize, train.BestBy, data.Size, data.Augment = 32, BalancedAccuracy, 128, AugmentPicture
		}
		c, err := New(task)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(train, c.Train); diff != "" {
			t.Errorf("%s: train: %s", task, diff)
		}
		if diff := cmp.Diff(data, c.DataSettings); diff != "" {
			t.Errorf("%s: data: %s", task, diff)
		}
		if c.Text.Dim != 256 || c.Encoder.Plugin != plugin || c.Head.Plugin != plugin || c.Fusion.Plugin != None || c.Device != "cpu" || c.SchemaVersion != 1 || c.Task != task {
			t.Errorf("%s: %+v", task, c)
		}
	}
}

// The least and the greatest value of every setting, and the next ones beyond.
func TestBoundsOfEverySetting(t *testing.T) {
	good := map[string]string{
		"train.epochs": "1", "train.max_steps": "0", "train.batch_size": "1", "train.accumulate": "1", "train.lr": "0", "train.encoder_lr_factor": "0",
		"train.fusion_lr_factor": "0", "train.head_lr_factor": "0", "train.weight_decay": "0", "train.momentum": "0 0.999", "train.beta1": "0 0.999",
		"train.beta2": "0 0.9999", "train.eps": "1e-30", "train.warmup_steps": "0", "train.warmup_factor": "0 1", "train.milestones": "0.5 1,2,3",
		"train.gamma": "1e-9 1", "train.min_lr_factor": "0 1", "train.clip_norm": "0", "train.validate_every": "1", "train.patience": "0 3", "train.ema": "0 0.9999", "train.checkpoint_every": "0",
		"data.train_fraction": "1e-9 1", "data.missing_train": "0 1", "data.missing_validation": "-1 0 1", "data.missing_test": "0 1", "data.missing_seed": "0",
		"data.intervals": "2 1000", "data.size": "0", "data.zoom": "1e-9", "data.crop": "0", "data.positive_crop": "0 1", "data.slices": "0", "data.bag_size": "1 65536", "data.slice_spacing_mm": "1e-9",
		"data.workers": "0", "data.cache_mib": "0 1048576", "data.cache_dir_mib": "1 1073741824", "data.max_boxes": "0", "data.predict_batch": "0 8", "data.fppi": "0.1 1,2", "text.dim": "8 65536", "loss.a": "0 1e6",
	}
	bad := map[string]string{
		"train.epochs": "0", "train.max_steps": "-1", "train.batch_size": "0", "train.accumulate": "0", "train.lr": "-1e-9 inf nan", "train.encoder_lr_factor": "-1 inf",
		"train.fusion_lr_factor": "-1", "train.head_lr_factor": "-1", "train.weight_decay": "-1 inf", "train.momentum": "-0.1 1", "train.beta1": "-0.1 1",
		"train.beta2": "-0.1 1", "train.eps": "0", "train.warmup_steps": "-1", "train.warmup_factor": "-0.1 1.1", "train.milestones": "0 2,2 3,1 1,nan",
		"train.gamma": "0 1.1", "train.min_lr_factor": "-0.1 1.1", "train.clip_norm": "-1 inf", "train.validate_every": "0", "train.patience": "-1", "train.ema": "-0.1 1 nan", "train.checkpoint_every": "-1",
		"data.train_fraction": "0 1.1", "data.missing_train": "-0.1 1.1", "data.missing_validation": "-1.1 1.1 -0.5", "data.missing_test": "-0.1 1.1", "data.missing_seed": "-1",
		"data.intervals": "1 1001", "data.size": "-1 1.5", "data.zoom": "0 inf", "data.crop": "-1", "data.positive_crop": "-0.1 1.1", "data.slices": "-1", "data.bag_size": "0 65537", "data.slice_spacing_mm": "0 nan",
		"data.workers": "-1", "data.cache_mib": "-1 1048577", "data.cache_dir_mib": "0 1073741825", "data.max_boxes": "-1", "data.predict_batch": "-1", "data.fppi": "0,1 2,1 1,1 inf", "text.dim": "4 7 65537",
		"loss.a": "-1e-9 1000001 nan inf x", "train.optimizer": "adam", "train.schedule": "linear", "train.best_by": "balanced_accuracy",
		"data.impute": "mean", "data.class_weights": "yes", "data.sampler": "weighted", "data.augment": "all", "data.protocol": "luna",
	}
	try := func(name, value string) error {
		c, err := New(Detect)
		if err != nil {
			t.Fatal(err)
		}
		c.Data, c.Fusion.Plugin = "boxes:x", "itfusion"
		// Nothing here may be without effect.
		for _, other := range []string{"train.optimizer=adamw", "train.schedule=cosine", "data.crop=8"} {
			if strings.Contains("train.momentum", name) {
				other = strings.Replace(other, "adamw", "sgd", 1)
			}
			if strings.Contains("train.milestones train.gamma", name) {
				other = strings.Replace(other, "cosine", "step", 1)
			}
			if err := c.Set(other); err != nil {
				t.Fatal(err)
			}
		}
		if name == "data.intervals" {
			c.Head.Settings = Values{"question": sdk.AsksTime}
		}
		if err := c.Set(name + "=" + value); err != nil {
			return err
		}
		return c.Resolve()
	}
	for _, name := range slices.Sorted(maps.Keys(good)) {
		for _, value := range strings.Fields(good[name]) {
			if err := try(name, value); err != nil {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		for _, value := range strings.Fields(bad[name]) {
			if err := try(name, value); err == nil {
				t.Errorf("%s=%s was taken", name, value)
			}
		}
	}
	for _, g := range Groups(Detect) {
		for _, s := range g.Settings {
			if name := g.Name + "." + s.Name; (s.Type == "int" || s.Type == "float") && (good[name] == "" || bad[name] == "") {
				t.Errorf("%s is not tried", name)
			}
		}
	}
}

func TestSettingsWithoutEffectAreRefusedWhenGiven(t *testing.T) {
	for _, c := range []struct{ task, sets, want string }{
		{Detect, "train.momentum=0.5", "train.momentum has no effect: train.optimizer is adamw, and only sgd uses it"},
		{Detect, "train.nesterov=true", "train.nesterov has no effect"},
		{Detect, "train.optimizer=sgd train.nesterov=true train.momentum=0", "train.nesterov has no effect: train.momentum is 0"},
		{Detect, "train.optimizer=sgd train.beta1=0.5", "train.beta1 has no effect"},
		{Detect, "train.milestones=1,2", "train.milestones has no effect: train.schedule is cosine, and only step uses it"},
		{Detect, "train.gamma=0.5 train.schedule=constant", "train.gamma has no effect"},
		{Detect, "train.schedule=step train.min_lr_factor=0.5", "train.min_lr_factor has no effect"},
		{Detect, "train.warmup_steps=0 train.warmup_factor=0.5", "train.warmup_factor has no effect: train.warmup_steps is 0"},
		{Detect, "train.schedule=step train.milestones=5,20", "train.milestones has no effect: training ends after epoch 20"},
		{Detect, "train.schedule=step train.epochs=5", "train.schedule has no effect: no milestone lies within the 5 epochs"},
		{Detect, "train.schedule=step train.milestones=", "train.schedule has no effect"},
		{Classify, "data.zoom=2", "data.zoom has no effect: data.size is 128, and only 0 uses it"},
		{Detect, "data.positive_crop=0.5", "data.positive_crop has no effect: data.crop is 0"},
		{Detect, "data.size=64 data.crop=65", "data.crop has no effect: images have 64 pixels"},
		{Detect, "data.class_weights=balanced", "data.class_weights has no effect: the task is detect, and only classify uses it"},
		{Classify, "data.fppi=1", "data.fppi has no effect: the task is classify"},
		{Classify, "data.validation_split= train.best_by=macro_auroc", "train.best_by has no effect"},
		{Classify, "data.validation_split= train.validate_every=2", "train.validate_every has no effect"},
		{Classify, "data.validation_split= train.patience=2", "train.patience has no effect"},
		{Detect, "train.best_by=last train.patience=2", "train.patience has no effect"},
		{Classify, "data.validation_split= data.missing_validation=0.5", "data.missing_validation has no effect"},
		{Detect, "train.optimizer=sgd train.nesterov=true", ""},
		{Detect, "train.schedule=step train.milestones=5,19 train.gamma=0.5", ""},
		{Detect, "data.size=64 data.crop=64 data.positive_crop=0.5", ""},
		{Classify, "data.validation_split= train.best_by=last", ""},
		{Classify, "data.validation_split= train.best_by=last train.threshold_by=youden", "train.threshold_by has no effect"},
		{Detect, "train.threshold_by=youden", "train.threshold_by has no effect"},
		{Classify, "train.threshold_by=sensitivity@0.9", ""},
		{Classify, "data.intervals=5", "data.intervals has no effect"},
		{Classify, "data.intervals=5 head.question=os:survival", ""},
		{Classify, "data.size=0 data.zoom=2 data.class_weights=balanced train.best_by=macro_auroc", ""},
		{Detect, "train.momentum=0.9", ""}, // the default changes nothing anyway
		{Detect, "data.impute=mode", ""},   // of fusions, which a study may or may not have
	} {
		config, err := New(c.task)
		if err != nil {
			t.Fatal(err)
		}
		config.Data = "table:x"
		for _, set := range strings.Fields(c.sets) {
			if err := config.Set(set); err != nil {
				t.Fatalf("%s: %v", set, err)
			}
		}
		switch err := config.Resolve(); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.sets, err)
		case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.sets, err, c.want)
		}
	}
}

func TestSettingsWithoutEffectInAFileAreWarnedAbout(t *testing.T) {
	c, err := parsed(Detect, "train: {momentum: 0.5, nesterov: false}\ndata_settings: {impute: mode}\ntext_encoder: {plugin: bert}\ntext: {dim: 64}")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Resolve(); err != nil {
		t.Error(err)
	}
	want := []string{
		"the setting train.momentum has no effect: train.optimizer is adamw, and only sgd uses it",
		"the setting data.impute has no effect: there is no fusion that reads attributes",
		"the setting text.dim has no effect: there is no fusion that reads attributes",
		"attributes or a text encoder are named, and there is no fusion that reads them",
	}
	if diff := cmp.Diff(want, c.Idle()); diff != "" {
		t.Error(diff)
	}
	c.Fusion.Plugin, c.Train.Momentum = "sum", 0.9
	if diff := cmp.Diff([]string{"the setting text.dim has no effect: the text encoder is a plugin"}, c.Idle()); diff != "" {
		t.Error(diff)
	}
	if c.TextEncoder = nil; len(c.Idle()) != 0 {
		t.Errorf("%q", c.Idle())
	}
}

func TestOptimizerHasItsOwnValues(t *testing.T) {
	for sets, want := range map[string]sdk.Optimizer{
		"train.weight_decay=0.5":                        {Name: "adamw", Values: map[string]float64{"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.5}},
		"train.optimizer=sgd":                           {Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 0.0001}},
		"train.optimizer=sgd train.nesterov=true":       {Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 0.0001, "nesterov": 1}},
		"train.optimizer=sgd train.ema=0.9":             {Name: "sgd", Values: map[string]float64{"momentum": 0.9, "weight_decay": 0.0001, "ema": 0.9}},
		"train.beta1=0.1 train.beta2=0.2 train.eps=0.3": {Name: "adamw", Values: map[string]float64{"beta1": 0.1, "beta2": 0.2, "eps": 0.3, "weight_decay": 0.0001}},
	} {
		c := resolved(t, Detect, strings.Fields(sets)...)
		if diff := cmp.Diff(want, c.Train.StageOptimizer()); diff != "" {
			t.Errorf("%s: %s", sets, diff)
		}
	}
}

// A new optimizer is a constant in Choices and fields with its name, and code in the SDKs.
func TestEveryOptimizerHasValues(t *testing.T) {
	for _, name := range AdamW.Choices() {
		c := resolved(t, Detect, "train.optimizer="+name)
		if o := c.Train.StageOptimizer(); o.Name != name || len(o.Values) < 2 {
			t.Errorf("%+v", o)
		}
	}
}

func TestLearningRateFactorsOfTheRoles(t *testing.T) {
	c := resolved(t, Detect, "train.encoder_lr_factor=0.1", "train.fusion_lr_factor=0.2", "train.head_lr_factor=0.3")
	for role, want := range map[sdk.Kind]float64{sdk.KindEncoder: 0.1, sdk.KindFusion: 0.2, sdk.KindHead: 0.3, sdk.KindText: 1} {
		if got := c.Train.LearningRateFactor(role); got != want {
			t.Errorf("%s: %g, want %g", role, got, want)
		}
	}
}

func TestConfigurationsThatCannotRunAreRefused(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"no data":                                         func(c *Config) { c.Data = "" },
		"threads is -1":                                   func(c *Config) { c.Threads = -1 },
		"encoder: no plugin named":                        func(c *Config) { c.Encoder.Plugin = "" },
		"fusion: no plugin named":                         func(c *Config) { c.Fusion.Plugin = "" },
		`head: "none" is possible for`:                    func(c *Config) { c.Head.Plugin = None },
		`encoder and fusion are both "none"`:              func(c *Config) { c.Encoder.Plugin, c.Fusion.Plugin = None, None },
		"data: train_split is empty":                      func(c *Config) { c.DataSettings.TrainSplit = "" },
		"need text.plugin=NAME":                           func(c *Config) { c.TextEncoder = &Stage{Settings: Values{"model": "x"}} },
		"data: missing_validation is -0.5, want 0 to 1, ": func(c *Config) { c.DataSettings.MissingValidation = -0.5 },
	} {
		c, err := New(Detect)
		if err != nil {
			t.Fatal(err)
		}
		c.Data, c.Threads = "boxes:x", 0
		if err := c.Resolve(); err != nil {
			t.Fatal(err)
		}
		change(c)
		if err := c.Resolve(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	c := resolved(t, Detect)
	if c.Encoder.Plugin = None; c.Resolve() != nil {
		t.Error("reports alone, with a fusion, were refused")
	}
}

func TestFilesAreReadStrictly(t *testing.T) {
	for line, want := range map[string]string{
		"train: {epocs: 1}":              `train: unknown setting "epocs", did you mean "epochs"`,
		"train: {epochs: 0}":             "train: setting epochs: 0 given, want at least 1",
		"data_settings: {fppi: \"2,1\"}": "data: setting fppi",
		"text: {dim: 4}":                 "text: setting dim: 4 given, want at least 8",
		"loss: {a: -1}":                  `loss: weight of "a" is "-1"`,
		"train: {lr: {a: 1}}":            "want a number, text, true or false",
		"wiring: {}":                     `unknown field "wiring"`,
		"groups: {}":                     `unknown field "groups"`,
		"threads: x":                     "threads",
	} {
		if _, err := parsed(Classify, line); err == nil || !strings.HasPrefix(err.Error(), "configuration: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", line, err, want)
		}
	}
	c, err := parsed(Detect, "train: {lr: 2, epochs: 3, nesterov: true}\nloss: {a: 0.5}\nthreads: 2\nhead: {settings: {on: true, n: 3, x: 0.25, s: text, e: }}")
	if err != nil {
		t.Fatal(err)
	}
	if c.Train.LearningRate != 2 || c.Train.Epochs != 3 || !c.Train.Nesterov || c.Loss["a"] != 0.5 || c.Threads != 2 || c.Head.Plugin != "a3d" {
		t.Errorf("%+v", c)
	}
	if diff := cmp.Diff(Values{"on": "true", "n": "3", "x": "0.25", "s": "text", "e": ""}, c.Head.Settings); diff != "" {
		t.Error(diff)
	}
}

// In version 0.1 a 0 stood for the default.
func TestZerosOfEarlierFilesAreWhatTheyMeant(t *testing.T) {
	c, err := parsed(Detect, "data_settings: {slice_spacing_mm: \"0\", zoom: \"0.0\"}")
	if err != nil {
		t.Fatal(err)
	}
	if c.DataSettings.SliceSpacingMM != 2 || c.DataSettings.Zoom != 1 {
		t.Errorf("%+v", c.DataSettings)
	}
	if c, err = parsed(Detect, "data_settings: {slice_spacing_mm: 0.5, zoom: 10}"); err != nil || c.DataSettings.SliceSpacingMM != 0.5 || c.DataSettings.Zoom != 10 {
		t.Errorf("%+v %v", c, err)
	}
}

func TestTextSettingsAreTheHostsOrThePlugins(t *testing.T) {
	c := resolved(t, Detect, "text.plugin=bert:text", "text.model=a", "text.dim=64")
	if c.Text.Dim != 64 || c.TextEncoder.Plugin != "bert" || c.TextEncoder.Stage != "text" || c.TextEncoder.Settings["model"] != "a" {
		t.Errorf("%+v %+v", c.Text, c.TextEncoder)
	}
	if err := c.Set("text.plugin=bert"); err != nil || c.TextEncoder.Settings["model"] != "a" {
		t.Errorf("the same plugin loses its settings: %+v %v", c.TextEncoder, err)
	}
	if err := c.Set("text.plugin=other"); err != nil || len(c.TextEncoder.Settings) != 0 {
		t.Errorf("another plugin has the first one's settings: %+v %v", c.TextEncoder, err)
	}
	if err := c.Set("text.plugin=none"); err != nil || c.TextEncoder != nil {
		t.Errorf("%+v %v", c.TextEncoder, err)
	}
	if err := c.Set("text.plugin=:x"); err == nil || !strings.Contains(err.Error(), "text encoder") {
		t.Errorf("%v", err)
	}
}

func TestSetSaysWhatWasGiven(t *testing.T) {
	c := resolved(t, Detect)
	for _, set := range []string{"head.a=1", "encoder.b=2", "fusion.c=x=y", "train.lr=1", "loss.z=3"} {
		if err := c.Set(set); err != nil {
			t.Error(err)
		}
		if name, _, _ := strings.Cut(set, "="); !c.Given(name) {
			t.Errorf("%s is not known as given", name)
		}
	}
	if c.Given("train.epochs") || c.Head.Settings["a"] != "1" || c.Encoder.Settings["b"] != "2" || c.Fusion.Settings["c"] != "x=y" || c.Loss["z"] != 3 {
		t.Errorf("%+v", c)
	}
	before := c.Train
	if err := c.Set("train.lr=x"); err == nil || !strings.HasPrefix(err.Error(), "--set train.lr=x: setting lr: ") {
		t.Errorf("%v", err)
	}
	if diff := cmp.Diff(before, c.Train); diff != "" {
		t.Errorf("a refused setting changed others: %s", diff)
	}
}

func TestGroupsHaveTheTasksDefaults(t *testing.T) {
	for task, want := range map[string]string{Detect: "train 4 mean_sensitivity 3", Classify: "train 32 balanced_accuracy 0"} {
		g := Groups(task)
		byName := func(name string) sdk.Setting {
			return g[0].Settings[slices.IndexFunc(g[0].Settings, func(s sdk.Setting) bool { return s.Name == name })]
		}
		got := fmt.Sprintf("%s %s %s %d", g[0].Name, byName("batch_size").Default, byName("best_by").Default, len(byName("best_by").Choices))
		if got != want || len(g) != 4 || g[1].Name != "data" || g[2].Name != "report" || g[3].Name != "text" {
			t.Errorf("%s: %s, want %s", task, got, want)
		}
	}
}
