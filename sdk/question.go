package sdk

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// What a label set asks. The setting question of a head that answers more than one of several
// classes says it, see [ParseQuestions].
const (
	// AsksClasses is one of several classes.
	AsksClasses = "classes"
	// AsksFinding is whether a finding is there: the classes 0 and 1.
	AsksFinding = "multilabel"
	// AsksGrade is one of classes in order.
	AsksGrade = "ordinal"
	// AsksNumber is a number: target.value, and logits [N 1]. There are no classes.
	AsksNumber = "regression"
	// AsksTime is the time to an event: the classes are intervals of time, the last without an
	// end. target.label is the interval of the event or, where target.censored is 1, the first
	// of those it may lie in.
	AsksTime = "survival"
)

// Questions lists what a label set may ask.
func Questions() []string {
	return []string{AsksClasses, AsksFinding, AsksGrade, AsksNumber, AsksTime}
}

// Asked is a setting question, read.
type Asked struct {
	// Names are the label sets that the setting names, in its order; none where it is one
	// question for all.
	Names []string
	of    map[string]string
	all   string
}

// ParseQuestions reads a question for all label sets, such as ordinal, or one for each that is
// named, such as grade:ordinal,size_mm:regression; "" is AsksClasses.
func ParseQuestions(setting string) (Asked, error) {
	a := Asked{of: map[string]string{}, all: AsksClasses}
	if setting == "" {
		return a, nil
	}
	if !strings.Contains(setting, ":") {
		a.all = setting
		return a, knownQuestion(setting)
	}
	for _, part := range strings.Split(setting, ",") {
		name, question, ok := cutLast(part)
		if _, twice := a.of[name]; !ok || twice {
			return a, fmt.Errorf("question %q: want one of %s for all label columns, or NAME:QUESTION for each, as in grade:ordinal,size_mm:regression", setting, strings.Join(Questions(), ", "))
		}
		a.Names, a.of[name] = append(a.Names, name), question
		if err := knownQuestion(question); err != nil {
			return a, err
		}
	}
	return a, nil
}

// Of is what a label set asks: AsksClasses where the setting names others.
func (a Asked) Of(set string) string {
	if question, ok := a.of[set]; ok {
		return question
	}
	return a.all
}

func knownQuestion(question string) error {
	if slices.Contains(Questions(), question) {
		return nil
	}
	return fmt.Errorf("question %q is unknown; there are %s", question, strings.Join(Questions(), ", "))
}

// ParseWeights reads NAME:WEIGHT,NAME:WEIGHT for some of the names that there are; the others
// weigh 1.
func ParseWeights(setting string, names []string) (map[string]float64, error) {
	out := map[string]float64{}
	for _, name := range names {
		out[name] = 1
	}
	if setting == "" {
		return out, nil
	}
	for _, part := range strings.Split(setting, ",") {
		name, text, _ := cutLast(part)
		if _, known := out[name]; !known {
			return nil, fmt.Errorf("%q: want NAME:WEIGHT with a name of %s", part, strings.Join(names, ", "))
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || !(v >= 0 && v <= 1e6) {
			return nil, fmt.Errorf("%q: the weight is %q, want a number from 0 to 1000000", part, text)
		}
		out[name] = v
	}
	return out, nil
}

// cutLast cuts at the last colon: a column's name may have some.
func cutLast(text string) (before, after string, ok bool) {
	text = strings.TrimSpace(text)
	i := strings.LastIndex(text, ":")
	if i <= 0 {
		return text, "", false
	}
	return text[:i], text[i+1:], true
}
