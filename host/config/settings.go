package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// The structs below are the only place where the host's settings are declared: from their
// tags come YAML and --set, defaults, bounds, help and the checks of Resolve. Besides the
// tags of sdk.SettingsOf, of which default.classify, choices.classify and help.classify
// stand before the plain ones for that task, there are
//
//	task       the only task in which the setting is used
//	when       KEY=VALUE[,VALUE] of the same group without which the setting is not used
//	unless     KEY=VALUE of the same group with which the setting is not used
//	optimizer  the optimizers that are opened with this value, separated by commas

// Train are the keys of `--set train.KEY=VALUE`.
type Train struct {
	Epochs          int       `setting:"epochs" default:"20" min:"1" help:"times through the training split"`
	MaxSteps        int       `setting:"max_steps" default:"0" min:"0" help:"stop after that many optimizer steps; 0: all epochs"`
	BatchSize       int       `setting:"batch_size" default:"4" default.classify:"32" min:"1" help:"cases per micro-batch"`
	Accumulate      int       `setting:"accumulate" default:"1" min:"1" help:"micro-batches per optimizer step"`
	Optimizer       Optimizer `setting:"optimizer" default:"adamw" help:"update rule"`
	LearningRate    float64   `setting:"lr" default:"0.001" min:"0" help:"learning rate"`
	EncoderFactor   float64   `setting:"encoder_lr_factor" default:"1" min:"0" help:"the encoder's learning rate in units of lr; 0 freezes it"`
	FusionFactor    float64   `setting:"fusion_lr_factor" default:"1" min:"0" help:"the fusion's learning rate in units of lr; 0 freezes it"`
	HeadFactor      float64   `setting:"head_lr_factor" default:"1" min:"0" help:"the head's learning rate in units of lr; 0 freezes it"`
	WeightDecay     float64   `setting:"weight_decay" default:"0.0001" min:"0" optimizer:"adamw,sgd" help:"decay of the weights"`
	Momentum        float64   `setting:"momentum" default:"0.9" min:"0" below:"1" optimizer:"sgd" help:"of sgd"`
	Nesterov        bool      `setting:"nesterov" default:"false" unless:"momentum=0" optimizer:"sgd" help:"Nesterov's momentum, of sgd"`
	Beta1           float64   `setting:"beta1" default:"0.9" min:"0" below:"1" optimizer:"adamw" help:"of adamw"`
	Beta2           float64   `setting:"beta2" default:"0.999" min:"0" below:"1" optimizer:"adamw" help:"of adamw"`
	Eps             float64   `setting:"eps" default:"1e-8" above:"0" optimizer:"adamw" help:"of adamw"`
	EMA             float64   `setting:"ema" default:"0" min:"0" below:"1" optimizer:"adamw,sgd" help:"decay of a moving average of the weights, e.g. 0.999; validation, the best checkpoint and predict use the average; lower in the first steps, (1+n)/(10+n) in step n; 0: none"`
	PluginRules     bool      `setting:"plugin_rules" default:"true" help:"stages that declare an update rule or a learning rate of their own use it; false: train.optimizer and train.schedule, as all others do"`
	AMP             AMP       `setting:"amp" default:"false" help:"automatic mixed precision: compute in bfloat16 (bf16, or true) or half precision (fp16, with the loss scaled: halved where a gradient overflows, doubled after 2000 steps) where that is safe, in training and in predict, in stages of plugins that can (capabilities amp, fp16)"`
	TF32            bool      `setting:"tf32" default:"false" help:"on GPUs: matrix products and convolutions in single precision round what goes in to 10 bits, which is several times faster; a CPU takes no notice"`
	CudnnBenchmark  bool      `setting:"cudnn_benchmark" default:"false" unless:"deterministic=true" help:"on GPUs: convolutions are timed at each new size and the fastest way is taken, which may differ from run to run"`
	Deterministic   bool      `setting:"deterministic" default:"false" help:"on GPUs: only operators that give the same bits every time, slower; one that has none of the kind ends the run. On a CPU results are equal bit for bit either way"`
	SyncBatchNorm   bool      `setting:"sync_batchnorm" default:"false" help:"batch normalisation by the statistics of all processes' batches together, where several train one model; false: of each process's own"`
	Schedule        Schedule  `setting:"schedule" default:"cosine" help:"how the learning rate falls"`
	WarmupSteps     int       `setting:"warmup_steps" default:"50" min:"0" help:"linear warm-up, in optimizer steps; a quarter of the run at most"`
	WarmupFactor    float64   `setting:"warmup_factor" default:"0.01" min:"0" max:"1" unless:"warmup_steps=0" help:"where the warm-up starts, in units of lr"`
	Milestones      []float64 `setting:"milestones" default:"9,16" above:"0" rising:"true" when:"schedule=step" help:"epochs after which schedule step multiplies by gamma"`
	Gamma           float64   `setting:"gamma" default:"0.1" above:"0" max:"1" when:"schedule=step" help:"of schedule step"`
	MinLRFactor     float64   `setting:"min_lr_factor" default:"0.01" min:"0" max:"1" when:"schedule=cosine" help:"where schedule cosine ends, in units of lr"`
	ClipNorm        float64   `setting:"clip_norm" default:"35" min:"0" help:"bound of the global gradient norm; 0: none"`
	BestBy          BestBy    `setting:"best_by" default:"mean_sensitivity" choices:"mean_sensitivity,metric.*,last" default.classify:"balanced_accuracy" choices.classify:"" help:"which checkpoint is the best one: that of the greatest mean_sensitivity (detect) or of the best figure (classify: any of alignedfusion help figures by which answers are better or worse; macro_auroc is steadier where the split is small, quadratic_kappa suits classes in order; of numbers mae unless another is given, of times to an event concordance) on the validation split, of a metric of the head's own (metric.NAME), or the last"`
	ThresholdBy     string    `setting:"threshold_by" default:"none" task:"classify" help:"how the threshold of a question of two classes is chosen on the validation split, after training: youden, sensitivity@X or specificity@X; none: the likelier class is called"`
	ValidateEvery   int       `setting:"validate_every" default:"1" min:"1" help:"epochs between validations; the last epoch is always validated"`
	Patience        int       `setting:"patience" default:"0" min:"0" unless:"best_by=last" help:"training ends after that many validations in a row without a better one (early stopping); 0: after all epochs"`
	CheckpointEvery int       `setting:"checkpoint_every" default:"0" min:"0" help:"optimizer steps between checkpoints besides those at the ends of epochs; 0: none"`
}

