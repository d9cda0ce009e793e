package dataset

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/alignedfusion/alignedfusion/internal/box"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Tables can be well formed and yet not say what was meant. What follows looks at the
// columns once they are read and warns, with the number of cells, the first of them and
// the mend.

// missingWords are what people write where nothing is known.
var missingWords = []string{"na", "n/a", "#n/a", "<na>", "n.a.", "nan", "nat", "null", "nil", "none", "unk", "unknown", "unspecified", "undefined", "not known",
	"not available", "not applicable", "not recorded", "not reported", "not specified", "not stated", "no data", "missing", "(missing)", "tbd",
	"nd", "n.d.", "n/d", "k.a.", "k. a.", "unbekannt", "inconnu", "desconocido", "?", "??", "-", "--", "–", ".", "*"}

// Below these numbers of cells a pattern may well be chance.
const (
	fewCells        = 12
	fewCellsOfValue = 3
	fewOfClass      = 5
	enoughCells     = 30
)

// mostCounts bounds the pairs of values and classes that are counted.
const mostCounts = 1 << 22

// nearlyAll is the share of cells from which on a rule is taken to hold but for slips.
const nearlyAll = 0.97

// cellView is one filled cell of a column: which of its texts, and whose.
type cellView struct{ text, caseIndex int32 }

// oneText is a text of a column, the number of cells that hold it, and the case of the first.
type oneText struct {
	text      string
	count     int
	caseIndex int
}

// column is a column's filled cells and their texts.
type column struct {
	name  string
	cells []cellView
	// texts has every text once, in the order of their first cells.
	texts []oneText
	// words are the cells that spell out that nothing is known, numbers those that hold one.
	words, numbers int
}

// newColumn has the cells of the cases whose texts are given by number, -1 where a case has
// none.
func newColumn(name string, texts []string, cells []cellView) *column {
	c := &column{name: name, cells: cells}
	number := make([]int32, len(texts)) // 1 + among c.texts
	known := map[string]int32{}         // texts may repeat
	for k := range cells {
		cell := &cells[k]
		if number[cell.text] == 0 {
			text := texts[cell.text]
			at, ok := known[text]
			if !ok {
				at = int32(len(c.texts))
				known[text] = at
				c.texts = append(c.texts, oneText{text: text, caseIndex: int(cell.caseIndex)})
			}
			number[cell.text] = at + 1
		}
		cell.text = number[cell.text] - 1
		c.texts[cell.text].count++
	}
	for _, t := range c.texts {
		switch {
		case isNumber(t.text):
			c.numbers += t.count
		case isMissingWord(t.text):
			c.words += t.count
		}
	}
	return c
}

func isMissingWord(text string) bool { return slices.Contains(missingWords, strings.ToLower(text)) }

// suspect warns of columns that are seldom meant as they stand.
func (o *opener) suspect() {
	o.suspectSplits()
	o.suspectFiles()
	o.suspectGeometry()
	for _, set := range o.d.Labels {
		if len(o.opt.LabelSets) == 0 {
			c := o.classColumn(set)
			o.suspectMissing(c, "classes of", "classes")
			o.suspectSpellings("classes", c)
			o.suspectClasses(c)
		}
	}
	units := o.units()
	targets := o.targets(units)
	for _, name := range o.d.AttributeColumns {
		c := o.attributeColumn(name, units)
		o.suspectMissing(c, "column", "values")
		o.suspectNumbers(c)
		o.suspectCodes(c)
		if c.numbers < len(c.cells) {
			o.suspectSpellings("values", c)
		}
		if o.opt.Schema == nil && len(c.texts) < 2 && len(units) >= fewCells {
			o.warn("column %q has %s in its %d cases: it tells nothing", name, map[int]string{0: "no value", 1: "one value"}[len(c.texts)], len(units))
		}
		o.suspectLeak(c, targets, units)
	}
}

// units are the cases that have attributes of their own: of the slices of a volume, the first.
func (o *opener) units() []int {
	units := make([]int, 0, len(o.d.Cases))
	seen := map[string]bool{}
	for i := range o.d.Cases {
		stack := o.d.Cases[i].Stack
		if s := o.d.stacks[stack]; s != nil && s.nifti != "" {
			if seen[stack] {
				continue
			}
			seen[stack] = true
		}
		units = append(units, i)
	}
	return units
}

// target is what an attribute could give away: the class of a case, -1 where unknown.
type target struct {
	name string
	// classOf has a class for every case.
	classOf []int
}

