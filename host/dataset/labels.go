package dataset

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"gonum.org/v1/gonum/stat"

	"github.com/alignedfusion/alignedfusion/internal/interval"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Measured is what is known of a case whose label set asks for a number, or for the time to an
// event.
type Measured struct {
	// Value is the number; or the time, 0 or more, of the event or to which the case was
	// followed without it.
	Value float64
	// Event is true where the event happened.
	Event bool
}

// labelColumn holds the label texts of all cases for one task; "" is unknown.
type labelColumn struct {
	task, column string
	cells        *table.Column
	texts        []string
	// event is the column that says whether the event happened at the times in column; "" where
	// no time is asked.
	event      string
	eventCells *table.Column
	events     []string
}

// The columns of a question after the time to an event; of several label sets with a full stop
// and the set's name behind them.
const (
	timeColumn  = "time"
	eventColumn = "event"
)

// ofTime reports whether a column is one of the times to an event, where such are asked for.
func (o *opener) ofTime(column string) bool {
	if !strings.Contains(o.opt.Asked, sdk.AsksTime) {
		return false
	}
	kind, _, _ := strings.Cut(column, ".")
	return kind == timeColumn || kind == eventColumn
}

// chooseLabels finds the label sets that are asked for among a table's columns.
func (o *opener) chooseLabels(t *table.Table, labelColumns, attributes []string) ([]labelColumn, error) {
	byDefault := labelColumns
	if slices.Contains(labelColumns, "label") {
		byDefault = []string{"label"}
	}
	if len(o.asked.Names) > 0 {
		byDefault = o.asked.Names
	} else if o.asked.Of("") == sdk.AsksTime {
		byDefault = nil
		for _, c := range t.Columns {
			if c == timeColumn {
				byDefault = []string{timeColumn}
				break
			}
			if task, ok := strings.CutPrefix(c, timeColumn+"."); ok {
				byDefault = append(byDefault, task)
			}
		}
		if byDefault == nil && o.opt.LabelSets == nil {
			byDefault = []string{timeColumn} // to be missed below
		}
	}
	if o.opt.LabelSets != nil { // a run's questions need not be answered where it predicts
		byDefault = slices.DeleteFunc(slices.Clone(byDefault), func(name string) bool {
			return !slices.ContainsFunc([]string{name, "label." + name, timeColumn + "." + name}, t.Has) &&
				!(o.asked.Of(name) == sdk.AsksTime && t.Has(timeColumn))
		})
	}
	selectable := append(slices.Clone(labelColumns), attributes...)
	wanted := o.opt.Labels
	if wanted == nil {
		wanted = byDefault
	}
	var out []labelColumn
	for _, name := range wanted {
		task := strings.TrimPrefix(name, "label.")
		if o.asked.Of(task) == sdk.AsksTime {
			one := labelColumn{task: task, column: timeColumn, event: eventColumn}
			if t.Has(timeColumn + "." + task) {
				one.column, one.event = timeColumn+"."+task, eventColumn+"."+task
			}
			if err := t.Need(one.column, one.event); err != nil {
				return nil, fmt.Errorf("%w; head.question=survival asks for the time to an event (%s) and whether it happened (%s)", err, one.column, one.event)
			}
			one.cells, one.eventCells = t.Column(one.column), t.Column(one.event)
			out = append(out, one)
			continue
		}
		if t.Has("label." + name) {
			name = "label." + name
		}
		chosen, err := chooseColumns("label", []string{name}, selectable, nil, nil)
		if err != nil {
			return nil, err
		}
		for _, column := range chosen {
			if task = strings.TrimPrefix(column, "label."); !slices.ContainsFunc(out, func(l labelColumn) bool { return l.task == task }) {
				out = append(out, labelColumn{task: task, column: column, cells: t.Column(column)})
			}
		}
	}
	return out, nil
}

// unitEnding is the unit that a column's name ends with: size_mm, dose [mGy].
var unitEnding = regexp.MustCompile(`(?i)(?:\[([^\[\]]+)\]|\(([^()]+)\)|[_ ](mm|cm|mm2|cm2|mm3|cm3|ml|l|hu|g|kg|mg|mgy|ms|s|min|hours?|days?|weeks?|months?|years?|percent|pct))$`)

func unitOf(column string) string {
	m := unitEnding.FindStringSubmatch(column)
	if m == nil {
		return ""
	}
	return m[1] + m[2] + m[3]
}

// labelSets turns label texts into class indices, numbers and times. Cases of equal labels
// share them.
func (o *opener) labelSets(columns []labelColumn, fixed map[string][]string) {
	var classed []labelColumn
	var sets []sdk.LabelSet
	for _, column := range columns {
		set := o.labelSet(column, fixed[column.task], len(columns))
		o.d.Labels = append(o.d.Labels, set)
		if set.Classed() {
			classed, sets = append(classed, column), append(sets, set)
			continue
		}
		for i := range o.d.Cases {
			o.measure(&o.d.Cases[i], column, set, i)
		}
	}
	o.classLabels(classed, sets)
}

// labelSet is what a column asks: as a trained run knows it, or with the classes that are
// there. there is the number of label columns.
func (o *opener) labelSet(column labelColumn, classes []string, there int) sdk.LabelSet {
	for _, given := range o.opt.LabelSets {
		if given.Name == column.task || len(o.opt.LabelSets) == 1 && there == 1 {
			return given
		}
	}
	set := sdk.LabelSet{Name: column.task, Classes: classes}
	if question := o.asked.Of(column.task); question != sdk.AsksClasses {
		set.Question = question
	}
	switch {
	case !set.Classed():
		set.Unit = unitOf(column.task)
	case len(classes) > 0:
	case len(o.classes) > 0 && (there == 1 || set.Question == sdk.AsksGrade):
		set.Classes = o.classes
	case set.Question == sdk.AsksFinding:
		set.Classes = []string{"0", "1"}
	default:
		seen := map[string]bool{}
		for _, text := range column.texts {
			seen[text] = true
		}
		delete(seen, "")
		set.Classes = slices.SortedFunc(maps.Keys(seen), compareClasses)
	}
	return set
}