// Data are the keys of `--set data.KEY=VALUE`.
type Data struct {
	TrainSplit        string       `setting:"train_split" default:"train" help:"split to train on; several joined by +, as in train+val; !NAME is all but one"`
	ValidationSplit   string       `setting:"validation_split" default:"val" help:"split to choose the best checkpoint on; empty: none, the last checkpoint is the best"`
	TrainFraction     float64      `setting:"train_fraction" default:"1" above:"0" max:"1" help:"share of the training split's patients to train on; the fewer are among the more"`
	MissingTrain      float64      `setting:"missing_train" default:"0" min:"0" max:"1" help:"share of the attribute values there are that is taken away from the training split, at random"`
	MissingValidation float64      `setting:"missing_validation" default:"-1" min:"-1" max:"1" help:"the same for the validation split; -1: as for the training split"`
	MissingTest       float64      `setting:"missing_test" default:"0" min:"0" max:"1" help:"the same for all other splits, when they are predicted"`
	MissingSeed       int          `setting:"missing_seed" default:"0" min:"0" help:"which values are taken away, and which patients stay; what is missing at a low rate is missing at every higher one"`
	Impute            Impute       `setting:"impute" default:"none" help:"what stands for a missing attribute: none (unmentioned), mode (the training split's most frequent value), category (one more value), pattern (every attribute is reduced to present or missing)"`
	ClassWeights      ClassWeights `setting:"class_weights" default:"none" task:"classify" help:"weights of the classes in the loss: none, or balanced (inverse to their frequency in the training split)"`
	Intervals         int          `setting:"intervals" default:"10" min:"2" max:"1000" help:"head.question=survival: intervals of time that are told apart, with as many events of the training split in each"`
	Sampler           Sampler      `setting:"sampler" default:"shuffle" help:"how an epoch draws its cases: shuffle (each once), or balanced (as many in all; every class equally often, of images with boxes their rarest class, images without one being a class of their own)"`
	Size              int          `setting:"size" default:"0" default.classify:"128" min:"0" max:"16384" help:"longer side in network pixels, ratio kept; 0: original size times zoom"`
	Zoom              float64      `setting:"zoom" default:"1" above:"0" max:"64" when:"size=0" help:"network pixels per original pixel where size is 0"`
	Crop              int          `setting:"crop" default:"0" min:"0" max:"16384" help:"side of the training crops in network pixels; 0: whole images"`
	PositiveCrop      float64      `setting:"positive_crop" default:"0.7" min:"0" max:"1" task:"detect" unless:"crop=0" help:"share of the crops that are laid around a lesion"`
	Slices            int          `setting:"slices" default:"0" min:"0" max:"1024" help:"depth of the volume; 0: what the encoder wants"`
	BagSize           int          `setting:"bag_size" default:"64" min:"1" max:"65536" help:"patches of a slide (patches: with level=slide) that a step sees, drawn anew in each epoch; a prediction sees all, that many at a time"`
	SliceSpacingMM    float64      `setting:"slice_spacing_mm" default:"2" above:"0" help:"distance the slices are resampled to; where a classifier is shown a region or all of a volume its slices are spread over it instead"`
	Augment           Augment      `setting:"augment" default:"detection" default.classify:"picture" help:"what is varied at random in training: nothing, as published for DeepLesion, the same and any way up (small lesions), as usual for photographs of skin"`
	Workers           int          `setting:"workers" default:"0" min:"0" max:"1024" help:"background loaders; 0: two less than the CPUs of this process, at least 1"`
	CacheMiB          int          `setting:"cache_mib" default:"1024" min:"0" max:"1048576" help:"memory for decoded images, in MiB; predict takes at most 32 where it shows each once"`
	CacheDir          string       `setting:"cache_dir" default:"" help:"folder in which decoded images are kept from epoch to epoch and run to run, several at once; for slices in PNG and .nii.gz; empty: none; predict fills it from the run's own data alone"`
	CacheDirMiB       int          `setting:"cache_dir_mib" default:"32768" min:"1" max:"1073741824" help:"size of cache_dir, in MiB; what no run has used for longest leaves first"`
	PredictBatch      int          `setting:"predict_batch" default:"0" min:"0" help:"cases, of one size, that validation and predict compute together; 0: 1 (detect) or train.batch_size (classify)"`
	MaxBoxes          int          `setting:"max_boxes" default:"100" min:"0" task:"detect" help:"boxes per image that predictions keep, the best first; 0: all"`
	Protocol          Protocol     `setting:"protocol" default:"deeplesion" task:"detect" help:"FROC protocol of the validation"`
	FPPI              []float64    `setting:"fppi" default:"0.5,1,2" above:"0" rising:"true" task:"detect" help:"false positives per image whose sensitivities the validation averages; empty: the protocol's"`
}

