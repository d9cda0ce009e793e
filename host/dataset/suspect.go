package dataset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Tables can be well formed and yet not say what was meant. What follows looks at the
// columns once they are read and warns, with the number of cells, the first of them and
// the mend.

// missingWords are what people write where nothing is known.
var missingWords = []string{"na", "n/a", "n.a.", "nan", "null", "nil", "none", "unk", "unknown", "not known", "not available",
	"not recorded", "missing", "nd", "?", "-", "--", "."}

// Below these numbers of cells a pattern may well be chance.
const (
	fewCells        = 12
	fewCellsOfValue = 3
)

// cellView is one filled cell of a column.
type cellView struct {
	text      string
	caseIndex int
}

// suspect warns of columns that are seldom meant as they stand.
func (o *opener) suspect() {
	o.suspectSplits()
	for _, set := range o.d.Labels {
		if len(o.opt.LabelSets) == 0 {
			o.suspectSpellings("classes", set.Name, o.classCells(set.Name, set.Classes))
		}
	}
	for _, name := range o.d.AttributeColumns {
		cells := o.attributeCells(name)
		words, numbers := o.suspectMissing(name, cells)
		o.suspectNumbers(name, cells, words, numbers)
		if numbers < len(cells) {
			o.suspectSpellings("values", name, cells)
		}
		o.suspectLeak(name, cells, numbers)
	}
}

// usualSplits are the splits that commands use unless told otherwise.
var usualSplits = []string{"train", "val", "test"}

// suspectSplits warns of a split whose name is a slip of a usual one: no command would
// take its cases, or they would be missed where the others are.
func (o *opener) suspectSplits() {
	counts := o.d.Splits()
	for _, split := range slices.Sorted(maps.Keys(counts)) {
		meant := nearest.Typo(split, usualSplits)
		numbered := strings.TrimRight(split, "0123456789") != split // train1, train2: folds
		if meant == "" || numbered {
			continue
		}
		i := slices.IndexFunc(o.d.Cases, func(c Case) bool { return c.Split == split })
		o.warn("split %q: its %d cases (first in %s) are not in %q: nothing trains or tests on them unless it is named; did you mean %q?",
			split, counts[split], o.d.Cases[i].Origin, meant, meant)
	}
}

// attributeCells are the filled cells of a column, in the order of the cases.
func (o *opener) attributeCells(name string) []cellView {
	var cells []cellView
	for i := range o.d.Cases {
		if text := o.d.Cases[i].Attributes[name].Raw; text != "" {
			cells = append(cells, cellView{text, i})
		}
	}
	return cells
}

// classCells are the classes of the cases, or of their boxes, that are known.
func (o *opener) classCells(set string, classes []string) []cellView {
	var cells []cellView
	for i := range o.d.Cases {
		c := &o.d.Cases[i]
		if k, ok := c.Labels[set]; ok && k >= 0 {
			cells = append(cells, cellView{classes[k], i})
		}
		for _, b := range c.Boxes {
			cells = append(cells, cellView{classes[b.Class], i})
		}
	}
	return cells
}

// at is where a cell's case was read.
func (o *opener) at(c cellView) string { return o.d.Cases[c.caseIndex].Origin }

// counted lists texts with their number of cells, the most frequent first.
func counted(counts map[string]int) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	out := make([]string, 0, len(names))
	for _, name := range names[:min(6, len(names))] {
		out = append(out, fmt.Sprintf("%q %d times", problem.Clip(name, 40), counts[name]))
	}
	if len(names) > len(out) {
		out = append(out, fmt.Sprintf("%d more", len(names)-len(out)))
	}
	return strings.Join(out, ", ")
}

func isNumber(text string) bool {
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}

