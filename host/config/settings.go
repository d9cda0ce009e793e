package config

import (
	"strconv"

	"github.com/alignedfusion/alignedfusion/sdk"
)

func bound(v float64) *float64 { return &v }

func setting(name, kind, fallback, help string) sdk.Setting {
	return sdk.Setting{Name: name, Type: kind, Default: fallback, Help: help}
}

func positive(s sdk.Setting) sdk.Setting { s.Min = bound(1); return s }

func atLeastZero(s sdk.Setting) sdk.Setting { s.Min = bound(0); return s }

func fraction(s sdk.Setting) sdk.Setting { s.Min, s.Max = bound(0), bound(1); return s }

func withinOneOf(s sdk.Setting, low float64) sdk.Setting {
	s.Min, s.Max = bound(low), bound(1)
	return s
}

func oneOf(s sdk.Setting, choices ...string) sdk.Setting { s.Choices = choices; return s }

// TrainSettings are the keys of `--set train.KEY=VALUE`.
func TrainSettings(task string) []sdk.Setting {
	epochs, batch, lr, warmup := "20", "4", "0.001", "50"
	best := oneOf(setting("best_by", "string", "mean_sensitivity", "which checkpoint is the best one: that of the greatest mean_sensitivity on the validation split, or the last"), "mean_sensitivity", "last")
	if task == Classify {
		epochs, batch, lr, warmup = "20", "32", "0.001", "50"
		best = oneOf(setting("best_by", "string", "balanced_accuracy", "which checkpoint is the best one: that of the greatest balanced_accuracy or macro_auroc on the validation split (the second is steadier where that is small), or the last"),
			"balanced_accuracy", "macro_auroc", "last")
	}
	return []sdk.Setting{
		positive(setting("epochs", "int", epochs, "times through the training split")),
		atLeastZero(setting("max_steps", "int", "0", "stop after that many optimizer steps; 0: all epochs")),
		positive(setting("batch_size", "int", batch, "cases per micro-batch")),
		positive(setting("accumulate", "int", "1", "micro-batches per optimizer step")),
		oneOf(setting("optimizer", "string", "adamw", "update rule"), "adamw", "sgd"),
		atLeastZero(setting("lr", "float", lr, "learning rate")),
		atLeastZero(setting("encoder_lr_factor", "float", "1", "the encoder's learning rate in units of lr; 0 freezes it")),
		atLeastZero(setting("fusion_lr_factor", "float", "1", "the fusion's learning rate in units of lr; 0 freezes it")),
		atLeastZero(setting("head_lr_factor", "float", "1", "the head's learning rate in units of lr; 0 freezes it")),
		atLeastZero(setting("weight_decay", "float", "0.0001", "decay of the weights")),
		fraction(setting("momentum", "float", "0.9", "of sgd")),
		setting("nesterov", "bool", "false", "Nesterov's momentum, of sgd"),
		fraction(setting("beta1", "float", "0.9", "of adamw")),
		fraction(setting("beta2", "float", "0.999", "of adamw")),
		atLeastZero(setting("eps", "float", "1e-8", "of adamw")),
		oneOf(setting("schedule", "string", "cosine", "how the learning rate falls"), "cosine", "step", "constant"),
		atLeastZero(setting("warmup_steps", "int", warmup, "linear warm-up, in optimizer steps")),
		fraction(setting("warmup_factor", "float", "0.01", "where the warm-up starts, in units of lr")),
		setting("milestones", "floats", "9,16", "epochs after which schedule step multiplies by gamma"),
		fraction(setting("gamma", "float", "0.1", "of schedule step")),
		fraction(setting("min_lr_factor", "float", "0.01", "where schedule cosine ends, in units of lr")),
		atLeastZero(setting("clip_norm", "float", "35", "bound of the global gradient norm; 0: none")),
		best,
		positive(setting("validate_every", "int", "1", "epochs between validations; the last epoch is always validated")),
		atLeastZero(setting("checkpoint_every", "int", "0", "optimizer steps between checkpoints besides those at the ends of epochs; 0: none")),
	}
}

