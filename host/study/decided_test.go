package study

import (
	"strings"
	"testing"
)

func TestWhatAStudyDecidesIsRefusedAsASetting(t *testing.T) {
	for set, want := range map[string]string{
		"data.train_fraction=0.5":      "--fractions",
		"none/data.missing_train=0.1":  "--rates",
		"data.missing_test=0":          "--rates",
		"fold1/data.train_split=train": "--folds",
		"data.train_fraction=1":        "", // what it is anyway
		"train.epochs=3":               "",
	} {
		o := Options{Identity: Identity{Task: "classify", Data: "table:x", Set: []string{set}}}
		_, err := o.config(Model{Method: method(t, "none"), Fraction: 1, Seed: 1, Fold: "fold0"})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
	o := Options{Identity: Identity{Task: "classify", Data: "table:x", Set: []string{"data.train_split=train"}}}
	if _, err := o.config(Model{Method: method(t, "none"), Fraction: 1, Seed: 1}); err != nil {
		t.Errorf("without folds the training split may be chosen: %v", err)
	}
}