func (o *opener) newTarget(name string) target {
	return target{name, slices.Repeat([]int{-1}, len(o.d.Cases))}
}

// targets are the labels of the cases, or whether there is a lesion.
func (o *opener) targets(units []int) []target {
	var out []target
	if o.d.Task == Detect {
		lesion := o.newTarget("whether there is a lesion")
		of := map[string]int{}
		for _, i := range units {
			of[o.d.Cases[i].ID], of["#"+o.d.Cases[i].Stack] = i, i
		}
		for i := range o.d.Cases {
			c := &o.d.Cases[i]
			unit, own := of[c.ID]
			if !own {
				unit = of["#"+c.Stack]
			}
			if c.HasTargets {
				lesion.classOf[unit] = max(lesion.classOf[unit], min(1, len(c.Boxes)))
			}
		}
		return append(out, lesion)
	}
	for _, set := range o.d.Labels {
		one := o.newTarget(set.Name)
		for _, i := range units {
			if k, known := o.d.Cases[i].Labels[set.Name]; known && k >= 0 {
				one.classOf[i] = k
			}
		}
		out = append(out, one)
	}
	return out
}

// usualSplits are the splits that commands use unless told otherwise, and what else they
// are called.
var (
	usualSplits = []string{"train", "val", "test"}
	otherwise   = map[string]string{"training": "train", "learning": "train", "development": "val", "dev": "val", "valid": "val", "validation": "val",
		"tuning": "val", "testing": "test", "holdout": "test", "hold-out": "test", "hold_out": "test", "evaluation": "test"}
)

// suspectSplits warns of a split whose name is a slip of a usual one, or another word for
// it: no command would take its cases, or they would be missed where the others are.
func (o *opener) suspectSplits() {
	counts := o.d.Splits()
	first := func(split string) string {
		return o.d.Cases[slices.IndexFunc(o.d.Cases, func(c Case) bool { return c.Split == split })].Origin()
	}
	for _, split := range slices.Sorted(maps.Keys(counts)) {
		meant := nearest.Typo(split, usualSplits)
		if other, ok := otherwise[strings.ToLower(split)]; ok && counts[other] == 0 {
			meant = other
		}
		numbered := strings.TrimRight(split, "0123456789") != split // train1, train2: folds
		if meant == "" || numbered || slices.Contains(usualSplits, split) {
			continue
		}
		o.warn("split %q: its %d cases (first in %s) are not in %q: nothing trains or tests on them unless it is named; did you mean %q?",
			split, counts[split], first(split), meant, meant)
	}
	if n := counts[""]; n > 0 && len(counts) > 1 {
		o.warn("%d of %d cases (first in %s) have no split: nothing trains or tests on them", n, len(o.d.Cases), first(""))
	}
}

// suspectFiles warns of files that cases of two splits show.
func (o *opener) suspectFiles() {
	var known table.Index
	var first []int32 // case of each file
	shared, a, b := map[string]bool{}, 0, 0
	for i := range o.d.Cases {
		for _, m := range o.d.Modalities {
			path := o.d.Cases[i].Images[m]
			if path == "" {
				continue
			}
			n, isNew := known.Add(path)
			if isNew {
				first = append(first, int32(i))
			} else if k := int(first[n]); o.d.Cases[k].Split != o.d.Cases[i].Split && !shared[path] {
				if shared[path] = true; len(shared) == 1 {
					a, b = k, i
				}
			}
		}
	}
	if len(shared) > 0 {
		o.leak("%d images are shown in more than one split, for example by %s in %q (%s) and %s in %q (%s): results on such splits are too good",
			len(shared), o.d.Cases[a].ID, o.d.Cases[a].Split, o.d.Cases[a].at, o.d.Cases[b].ID, o.d.Cases[b].Split, o.d.Cases[b].at)
	}
}

// attributeColumn has the filled cells of a column, in the order of the cases.
func (o *opener) attributeColumn(name string, units []int) *column {
	from := o.attributes().need(name)
	texts := make([]string, len(from.cells))
	for k, cell := range from.cells {
		texts[k] = cell.Raw
	}
	cells := make([]cellView, 0, len(units))
	for _, i := range units {
		if k := from.code(o.d.Cases[i].Attributes.row); texts[k] != "" {
			cells = append(cells, cellView{int32(k), int32(i)})
		}
	}
	return newColumn(name, texts, cells)
}

