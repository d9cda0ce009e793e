package schema

import (
	"regexp"
	"strconv"
	"strings"
)

// possibly starts an uncertain cell in a table, as it does in a prompt.
const possibly = "possibly "

// Prompt writes the text that stands for a cell (Eq. 5): "{name}: {value}.",
// "{name}: no.", "{name}: possibly {value}.". It is "" for Unmentioned, which
// never passes the text encoder. A value outside the value set is written as it
// was found, and the words of a report as they are.
func Prompt(a Attribute, c Cell) string {
	if a.Kind == Text && c.State == Stated && c.Value < 0 {
		return c.Raw
	}
	switch c.State {
	case Stated:
		return a.Name + ": " + valueText(a, c) + "."
	case Negated:
		return a.Name + ": no."
	case Uncertain:
		return a.Name + ": possibly " + valueText(a, c) + "."
	}
	return ""
}

// ValuePrompts writes the prompts of the whole value set, in index order. They
// are the candidates that reconstruction chooses from.
func ValuePrompts(a Attribute) []string {
	prompts := make([]string, len(a.Values))
	for k := range a.Values {
		c := Cell{State: Stated, Value: k}
		if a.Kind == Binary && k == 0 {
			c.State = Negated
		}
		prompts[k] = Prompt(a, c)
	}
	return prompts
}

func valueText(a Attribute, c Cell) string {
	switch {
	case c.Value >= 0 && c.Value < len(a.Values):
		return a.Values[c.Value]
	case c.Raw != "":
		return c.Raw
	case a.Kind == Binary && len(a.Values) == 2:
		return a.Values[1]
	}
	return "present"
}

// boolWords are the spellings of a two-valued answer. In a column that holds
// nothing else, they make the attribute binary.
var boolWords = map[string]bool{
	"0": false, "no": false, "n": false, "false": false, "f": false, "absent": false, "negative": false, "neg": false,
	"1": true, "yes": true, "y": true, "true": true, "t": true, "present": true, "positive": true, "pos": true,
	"0.0": false, "1.0": true,
}

// ParseCell reads a table cell. "" is Unmentioned; "possibly V" (or "?V", or -1
// for binary attributes) is Uncertain; "no" and the absence of a binary
// attribute are Negated, with a value where the value set has one; anything
// else is Stated. Numeric attributes take a
// number or a bin's range. A value outside the value set gives Stated (or
// Uncertain) with Value -1 and Raw: it is for the caller to report. An error
// means that a numeric cell is no number.
func ParseCell(a Attribute, text string) (Cell, error) {
	t := strings.Join(strings.Fields(text), " ")
	if t == "" {
		return Cell{Value: -1}, nil
	}
	state := Stated
	if a.Kind == Text {
		return Cell{State: Stated, Value: -1, Raw: t}, nil
	}
	switch lower := strings.ToLower(t); {
	case strings.HasPrefix(lower, possibly) && !a.has(t):
		state, t = Uncertain, strings.TrimSpace(t[len(possibly):])
	case strings.HasPrefix(t, "?") && len(t) > 1:
		state, t = Uncertain, strings.TrimSpace(t[1:])
	case a.Kind == Binary && (t == "-1" || t == "-1.0" || lower == "uncertain"):
		return Cell{State: Uncertain, Value: 1, Raw: t}, nil
	case lower == "no" && a.Kind != Binary && !a.has(t):
		return Cell{State: Negated, Value: -1, Raw: t}, nil
	}
	k, err := a.Find(t)
	if err != nil {
		return Cell{Value: -1}, err
	}
	if a.Kind == Numeric && !a.has(t) {
		v, _ := a.Number(t) // Find has read it
		t = strconv.FormatFloat(v, 'g', -1, 64)
	}
	if state == Stated && (a.Kind == Binary && k == 0 || k >= 0 && fold(a.Values[k]) == "no") {
		state = Negated
	}
	return Cell{State: state, Value: k, Raw: t}, nil
}

// FormatCell writes a cell so that ParseCell reads it back: binary attributes
// as 1, 0, -1 (uncertain) and empty, the notation of chest x-ray labellers;
// others as the value, "no", "possibly VALUE" and empty.
func FormatCell(a Attribute, c Cell) string {
	if c.State == Unmentioned {
		return ""
	}
	if a.Kind == Binary && (c.Value >= 0 || c.Raw == "") {
		switch c.State {
		case Negated:
			return "0"
		case Uncertain:
			return "-1"
		}
		return "1"
	}
	text := c.Raw
	if text == "" || (a.Kind != Numeric && c.Value >= 0) {
		text = valueText(a, c)
	}
	switch c.State {
	case Negated:
		return "no"
	case Uncertain:
		return possibly + text
	}
	return text
}

// Find returns the index of a value written as text, or -1 when it is not in
// the value set. Comparison ignores case and repeated blanks. Numeric
// attributes take a finite number or a bin's own words; anything else is an
// error.
func (a Attribute) Find(text string) (int, error) {
	key := fold(text)
	for k, v := range a.Values {
		if fold(v) == key {
			return k, nil
		}
	}
	for k, v := range a.Values {
		if joined(v) == joined(text) {
			return k, nil
		}
	}
	switch a.Kind {
	case Binary:
		if b, ok := boolWords[key]; ok {
			if b {
				return 1, nil
			}
			return 0, nil
		}
	case Numeric:
		v, err := a.Number(text)
		if err != nil {
			return -1, err
		}
		return a.Bin(v), nil
	}
	return -1, nil
}

var joints = regexp.MustCompile(`(\pL)[-_ ](\pL)`)

// joined is fold without what stands between parts of a word: "ill defined" is
// "ill-defined".
func joined(s string) string { return joints.ReplaceAllString(fold(s), "$1$2") }

// has reports whether text is a value of the value set.
func (a Attribute) has(text string) bool {
	key := fold(text)
	for _, v := range a.Values {
		if fold(v) == key {
			return true
		}
	}
	return false
}

// Bin returns the bin of v: the number of edges at or below it.
func (a Attribute) Bin(v float64) int {
	k := 0
	for k < len(a.Edges) && v >= a.Edges[k] {
		k++
	}
	return k
}