// suspectMissing warns of words that usually mean that nothing is known. It returns how
// many cells hold such words and how many hold numbers.
func (o *opener) suspectMissing(name string, cells []cellView) (words, numbers int) {
	counts := map[string]int{}
	first := -1
	for k, c := range cells {
		switch {
		case isNumber(c.text):
			numbers++
		case slices.Contains(missingWords, strings.ToLower(c.text)):
			counts[c.text]++
			words++
			if first < 0 {
				first = k
			}
		}
	}
	if words == 0 {
		return words, numbers
	}
	spoilt := ""
	if numbers > 0 && numbers+words == len(cells) {
		spoilt = fmt.Sprintf(", and make categories of its %d numbers", numbers)
	}
	o.warn("column %q: %s (first in %s) are taken as values%s; where they mean that nothing is known, add missing=%s to the data spec or leave the cells empty",
		name, counted(counts), o.at(cells[first]), spoilt, strings.Join(slices.Sorted(maps.Keys(counts)), ","))
	return words, numbers
}

// suspectNumbers warns of a few words among numbers: they make categories of all of them.
func (o *opener) suspectNumbers(name string, cells []cellView, words, numbers int) {
	others := len(cells) - words - numbers
	if others == 0 || numbers < 2*fewCellsOfValue || others*10 > numbers {
		return
	}
	k := slices.IndexFunc(cells, func(c cellView) bool {
		return !isNumber(c.text) && !slices.Contains(missingWords, strings.ToLower(c.text))
	})
	o.warn("column %q: %d cells are numbers and %d are not, the first is %q (%s): so all of them are categories; correct the cells, or leave them empty",
		name, numbers, others, problem.Clip(cells[k].text, 40), o.at(cells[k]))
}

// spellingKey is equal for texts that most likely mean the same.
func spellingKey(text string) string {
	if v, err := strconv.ParseFloat(text, 64); err == nil {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strings.Join(strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r == ' ' || r == '_' || r == '-' || r == '\u00a0' }), " ")
}

// suspectSpellings warns of texts that differ in case, blanks or the writing of a number.
func (o *opener) suspectSpellings(what, name string, cells []cellView) {
	groups := map[string]map[string]int{}
	for _, c := range cells {
		key := spellingKey(c.text)
		if groups[key] == nil {
			groups[key] = map[string]int{}
		}
		groups[key][c.text]++
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		if spellings := groups[key]; len(spellings) > 1 {
			k := slices.IndexFunc(cells, func(c cellView) bool { return spellingKey(c.text) == key })
			o.warn("%s of %s that differ only in spelling are taken as different: %s (first in %s); write them alike", what, name, counted(spellings), o.at(cells[k]))
		}
	}
}

// suspectLeak warns of a column that gives away the label or the case.
func (o *opener) suspectLeak(name string, cells []cellView, numbers int) {
	if len(cells) < fewCells {
		return
	}
	values := map[string]int{}
	whole := true
	for _, c := range cells {
		values[c.text]++
		n, err := strconv.Atoi(c.text)
		whole = whole && err == nil && n >= 1000
	}
	if len(values) == len(cells) {
		if numbers == 0 || whole {
			o.leak("column %q is different in each of its %d cells (first in %s): a name of the case is no attribute; leave it out with attributes=…", name, len(cells), o.at(cells[0]))
		}
		return
	}
	for _, set := range o.d.Labels {
		if classes := o.classesTold(set.Name, cells, values); classes > 1 {
			o.leak("column %q tells %s: each of its %d values goes with one class, in %d cases (first in %s); is it known before the label is? else leave it out with attributes=…",
				name, set.Name, len(values), len(cells), o.at(cells[0]))
		}
	}
}

// classesTold is the number of classes that a column tells without an error, 0 when a
// value of it goes with two classes or is too rare to show anything.
func (o *opener) classesTold(set string, cells []cellView, values map[string]int) int {
	class := map[string]int{}
	told := map[int]bool{}
	for _, c := range cells {
		k, known := o.d.Cases[c.caseIndex].Labels[set]
		if !known || k < 0 {
			continue
		}
		if first, ok := class[c.text]; ok && first != k {
			return 0
		}
		class[c.text], told[k] = k, true
	}
	for text := range class {
		if values[text] < fewCellsOfValue {
			return 0
		}
	}
	return len(told)
}
