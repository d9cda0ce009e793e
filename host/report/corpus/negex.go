// Package corpus reads the public corpora that the extractor is measured on and
// computes its figures.
package corpus

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/host/report/rules"
)

// NegExItem is one sentence/condition pair of the NegEx/ConText test kit.
type NegExItem struct {
	Number                             string
	Condition, Sentence                string
	Negation, Temporality, Experiencer string
}

// ReadNegEx reads the kit's tab-separated file (rsAnnotations-1-120-random.txt):
// a heading and six columns.
func ReadNegEx(path string) ([]NegExItem, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("negex corpus: %w", err)
	}
	if !utf8.Valid(data) { // the kit is Latin-1
		var b bytes.Buffer
		for _, c := range data {
			b.WriteRune(rune(c))
		}
		data = b.Bytes()
	}
	var items []NegExItem
	for n, line := range strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n") {
		if n == 0 || strings.TrimSpace(line) == "" {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 6 {
			return nil, fmt.Errorf("negex corpus: %s:%d: %d columns, want 6 (number, condition, sentence, negation, temporality, experiencer)", path, n+1, len(f))
		}
		items = append(items, NegExItem{f[0], f[1], f[2], strings.TrimSpace(f[3]), strings.TrimSpace(f[4]), strings.TrimSpace(f[5])})
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("negex corpus: %s has no sentences", path)
	}
	return items, nil
}

// Locate finds the condition's words in the sentence, joined by anything that is
// no word (NegEx). Of several places it takes the last in capitals, which is how the
// kit marks the mention (headings in capitals stand before it).
func Locate(sentence, condition string) ([]rules.Token, rules.Span, bool) {
	tokens := rules.Tokenize(sentence)
	var words []string
	for _, t := range rules.Tokenize(condition) {
		if t.Word {
			words = append(words, t.Text)
		}
	}
	found, ok := rules.Span{}, false
	for i := range tokens {
		j, k := i, 0
		for k < len(words) && j < len(tokens) {
			if tokens[j].Word {
				// The kit has last words glued to the next one.
				if tokens[j].Text != words[k] && (k == 0 || k+1 < len(words) || !strings.HasPrefix(tokens[j].Text, words[k])) {
					break
				}
				k++
			} else if k == 0 {
				break
			}
			j++
		}
		if k < len(words) || k == 0 {
			continue
		}
		quote := sentence[tokens[i].Start:tokens[j-1].End]
		if capital := quote == strings.ToUpper(quote); !ok || capital {
			found, ok = rules.Span{Start: i, End: j}, true
		}
	}
	return tokens, found, ok
}

// AssessNegEx applies the engine to one item. A condition that is not in its
// sentence counts as affirmed.
func AssessNegEx(e *rules.Engine, item NegExItem) rules.Assertion {
	tokens, at, ok := Locate(item.Sentence, item.Condition)
	if !ok {
		return rules.Assertion{}
	}
	return e.Read(tokens, rules.Span{Start: 0, End: len(tokens)}).Assess(at)
}

// NegExResult holds the figures on the kit.
type NegExResult struct {
	Sentences int `json:"sentences"`
	NotFound  int `json:"conditions_not_found"`
	// Negation scores Negated against all else.
	Negation Score `json:"negation"`
	// WithPossible counts mentions held possible as negated, as GenNegEx was scored.
	WithPossible Score       `json:"negation_possible_counted_as_negated"`
	Temporality  Temporality `json:"temporality"`
	Experiencer  Experiencer `json:"experiencer"`
}

// Temporality is recent, historical or hypothetical (the kit's "Not particular").
type Temporality struct {
	Accuracy     float64 `json:"accuracy"`
	Historical   Score   `json:"historical"`
	Hypothetical Score   `json:"hypothetical"`
	Recent       Score   `json:"recent"`
}

// Experiencer is the patient or somebody else.
type Experiencer struct {
	Accuracy float64 `json:"accuracy"`
	Other    Score   `json:"other"`
	Patient  Score   `json:"patient"`
}

// EvaluateNegEx scores the engine on the kit's items. Temporality takes
// hypothetical before historical.
func EvaluateNegEx(e *rules.Engine, items []NegExItem) NegExResult {
	var negated, possible, historical, hypothetical, recent, other, patient counts
	right, r := 0, NegExResult{Sentences: len(items)}
	for _, item := range items {
		if _, _, ok := Locate(item.Sentence, item.Condition); !ok {
			r.NotFound++
		}
		a := AssessNegEx(e, item)
		gold := item.Negation == "Negated"
		negated.add(gold, a.Negated)
		possible.add(gold, a.Negated || a.Possible)

		predicted := "Recent"
		switch {
		case a.Hypothetical:
			predicted = "Not particular"
		case a.Historical:
			predicted = "Historical"
		}
		historical.add(item.Temporality == "Historical", predicted == "Historical")
		hypothetical.add(item.Temporality == "Not particular", predicted == "Not particular")
		recent.add(item.Temporality == "Recent", predicted == "Recent")
		if item.Temporality == predicted {
			right++
		}
		other.add(item.Experiencer != "Patient", a.Other)
		patient.add(item.Experiencer == "Patient", !a.Other)
	}
	round := func(v float64) float64 { return math.Round(v*100) / 100 }
	r.Negation, r.WithPossible = negated.score(), possible.score()
	r.Temporality = Temporality{round(percent(right, len(items))), historical.score(), hypothetical.score(), recent.score()}
	r.Experiencer = Experiencer{round(percent(other.tp+other.tn, len(items))), other.score(), patient.score()}
	return r
}