// Text are the keys of `--set text.KEY=VALUE` that are the host's own.
type Text struct {
	// Dim below 8 would give most words the same few places.
	Dim int `setting:"dim" default:"256" min:"8" max:"65536" help:"width of the built-in hashed n-gram embedding"`
	// Center is for encoders that put the values of one attribute close together.
	Center bool `setting:"center" default:"false" help:"take what the values of one attribute share in their embeddings apart from what tells them apart, and give both the same weight"`
}

// Report are the keys of `--set report.KEY=VALUE`.
type Report struct {
	Tokens Tokens `setting:"tokens" default:"attribute" help:"what a token of the report is: an attribute; a sentence, or the whole report, as it is written (of --reports, or reports.csv of the data)"`
	// Lexicon is for reports that come as text.
	Lexicon Lexicon `setting:"lexicon" default:"auto" help:"which built-in lexicon finds attributes in reports that come as text; auto is the one that knows most attributes of the --schema, chest-xray without one. Another lexicon: attributes extract --lexicon FILE, and give --reports the table"`
}

// Lexicon is which of the built-in lexicons reads reports.
type Lexicon string

// AnyLexicon is the one that fits a schema best.
const AnyLexicon Lexicon = "auto"

// Choices of report.lexicon.
func (Lexicon) Choices() []string {
	return texts(AnyLexicon, "chest-xray", "ct-lesion", "kidney", "liver", "pathology", "prostate", "skin")
}