// DataSettings are the keys of `--set data.KEY=VALUE`.
func DataSettings(task string) []sdk.Setting {
	size, augment := "0", "detection"
	if task == Classify {
		size, augment = "128", "picture"
	}
	return []sdk.Setting{
		setting("train_split", "string", "train", "split to train on; several joined by +, as in train+val"),
		setting("validation_split", "string", "val", "split to choose the best checkpoint on"),
		fraction(setting("train_fraction", "float", "1", "share of the training split's patients to train on; the fewer are among the more")),
		fraction(setting("missing_train", "float", "0", "share of the attribute values there are that is taken away from the training split, at random")),
		withinOneOf(setting("missing_validation", "float", "-1", "the same for the validation split; -1: as for the training split"), -1),
		fraction(setting("missing_test", "float", "0", "the same for every other split")),
		atLeastZero(setting("missing_seed", "int", "0", "which values are taken away, and which patients stay; what is missing at a low rate is missing at every higher one")),
		oneOf(setting("impute", "string", "none", "what stands for a missing attribute: none (unmentioned), mode (the training split's most frequent value), category (one more value), "+
			"pattern (every attribute is reduced to present or missing)"), "none", "mode", "category", "pattern"),
		oneOf(setting("class_weights", "string", "none", "weights of the classes in the loss: none, or balanced (inverse to their frequency in the training split)"), "none", "balanced"),
		atLeastZero(setting("size", "int", size, "longer side in network pixels, ratio kept; 0: original size times zoom")),
		atLeastZero(setting("zoom", "float", "1", "network pixels per original pixel where size is 0")),
		atLeastZero(setting("crop", "int", "0", "side of the training crops in network pixels; 0: whole images")),
		fraction(setting("positive_crop", "float", "0.7", "share of the crops that are laid around a lesion")),
		atLeastZero(setting("slices", "int", "0", "depth of the volume; 0: what the encoder wants")),
		atLeastZero(setting("slice_spacing_mm", "float", "2", "distance the slices are resampled to")),
		oneOf(setting("augment", "string", augment, "what is varied at random in training: nothing, as published for DeepLesion, the same and any way up (small lesions), as usual for photographs of skin"), "none", "detection", "any-way", "picture"),
		atLeastZero(setting("workers", "int", "0", "background loaders; 0: number of CPUs, 4 at most")),
		atLeastZero(setting("cache_mib", "int", "1024", "memory for decoded images, in MiB")),
		atLeastZero(setting("max_boxes", "int", "100", "boxes per image that predictions keep, the best first; 0: all")),
		oneOf(setting("protocol", "string", "deeplesion", "FROC protocol of the validation"), "deeplesion", "small-lesion", "strict", "coco"),
		setting("fppi", "floats", "0.5,1,2", "false positives per image whose sensitivities the validation averages"),
	}
}

// TextSettings are the keys of `--set text.KEY=VALUE`.
func TextSettings() []sdk.Setting {
	return []sdk.Setting{
		positive(setting("dim", "int", "256", "width of the built-in hashed n-gram embedding")),
	}
}

// Optimizer is what stages are opened with.
func (c *Config) Optimizer() sdk.Optimizer {
	s := sdk.Settings(c.Train)
	o := sdk.Optimizer{Name: s["optimizer"], Values: map[string]float64{"weight_decay": s.Float("weight_decay")}}
	if o.Name == "sgd" {
		o.Values["momentum"] = s.Float("momentum")
		if s.Bool("nesterov") {
			o.Values["nesterov"] = 1
		}
		return o
	}
	for _, k := range []string{"beta1", "beta2", "eps"} {
		o.Values[k] = s.Float(k)
	}
	return o
}

// LearningRateFactor is a role's learning rate in units of train.lr.
func (c *Config) LearningRateFactor(role sdk.Kind) float64 {
	v, err := strconv.ParseFloat(c.Train[string(role)+"_lr_factor"], 64)
	if err != nil {
		return 1
	}
	return v
}
