package sdk

import (
	"slices"
	"strings"
	"testing"
)

func TestQuestionsAreOfAllLabelSetsOrOfThoseNamed(t *testing.T) {
	for setting, want := range map[string]string{"": "classes classes", "ordinal": "ordinal ordinal",
		"a:regression": "regression classes", "b:survival,a:multilabel": "multilabel survival"} {
		asked, err := ParseQuestions(setting)
		if got := asked.Of("a") + " " + asked.Of("b"); err != nil || got != want {
			t.Errorf("%q: %s %v, want %s", setting, got, err, want)
		}
	}
	if asked, _ := ParseQuestions("b:survival,a:multilabel"); !slices.Equal(asked.Names, []string{"b", "a"}) {
		t.Errorf("%q, want b, a", asked.Names)
	}
	for setting, want := range map[string]string{"grade": `question "grade" is unknown; there are classes, multilabel, ordinal, regression, survival`,
		"a:grade": `"grade" is unknown`, "a:ordinal,b": "NAME:QUESTION", "a:ordinal,a:classes": "NAME:QUESTION", ":ordinal": "NAME:QUESTION"} {
		if _, err := ParseQuestions(setting); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", setting, err, want)
		}
	}
}

func TestWeightsOfQuestions(t *testing.T) {
	got, err := ParseWeights("b:0.5", []string{"a", "b"})
	if err != nil || got["a"] != 1 || got["b"] != 0.5 {
		t.Errorf("%v %v, want a 1, b 0.5", got, err)
	}
	for setting, want := range map[string]string{"c:1": "with a name of a, b", "a:-1": "want a number from 0", "a": `the weight is ""`, "a:nan": "the weight is"} {
		if _, err := ParseWeights(setting, []string{"a", "b"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", setting, err, want)
		}
	}
}