// classColumn has the classes of the cases, or of their boxes, that are known.
func (o *opener) classColumn(set sdk.LabelSet) *column {
	cells := make([]cellView, 0, len(o.d.Cases))
	for i := range o.d.Cases {
		c := &o.d.Cases[i]
		if k, ok := c.Labels[set.Name]; ok && k >= 0 {
			cells = append(cells, cellView{int32(k), int32(i)})
		}
		for _, b := range c.Boxes {
			cells = append(cells, cellView{int32(b.Class), int32(i)})
		}
	}
	return newColumn(set.Name, set.Classes, cells)
}

// at is where the first cell of a text was read.
func (o *opener) at(t oneText) place { return o.d.Cases[t.caseIndex].at }

// first is the text of the column's first cell.
func (c *column) first() oneText { return c.texts[0] }

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

// some counts the texts that a rule finds; first is the first of their cells.
func (c *column) some(find func(text string) bool) (counts map[string]int, first oneText) {
	counts = map[string]int{}
	for _, t := range c.texts {
		if find(t.text) {
			if len(counts) == 0 {
				first = t
			}
			counts[t.text] = t.count
		}
	}
	return counts, first
}

// suspectMissing warns of words that usually mean that nothing is known.
func (o *opener) suspectMissing(c *column, what, as string) {
	if c.words == 0 {
		return
	}
	counts, first := c.some(isMissingWord)
	spoilt := ""
	if c.numbers > 0 && c.numbers+c.words == len(c.cells) {
		spoilt = fmt.Sprintf(", and make categories of its %d numbers", c.numbers)
	}
	o.warn("%s %q: %s (first in %s) are taken as %s%s; where they mean that nothing is known, add missing=%s to the data spec or leave the cells empty",
		what, c.name, counted(counts), o.at(first), as, spoilt, strings.Join(slices.Sorted(maps.Keys(counts)), ","))
}

// fewNumbers may well be names of categories.
const fewNumbers = 4

// distinct is the number of different numbers of the column.
func (c *column) distinct() int {
	counts, _ := c.some(isNumber)
	return len(counts)
}

// quantity is a number with a decimal comma or a unit, or a date.
var quantity = regexp.MustCompile(`^[-+<>~]?\s*\d+([.,]\d+)*\s*([a-zA-Zµ%°²³/]{1,8}\.?)?$|^\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ].*)?$`)

// suspectNumbers warns of a few words among numbers, which make categories of all of them,
// and of numbers that are not written as such.
func (o *opener) suspectNumbers(c *column) {
	others := len(c.cells) - c.words - c.numbers
	if others == 0 {
		return
	}
	counts, first := c.some(func(text string) bool { return !isNumber(text) && !isMissingWord(text) })
	odd := 0
	for text, n := range counts {
		if quantity.MatchString(text) {
			odd += n
		}
	}
	switch text := problem.Clip(first.text, 40); {
	case c.numbers >= 2*fewCellsOfValue && (others*10 <= c.numbers || len(counts) == 1 && others*2 <= c.numbers && c.distinct() > fewNumbers):
		o.warn("column %q: %d cells are numbers and %d are not, the first is %q (%s): so all of them are categories; correct the cells, leave them empty, or say in the data spec what means that nothing is known (missing=…)",
			c.name, c.numbers, others, text, o.at(first))
	case odd >= fewCells && float64(odd+c.numbers) >= nearlyAll*float64(len(c.cells)-c.words):
		o.warn("column %q: %d cells are numbers with a decimal comma, a unit or a sign, or dates, the first is %q (%s): they are taken as categories; write plain numbers such as 3.5",
			c.name, odd, text, o.at(first))
	}
}

// codes stand for missing in many a study's tables of numbers.
var codes = []float64{-9999, -999, -99, -88, -9, -1, 99, 888, 999, 8888, 9999, 99999}