// Tokens is what a token of the report is.
type Tokens string

// Tokens of a report.
const (
	PerAttribute Tokens = "attribute"
	PerSentence  Tokens = "sentence"
	PerReport    Tokens = "whole"
)

// Choices of report.tokens.
func (Tokens) Choices() []string { return texts(PerAttribute, PerSentence, PerReport) }

// Optimizer is an update rule; the fields with its name in the tag optimizer are its values.
type Optimizer string

// Update rules.
const (
	AdamW Optimizer = "adamw"
	SGD   Optimizer = "sgd"
)

// Choices of train.optimizer.
func (Optimizer) Choices() []string { return texts(AdamW, SGD) }

// AMP is the precision in which stages compute where that is safe.
type AMP string

// Precisions; AMPTrue is AMPBF16.
const (
	AMPNone AMP = "false"
	AMPTrue AMP = "true"
	AMPBF16 AMP = "bf16"
	AMPFP16 AMP = "fp16"
)

// Choices of train.amp.
func (AMP) Choices() []string { return texts(AMPNone, AMPTrue, AMPBF16, AMPFP16) }

// On reports whether stages compute in a lower precision than single.
func (a AMP) On() bool { return a == AMPTrue || a == AMPBF16 || a == AMPFP16 }

// Schedule is how the learning rate falls.
type Schedule string

// Schedules.
const (
	Cosine   Schedule = "cosine"
	Step     Schedule = "step"
	Constant Schedule = "constant"
)

// Choices of train.schedule.
func (Schedule) Choices() []string { return texts(Cosine, Step, Constant) }

// BestBy is what the best checkpoint is chosen by.
type BestBy string

// What chooses the best checkpoint.
const (
	MeanSensitivity  BestBy = "mean_sensitivity"
	BalancedAccuracy BestBy = "balanced_accuracy"
	MacroAUROC       BestBy = "macro_auroc"
	Last             BestBy = "last"
)

// NoThreshold is the train.threshold_by of runs that call the likeliest class.
const NoThreshold = "none"

// Impute is what stands for a missing attribute.
type Impute string

// What stands for a missing attribute.
const (
	ImputeNone     Impute = "none"
	ImputeMode     Impute = "mode"
	ImputeCategory Impute = "category"
	ImputePattern  Impute = "pattern"
)

// Choices of data.impute.
func (Impute) Choices() []string {
	return texts(ImputeNone, ImputeMode, ImputeCategory, ImputePattern)
}

// ClassWeights are the classes' weights in the loss.
type ClassWeights string

// Weights of the classes.
const (
	Unweighted ClassWeights = "none"
	Balanced   ClassWeights = "balanced"
)

// Choices of data.class_weights.
func (ClassWeights) Choices() []string { return texts(Unweighted, Balanced) }

// Sampler is how an epoch draws its cases.
type Sampler string

// How cases are drawn.
const (
	SampleShuffled Sampler = "shuffle"
	SampleBalanced Sampler = "balanced"
)