// classLabels gives every case its classes.
func (o *opener) classLabels(columns []labelColumn, sets []sdk.LabelSet) {
	classes := make([]map[string]int, len(columns))
	for k := range columns {
		classes[k] = map[string]int{"": -1}
		for index, class := range sets[k].Classes {
			classes[k][class] = index
		}
	}
	shared := map[string]map[string]int{}
	for i := range o.d.Cases {
		c := &o.d.Cases[i]
		key := make([]byte, 0, 16)
		for k, column := range columns {
			class, known := classes[k][column.texts[i]]
			if !known {
				text := problem.Clip(column.texts[i], 60)
				wrong := fmt.Sprintf("class %q is unknown; there are %s", text, problem.Quote(sets[k].Classes))
				if sets[k].Question == sdk.AsksFinding {
					wrong = fmt.Sprintf("%q, want 1 (the finding is there), 0 (it is not) or nothing (unknown): head.question=multilabel; for one of several classes leave that setting out", text)
				}
				o.problems.Add(c.at.file, c.at.line, column.column, "%s", wrong)
				class = -1
			}
			key = binary.AppendVarint(key, int64(class))
		}
		if c.Labels = shared[string(key)]; c.Labels != nil {
			continue
		}
		c.Labels = make(map[string]int, len(columns))
		for k, column := range columns {
			c.Labels[sets[k].Name] = -1
			if class, known := classes[k][column.texts[i]]; known {
				c.Labels[sets[k].Name] = class
			}
		}
		shared[string(key)] = c.Labels
	}
}

// measure reads the number or the time of case number i.
func (o *opener) measure(c *Case, column labelColumn, set sdk.LabelSet, i int) {
	text, event := column.texts[i], "1"
	wrong := func(column, format string, args ...any) {
		o.problems.Add(c.at.file, c.at.line, column, format, args...)
	}
	if column.event != "" {
		event = column.events[i]
	}
	if text == "" && (column.event == "" || event == "") {
		return
	}
	v, err := table.Number(text)
	switch {
	case column.event == "" && (err != nil || math.IsInf(v, 0)):
		wrong(column.column, "%q is no number: head.question=regression asks for one; leave the cell empty where it is unknown, and that setting out for one of several classes", problem.Clip(text, 60))
		return
	case column.event != "" && (err != nil || !(v >= 0) || math.IsInf(v, 0)):
		wrong(column.column, "%q, want the time of the event, or to which the case was followed without it: 0 or more; leave %s and %s empty where it is unknown", problem.Clip(text, 60), column.column, column.event)
		return
	case event != "0" && event != "1":
		wrong(column.event, "%q, want 1 (the event happened then) or 0 (followed so far without it)", problem.Clip(event, 60))
		return
	}
	if c.Measured == nil {
		c.Measured = map[string]Measured{}
	}
	c.Measured[set.Name] = Measured{Value: v, Event: event == "1"}
}

// leastEvents are the events that a time to an event can be learned from.
const leastEvents = 2

// Scale finds out of the training cases what numbers and times are told the stages in: mean and
// standard deviation, and intervals with as many events in each, as many as wanted at most.
func (d *Dataset) Scale(training []Case, intervals int) error {
	for k := range d.Labels {
		set := &d.Labels[k]
		if set.Classed() {
			continue
		}
		var values, events []float64
		for i := range training {
			if m, ok := training[i].Measured[set.Name]; ok {
				if values = append(values, m.Value); m.Event {
					events = append(events, m.Value)
				}
			}
		}
		switch set.Question {
		case sdk.AsksNumber:
			set.Mean, set.SD = stat.MeanStdDev(values, nil)
			if !(set.SD > 0) {
				return fmt.Errorf("%w: %s: %s is the same in all of the %d training cases that have it: nothing can be learned of it", ErrData, d.Spec, set.Name, len(values))
			}
		case sdk.AsksTime:
			if len(events) < leastEvents {
				return fmt.Errorf("%w: %s: %d of the %d training cases have the event (question %s: event is 1 there): want %d at least, or no time to it can be learned", ErrData, d.Spec, len(events), len(values), set.Name, leastEvents)
			}
			bounds := interval.Between(events, intervals)
			if len(bounds) == 0 {
				return fmt.Errorf("%w: %s: the %d events of %s in training all happen at one time: there are no two intervals to tell apart", ErrData, d.Spec, len(events), set.Name)
			}
			set.Classes = interval.Names(bounds)
		}
	}
	return nil
}

// timeTarget is the interval of a case's time, and 1 where the event may lie in it or in any
// later one. A case that is no longer followed counts as having passed an interval if it was
// followed to more than half of it (Gensheimer and Narasimhan 2019, section 3.1).
func timeTarget(bounds []float64, m Measured) (class int64, censored int8) {
	k := interval.Of(bounds, m.Value)
	if m.Event {
		return int64(k), 0
	}
	if k < len(bounds) {
		from := 0.0
		if k > 0 {
			from = bounds[k-1]
		}
		if m.Value > (from+bounds[k])/2 {
			k++
		}
	}
	return int64(k), 1
}