// suspectCodes warns of numbers that lie far from all others and are such codes.
func (o *opener) suspectCodes(c *column) {
	if c.numbers < fewCells || c.numbers+c.words < len(c.cells) {
		return
	}
	low, high := math.Inf(1), math.Inf(-1)
	var found []string
	often := map[string]bool{}
	for _, t := range c.texts {
		v, err := strconv.ParseFloat(t.text, 64)
		if is := t.count >= 2 && slices.Contains(codes, v); is {
			often[t.text] = true
		} else if err == nil {
			low, high = min(low, v), max(high, v)
		}
	}
	least, zeros := math.Inf(1), 0 // least: above zero
	for _, t := range c.texts {
		if v, err := strconv.ParseFloat(t.text, 64); err == nil && v > 0 {
			least = min(least, v)
		} else if err == nil && v == 0 {
			zeros += t.count
		}
	}
	counts, first := c.some(func(text string) bool {
		v, err := strconv.ParseFloat(text, 64)
		if err == nil && v == 0 && zeros > 1 && low == 0 && least > high-least { // the others lie together, far from it
			return true
		}
		return often[text] && low < high && (v < 0 && low >= 0 && low-v > (high-low)/2 || v > 3*high && high > 0)
	})
	if len(counts) == 0 {
		return
	}
	found = slices.Sorted(maps.Keys(counts))
	if slices.ContainsFunc(found, func(text string) bool { v, _ := strconv.ParseFloat(text, 64); return v == 0 }) {
		low = least
	}
	o.warn("column %q: %s (first in %s) lie far from its other numbers, %s to %s; where they mean that nothing is known, add missing=%s to the data spec or leave the cells empty",
		c.name, counted(counts), o.at(first), formatNumber(low), formatNumber(high), strings.Join(found, ","))
}

// spellingKey is equal for texts that most likely mean the same.
func spellingKey(text string) string {
	if plainSpelling(text) {
		return text
	}
	if v, err := strconv.ParseFloat(text, 64); err == nil {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strings.Join(strings.FieldsFunc(strings.TrimRight(strings.ToLower(norm.NFKC.String(text)), ".,;:"), func(r rune) bool { return r == ' ' || r == '_' || r == '-' }), " ")
}

// plainSpelling reports whether a text is its own spelling key: small letters and digits
// after a letter.
func plainSpelling(text string) bool {
	for i := range len(text) {
		c := text[i]
		if letter := c >= 'a' && c <= 'z'; !letter && (i == 0 || !isDigit(c)) {
			return false
		}
	}
	return text != "" && text != "inf" && text != "infinity" && text != "nan"
}

// truths are the words of a yes or a no.
var truths = map[string]string{"yes": "yes", "y": "yes", "true": "yes", "t": "yes", "1": "yes", "no": "no", "n": "no", "false": "no", "f": "no", "0": "no"}

// suspectSpellings warns of texts that differ in case, blanks, the composition of letters or
// the writing of a number or of a yes.
func (o *opener) suspectSpellings(what string, c *column) {
	key := spellingKey
	if whole := !slices.ContainsFunc(c.texts, func(t oneText) bool { return truths[spellingKey(t.text)] == "" }); whole && len(c.texts) > 2 {
		key = func(text string) string { return truths[spellingKey(text)] }
	}
	groups := map[string]map[string]int{}
	first := map[string]oneText{}
	for _, t := range c.texts {
		k := key(t.text)
		if groups[k] == nil {
			groups[k], first[k] = map[string]int{}, t
		}
		groups[k][t.text] = t.count
	}
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		if spellings := groups[k]; len(spellings) > 1 {
			o.warn("%s of %s that differ only in spelling are taken as different: %s (first in %s); write them alike", what, c.name, counted(spellings), o.at(first[k]))
		}
	}
}

// suspectClasses warns of classes that nothing can be learned from.
func (o *opener) suspectClasses(c *column) {
	switch n := len(c.cells); {
	case n < fewCells || o.d.Task != Classify:
	case len(c.texts) == 1:
		o.warn("all %d cases with a %s have the class %q: there is nothing to tell apart", n, c.name, problem.Clip(c.texts[0].text, 40))
	case len(c.texts) == n:
		o.warn("%s is different in each of its %d cases (first in %s): a name of the case is no class", c.name, n, o.at(c.first()))
	}
}