// Choices of data.sampler.
func (Sampler) Choices() []string { return texts(SampleShuffled, SampleBalanced) }

// Augment is what is varied at random in training.
type Augment string

// What is varied at random.
const (
	AugmentNone      Augment = "none"
	AugmentDetection Augment = "detection"
	AugmentAnyWay    Augment = "any-way"
	AugmentPicture   Augment = "picture"
)

// Choices of data.augment.
func (Augment) Choices() []string {
	return texts(AugmentNone, AugmentDetection, AugmentAnyWay, AugmentPicture)
}

// Protocol is the name of a FROC protocol.
type Protocol string

// Choices of data.protocol are all protocols of eval/froc.
func (Protocol) Choices() []string {
	return froc.ProtocolNames()
}

func texts[T ~string](values ...T) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return out
}

// Group is a group of settings that are the host's own.
type Group struct {
	// Name is what stands before the dot in --set.
	Name     string
	Settings []sdk.Setting
}

// Groups are the host's own settings with the defaults and choices of a task.
func Groups(task string) []Group {
	return []Group{
		{"train", sdk.SettingsOf(Train{}, task)},
		{"data", sdk.SettingsOf(Data{}, task)},
		{"report", sdk.SettingsOf(Report{}, task)},
		{"text", sdk.SettingsOf(Text{}, task)},
	}
}

// MarshalYAML writes the settings in their order.
func (t Train) MarshalYAML() (any, error) { return ordered(t), nil }

// MarshalYAML writes the settings in their order.
func (d Data) MarshalYAML() (any, error) { return ordered(d), nil }

// MarshalYAML writes the settings in their order.
func (t Text) MarshalYAML() (any, error) { return ordered(t), nil }

// MarshalYAML writes the settings in their order.
func (r Report) MarshalYAML() (any, error) { return ordered(r), nil }

func ordered(group any) yaml.MapSlice {
	var out yaml.MapSlice
	texts, v := sdk.EncodeSettings(group), reflect.ValueOf(group)
	for i, s := range sdk.SettingsOf(group) {
		value := any(texts[s.Name])
		switch f := v.Field(i); {
		case f.CanFloat() && f.Float() == math.Trunc(f.Float()):
			value = int64(f.Float()) // 1 reads better than 1.0
		case texts[s.Name] == string(AMPNone), texts[s.Name] == string(AMPTrue): // train.amp was a switch once
			value = texts[s.Name] == string(AMPTrue)
		case f.CanInt(), f.CanFloat():
			value = f.Interface()
		}
		out = append(out, yaml.MapItem{Key: s.Name, Value: value})
	}
	return out
}

// StageOptimizer is what stages are opened with.
func (t Train) StageOptimizer() sdk.Optimizer {
	out := map[string]float64{}
	v := reflect.ValueOf(t)
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		if !slices.Contains(strings.Split(tag.Get("optimizer"), ","), string(t.Optimizer)) {
			continue
		}
		if f := v.Field(i); f.CanFloat() {
			out[tag.Get("setting")] = f.Float()
		} else if f.Bool() {
			out[tag.Get("setting")] = 1
		}
	}
	if t.EMA == 0 { // which plugins of before it was there do not know
		delete(out, sdk.EMA)
	}
	return sdk.Optimizer{Name: string(t.Optimizer), Values: out}
}

// LearningRateFactor is a role's learning rate in units of train.lr.
func (t Train) LearningRateFactor(role sdk.Kind) float64 {
	switch role {
	case sdk.KindEncoder:
		return t.EncoderFactor
	case sdk.KindFusion:
		return t.FusionFactor
	case sdk.KindHead:
		return t.HeadFactor
	}
	return 1
}

// idle is a setting that changes nothing in this configuration.
type idle struct {
	key string // GROUP.NAME
	why string
	// harmless ones are warned about and never refused: a study gives one set of settings
	// to methods with and without a fusion.
	harmless bool
}

// idleSettings are those that the tags of the groups call unused, in order.
func (c *Config) idleSettings() []idle {
	var out []idle
	for _, g := range []struct {
		name   string
		values any
	}{{"train", c.Train}, {"data", c.DataSettings}} {
		given := sdk.EncodeSettings(g.values)
		t := reflect.TypeOf(g.values)
		for i := range t.NumField() {
			if why := unused(g.name, c.Task, t.Field(i).Tag, given); why != "" {
				out = append(out, idle{key: g.name + "." + t.Field(i).Tag.Get("setting"), why: why})
			}
		}
	}
	return append(out, c.idleBeyondGroups()...)
}

// unused says why a setting with this tag is not used; "" when it is.
func unused(group, task string, tag reflect.StructTag, given sdk.Settings) string {
	if only := tag.Get("task"); only != "" && only != task {
		return fmt.Sprintf("the task is %s, and only %s uses it", task, only)
	}
	if names := tag.Get("optimizer"); names != "" && !slices.Contains(strings.Split(names, ","), given["optimizer"]) {
		return fmt.Sprintf("%s.optimizer is %s, and only %s uses it", group, given["optimizer"], names)
	}
	if key, want, ok := strings.Cut(tag.Get("when"), "="); ok && !slices.Contains(strings.Split(want, ","), given[key]) {
		return fmt.Sprintf("%s.%s is %s, and only %s uses it", group, key, given[key], want)
	}
	if key, off, ok := strings.Cut(tag.Get("unless"), "="); ok && given[key] == off {
		return fmt.Sprintf("%s.%s is %s", group, key, off)
	}
	return ""
}

// idleBeyondGroups are those that no tag can say.
func (c *Config) idleBeyondGroups() []idle {
	var out []idle
	t, d := &c.Train, &c.DataSettings
	add := func(unused bool, key, format string, args ...any) {
		if unused {
			out = append(out, idle{key: key, why: fmt.Sprintf(format, args...)})
		}
	}
	if t.Schedule == Step {
		beyond := slices.IndexFunc(t.Milestones, func(m float64) bool { return m >= float64(t.Epochs) })
		add(beyond >= 0, "train.milestones", "training ends after epoch %d", t.Epochs)
		add(beyond == 0 || len(t.Milestones) == 0, "train.schedule", "no milestone lies within the %d epochs", t.Epochs)
	}
	add(!strings.Contains(c.Head.Settings["question"], sdk.AsksTime), "data.intervals", "no time to an event is asked (head.question=%s)", sdk.AsksTime)
	add(d.Size > 0 && d.Crop > d.Size, "data.crop", "images have %d pixels on their longer side (data.size)", d.Size)
	if d.ValidationSplit == "" {
		add(t.BestBy != Last, "train.best_by", "data.validation_split is empty, and without validation the last checkpoint is the best")
		add(true, "train.validate_every", "data.validation_split is empty")
		add(true, "train.patience", "data.validation_split is empty")
		add(t.ThresholdBy != NoThreshold, "train.threshold_by", "data.validation_split is empty")
		add(true, "data.missing_validation", "data.validation_split is empty")
	}
	if c.Fusion.Plugin == None {
		for _, key := range []string{"data.impute", "data.missing_train", "data.missing_validation", "data.missing_test", "report.tokens", "report.lexicon", "text.dim", "text.center"} {
			out = append(out, idle{key, "there is no fusion that reads attributes", true})
		}
	}
	if c.Report.Tokens != PerAttribute {
		why := fmt.Sprintf("it is about attributes, and report.tokens is %s", c.Report.Tokens)
		add(d.Impute != ImputeNone, "data.impute", "%s", why)
		add(c.Text.Center, "text.center", "%s", why)
		add(c.Report.Lexicon != AnyLexicon, "report.lexicon", "%s", why)
	}
	if c.TextEncoder != nil && c.Fusion.Plugin != None {
		out = append(out, idle{"text.dim", "the text encoder is a plugin", true})
	}
	return out
}