// suspectLeak warns of a column that gives away the label, the patient or the case.
func (o *opener) suspectLeak(c *column, targets []target, units []int) {
	n := len(c.cells)
	if n < fewCells {
		return
	}
	whole := !slices.ContainsFunc(c.texts, func(t oneText) bool {
		v, err := strconv.Atoi(t.text)
		return err != nil || v < 1000
	})
	named := c.numbers == 0 || whole
	switch {
	case len(c.texts) == n && named:
		o.leak("column %q is different in each of its %d cells (first in %s): a name of the case is no attribute; leave it out with attributes=…", c.name, n, o.at(c.first()))
		return
	case named && o.namesPatients(c):
		o.leak("column %q names the patient: each of its %d values (first in %s) goes with one patient, and each patient with one of them; leave it out with attributes=…", c.name, len(c.texts), o.at(c.first()))
		return
	}
	for _, t := range targets {
		if classes := c.tells(t); classes > 1 {
			o.leak("column %q tells %s: each of its %d values goes with one class, in %d cases (first in %s); is it known before the label is? else leave it out with attributes=…",
				c.name, t.name, len(c.texts), n, o.at(c.first()))
		} else if right := c.nearlyTells(t); right > 0 {
			o.leak("column %q nearly tells %s: its values go with one class each in %d of %d cases (first in %s); is it known before the label is? else leave it out with attributes=…",
				c.name, t.name, right, n, o.at(c.first()))
		} else if c.separates(t) {
			o.leak("column %q tells %s: its numbers of one class all lie apart from those of the others, in %d cases (first in %s); is it known before the label is? else leave it out with attributes=…",
				c.name, t.name, n, o.at(c.first()))
		} else if right := c.filledTells(t, units); right > 0 {
			o.leak("column %q tells %s: where it is filled and where it is empty goes with the class in %d of %d cases (first filled in %s); is it known before the label is? else leave it out with attributes=…",
				c.name, t.name, right, len(units), o.at(c.first()))
		}
	}
}

// filledTells is the number of cases that tell their class by whether the column is filled, where
// that is nearly all; 0 else.
func (c *column) filledTells(t target, units []int) (right int) {
	counts := make([][2]int, 1+slices.Max(t.classOf)) // of each class, empty and filled
	for _, i := range units {
		if k := t.classOf[i]; k >= 0 {
			counts[k][0]++
		}
	}
	for _, cell := range c.cells {
		if k := t.classOf[cell.caseIndex]; k >= 0 {
			counts[k][0]--
			counts[k][1]++
		}
	}
	n, told := 0, [2]int{}
	for _, of := range counts {
		n += of[0] + of[1]
		if of[1] > of[0] {
			told[1] += of[1]
		} else {
			told[0] += of[0]
		}
	}
	if right = told[0] + told[1]; n < enoughCells || min(told[0], told[1]) < fewCells || float64(right) < nearlyAll*float64(n) {
		return 0
	}
	return right
}

// namesPatients reports whether values and patients, several cases of which there are, go
// with each other.
func (o *opener) namesPatients(c *column) bool {
	patients := o.d.patientNumbers()
	value, patient := map[int32]int32{}, map[int32]int32{}
	for _, cell := range c.cells {
		p := patients[cell.caseIndex]
		if v, ok := value[p]; p < 0 || ok && v != cell.text {
			return false
		}
		if q, ok := patient[cell.text]; ok && q != p {
			return false
		}
		value[p], patient[cell.text] = cell.text, p
	}
	return len(value) >= fewCells
}

// tells is the number of classes that a column tells without an error, 0 when a value of it
// goes with two classes or is too rare to show anything.
func (c *column) tells(t target) int {
	class := slices.Repeat([]int{-1}, len(c.texts))
	told := map[int]bool{}
	for _, cell := range c.cells {
		k := t.classOf[cell.caseIndex]
		if k < 0 {
			continue
		}
		if first := class[cell.text]; first >= 0 && first != k {
			return 0
		}
		class[cell.text], told[k] = k, true
	}
	for k, text := range c.texts {
		if class[k] >= 0 && text.count < fewCellsOfValue {
			return 0
		}
	}
	return len(told)
}

// nearlyTells is the number of cases whose class is the most frequent one of their value,
// where that is nearly all and no class is; 0 else.
func (c *column) nearlyTells(t target) (right int) {
	values, n := make([]bool, len(c.texts)), 0
	byClass := make([]int, 1+slices.Max(t.classOf))
	for _, cell := range c.cells {
		if k := t.classOf[cell.caseIndex]; k >= 0 {
			values[cell.text] = true
			byClass[k]++
			n++
		}
	}
	values = slices.DeleteFunc(values, func(has bool) bool { return !has })
	if n < enoughCells || len(values)*fewOfClass > n || slices.Max(byClass) > n-fewCells {
		return 0
	}
	if len(c.texts)*len(byClass) > mostCounts {
		return 0
	}
	counts := make([]int32, len(c.texts)*len(byClass)) // [values, classes]
	for _, cell := range c.cells {
		if k := t.classOf[cell.caseIndex]; k >= 0 {
			counts[int(cell.text)*len(byClass)+k]++
		}
	}
	for ofValue := range slices.Chunk(counts, len(byClass)) {
		right += int(slices.Max(ofValue))
	}
	if float64(right) < nearlyAll*float64(n) {
		return 0
	}
	return right
}

// separates reports whether the numbers of every class lie together.
func (c *column) separates(t target) bool {
	class := slices.Repeat([]int{-1}, len(c.texts))
	byClass := map[int]int{}
	n := 0
	for _, cell := range c.cells {
		k := t.classOf[cell.caseIndex]
		if k < 0 {
			continue
		}
		if first := class[cell.text]; first >= 0 && first != k {
			return false
		}
		class[cell.text] = k
		byClass[k]++
		n++
	}
	if n < enoughCells || len(byClass) < 2 || slices.Min(slices.Collect(maps.Values(byClass))) < fewOfClass {
		return false
	}
	type number struct {
		v     float64
		class int
	}
	var list []number
	for k, text := range c.texts {
		if class[k] < 0 {
			continue
		}
		v, err := strconv.ParseFloat(text.text, 64)
		if err != nil {
			return false
		}
		list = append(list, number{v, class[k]})
	}
	slices.SortFunc(list, func(a, b number) int { return cmp.Compare(a.v, b.v) })
	runs := 1
	for k := 1; k < len(list); k++ {
		if list[k].class == list[k-1].class {
			continue
		}
		if list[k].v == list[k-1].v {
			return false
		}
		runs++
	}
	return runs == len(byClass)
}

// What pixels and slices measure; beyond these limits in mm a unit is likely another one.
var usualPixelMM, usualSliceMM = [2]float64{0.01, 10}, [2]float64{0.05, 30}

// suspectGeometry warns of distances in another unit, of boxes that are thinner than a
// pixel and of boxes that are whole images.
func (o *opener) suspectGeometry() {
	odd, thin, whole, boxes := -1, -1, 0, 0
	nOdd, nThin := 0, 0
	var x, y box.Axis
	beyond := func(mm float64, usual [2]float64) bool { return mm > 0 && (mm < usual[0] || mm > usual[1]) }
	for i := range o.d.Cases {
		c := &o.d.Cases[i]
		if mm := c.SpacingMM; beyond(mm[0], usualSliceMM) || beyond(mm[1], usualPixelMM) || beyond(mm[2], usualPixelMM) {
			if nOdd++; odd < 0 {
				odd = i
			}
		}
		for _, b := range c.Boxes {
			boxes++
			if o.boxColumns.Names != nil {
				x.Add(b.X1, b.X2, float64(c.Size[1]))
				y.Add(b.Y1, b.Y2, float64(c.Size[0]))
			}
			if b.X2-b.X1 < 1 || b.Y2-b.Y1 < 1 {
				if nThin++; thin < 0 {
					thin = i
				}
			}
			if c.Size[0] > 1 && b.Area() >= 0.95*float64(c.Size[0]-1)*float64(c.Size[1]-1) {
				whole++
			}
		}
	}
	if odd >= 0 {
		mm := o.d.Cases[odd].SpacingMM
		o.warn("%d cases (first in %s) have distances of %s mm between slices, rows and columns, which no scanner makes: are they in mm?",
			nOdd, o.d.Cases[odd].at, strings.Join([]string{formatNumber(mm[0]), formatNumber(mm[1]), formatNumber(mm[2])}, ", "))
	}
	if thin >= 0 {
		o.warn("%d of %d boxes are less than a pixel wide or high (first in %s, %s): are they shares of the image's sides?", nThin, boxes, o.d.Cases[thin].ID, o.d.Cases[thin].at)
	}
	if o.boxColumns.HaveSides() && box.LikelyCorners(&x, &y) {
		o.warn("the sides of the %d boxes all reach beyond their corners and grow with them: are %s second corners? then name the columns x1,y1,x2,y2", boxes, strings.Join(o.boxColumns.Names[2:], " and "))
	}
	if o.boxColumns.AreCorners() && box.LikelySides(&x, &y) {
		o.warn("the second corners of the %d boxes do not move with the first ones and all fit the image as sides: are x2 and y2 width and height? then name the columns x,y,w,h", boxes)
	}
	if whole*2 > boxes {
		o.warn("%d of %d boxes are as large as their image: a detector learns no place from them", whole, boxes)
	}
}
