package rules

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// Extractor extracts by lexicon and assertion rules. It is safe for concurrent use.
type Extractor struct {
	Lexicon *Lexicon
	Engine  *Engine
	// ProbableIsUncertain makes likely findings ("probable", one of several named
	// explanations) Uncertain; otherwise they are Stated, as human coders of
	// reports index them.
	ProbableIsUncertain bool
	// AnyLanguage applies Engine to reports of every language. Otherwise it is for English
	// ones, those of the lexicon's other languages have their embedded triggers, and the
	// rest stays unmentioned.
	AnyLanguage bool
}

// Extract returns one cell per attribute of the lexicon's schema. Of several
// mentions a stated one decides over an uncertain one, that over a denied one,
// and the earlier over the later. Mentions of the past, of eventualities and of
// other people do not count. A report in a language that is not known has all
// cells unmentioned: the rules would find its mentions and miss its negations.
func (x Extractor) Extract(r report.Report) []schema.Cell {
	cells, _ := x.read(r)
	return cells
}

// read is Extract; known says whether the report's language is.
func (x Extractor) read(r report.Report) (cells []schema.Cell, known bool) {
	attributes := x.Lexicon.Schema.Attributes
	cells = make([]schema.Cell, len(attributes))
	for i := range cells {
		cells[i].Value = -1
	}
	texts := make([][]Token, len(r.Sections))
	for k, section := range r.Sections {
		texts[k] = Tokenize(section.Text)
	}
	x.Engine = x.engineFor(r, texts)
	if x.Engine == nil {
		return cells, false
	}
	var abnormal schema.Cell
	carried := make([]*thing, len(attributes))
	unexplained := false
	for k, section := range r.Sections {
		if reasonColumn(section.Name) {
			continue
		}
		tokens, topic, columns := texts[k], Span{}, []timing(nil)
		for _, span := range findingSentences(section.Text, tokens) {
			topic = topicOf(tokens, span, topic)
			columns = columnsOf(tokens, span, columns)
			s := sentence{x: x, section: section, tokens: tokens, span: span, topic: topic, columns: columns, present: x.Lexicon.present.of(tokens, span)}
			for i := range attributes {
				if s.present&bit(i) == 0 && carried[i] == nil {
					continue
				}
				carried[i] = s.read(i, &cells[i], carried[i])
			}
			unexplained = unexplained || s.present == 0 && s.unexplained()
			if s.present&(1<<abnormalBit) == 0 {
				continue
			}
			for _, f := range x.Lexicon.abnormal.find(tokens, span) {
				// An old fracture is still no normal report: the past counts here.
				if c := s.cell(schema.Attribute{Kind: schema.Binary}, nil, f, true); better(c, abnormal) {
					abnormal = c
				}
			}
		}
	}
	for i, e := range x.Lexicon.Source.Attributes {
		if e.NothingElse {
			x.nothingElse(i, cells, abnormal, unexplained)
		}
	}
	return cells, true
}

// nothingElse decides the attribute i, which any other finding denies: it is stated when
// the report says so, and no part of it speaks of something that the lexicon does not know.
func (x Extractor) nothingElse(i int, cells []schema.Cell, abnormal schema.Cell, unexplained bool) {
	worst := abnormal
	for j, a := range x.Lexicon.Schema.Attributes {
		if j != i && a.Kind == schema.Binary && !x.Lexicon.Source.Attributes[j].NothingElse && better(cells[j], worst) {
			worst = cells[j]
		}
	}
	switch {
	case worst.State == schema.Stated || worst.State == schema.Uncertain:
		cells[i] = schema.Cell{State: schema.Negated, Value: 0, Evidence: worst.Evidence}
	case unexplained && cells[i].State == schema.Stated:
		cells[i] = schema.Cell{Value: -1}
	}
}

// unexplained reports whether the sentence, which has no phrase of the lexicon, has words
// and no denial: what it says is not known.
func (s *sentence) unexplained() bool {
	for i := s.span.Start; i < s.span.End; i++ {
		if s.tokens[i].Word && !startsDigit(s.tokens[i].Text) {
			return len(s.reading().tags[0]) == 0
		}
	}
	return false
}

// better reports whether a decides over b.
func better(a, b schema.Cell) bool {
	rank := [...]int{schema.Unmentioned: 0, schema.Negated: 1, schema.Uncertain: 2, schema.Stated: 3}
	return rank[a.State] > rank[b.State]
}

// sentence is one sentence being read; its triggers are found when needed.
type sentence struct {
	x          Extractor
	section    report.Section
	tokens     []Token
	span       Span
	assertions *Sentence
	present    uint64 // which phrases may be in it
	columns    []timing
	topic      Span // the words before the colon that began its line: "Adrenals: right normal. Left 2 cm nodule."
}

// topicOf is what the line that the sentence stands in is about, by the words before the colon
// at its start; last is that of the sentence before.
func topicOf(tokens []Token, span, last Span) Span {
	const longest = 4
	for i := span.Start; i < min(span.End, span.Start+longest+1); i++ {
		switch t := tokens[i]; {
		case t.Text == ":" && i > span.Start:
			return Span{span.Start, i}
		case !t.Word && t.Text != "/" && t.Text != "-":
			i = span.End
		}
	}
	if tokens[span.Start].Lines > 0 {
		return Span{}
	}
	return last
}

func (s *sentence) reading() *Sentence {
	if s.assertions == nil {
		s.assertions = s.x.Engine.Read(s.tokens, s.span)
	}
	return s.assertions
}

// assess is the engine's reading of a mention of something that other attributes belong to.
// What is named as known or is measured exists, though it is not assessed: "the nodule is hard to measure".
func (s *sentence) assess(thing Span) Assertion {
	a := s.reading().Assess(thing)
	a.Hypothetical = a.Hypothetical && !(a.Unassessed && (s.reading().named(thing) || slices.ContainsFunc(lengths.measurements(s.tokens, Span{thing.End, s.span.End}), func(m measurement) bool { return !s.bound(m) })))
	return a
}

// read updates the cell of attribute i. carried is what the sentence before was about, for
// an attribute that belongs to something; the result is what this one is about.
func (s *sentence) read(i int, cell *schema.Cell, carried *thing) *thing {
	a := s.x.Lexicon.Schema.Attributes[i]
	var things []thing
	if s.x.Lexicon.near[i] != nil {
		if things = s.things(i, carried); things == nil {
			if s.property() {
				return carried
			}
			return nil
		}
		if k := slices.IndexFunc(things, func(t thing) bool { return t.counts }); k >= 0 {
			carried = &things[k]
		} else {
			return nil
		}
	}
	if a.Kind == schema.Numeric {
		if c, ok := s.measure(i, things); ok && better(c, *cell) {
			*cell = c
		}
		return carried
	}
	var apart schema.Cell
	matches := s.x.Lexicon.match[i].find(s.tokens, s.span)
	if a.Kind == schema.Binary && len(matches) > 0 && s.isThing(matches[0].Span) {
		matches = s.standIns(matches)
	}
	for _, f := range matches {
		if s.reading().idiom(f.Span) || things != nil && !s.belongs(f.Span, things) {
			continue
		}
		c := s.cell(a, s.x.Lexicon.either[i], f, false)
		if c.State == schema.Negated && !f.denied && (s.ofNamed(f.Span, things) || s.placed(f.Span, things)) {
			c = schema.Cell{State: schema.Stated, Value: f.value, Evidence: s.evidence(f.Span)}
		}
		if c.State == schema.Stated && things != nil && !slices.ContainsFunc(things, func(t thing) bool { return t.counts && !t.possible }) {
			c.State = schema.Uncertain // of something that is
		}
		if things != nil && s.parted(f.Span, *carried) {
			if better(c, apart) {
				apart = c
			}
		} else if better(c, *cell) {
			*cell = c
		}
	}
	if better(apart, *cell) {
		*cell = apart
	}
	if things != nil && s.topic.End > 0 && cell.State == schema.Unmentioned && (len(matches) == 0 || s.topic.End > s.span.Start) {
		if f := s.x.Lexicon.match[i].find(s.tokens, s.topic); len(f) > 0 && !f[0].denied {
			*cell = schema.Cell{State: schema.Stated, Value: f[0].value, Evidence: s.evidence(f[0].Span)}
		}
	}
	return carried
}

// ofNamed reports whether a value stands between the article of a thing that is there and the
// thing, and what denies it before that: "no enhancement of the left renal mass".
func (s *sentence) ofNamed(value Span, things []thing) bool {
	trigger := s.reading().of(true).Assess(value).Trigger
	return slices.ContainsFunc(things, func(t thing) bool {
		if t.counts && trigger.End <= t.Start && t.End <= value.Start && !s.parted(value, t) {
			return true // "no washout in the observation in segment VII"
		}
		if !t.counts || t.Start < value.End || trigger.End > value.Start {
			return false
		}
		for i := t.Start - 1; i > trigger.End; i-- {
			switch w := s.tokens[i]; {
			case s.x.Engine.is(w, definite):
				return i < value.Start
			case !w.Word && !decimal(s.tokens, i) && w.Text != "-", s.x.Engine.is(w, verb|and|or|with|inside):
				return false
			}
		}
		return false
	})
}

// placed reports whether a value is a place that a preposition parts from what is denied of a
// thing before that: "mass without calcification in the anterior mediastinum".
func (s *sentence) placed(value Span, things []thing) bool {
	trigger := s.reading().of(true).Assess(value).Trigger
	if trigger.End > value.Start || !slices.ContainsFunc(things, func(t thing) bool {
		return t.counts && t.End <= trigger.Start && !s.parted(value, t)
	}) {
		return false
	}
	for i := value.Start - 1; i > trigger.End; i-- {
		switch w := s.tokens[i]; {
		case s.x.Engine.is(w, inside) && w.Text != "of" && w.Text != "by" && w.Text != "de" && w.Text != "del" && w.Text != "von":
			return true
		case !w.Word && w.Text != "-", s.x.Engine.is(w, verb|and|or|with):
			return false
		}
	}
	return false
}

// property reports whether the sentence is a line of one word or a few and what is said of it,
// "Renal vein: no invasion": it does not end the description that it stands in.
func (s *sentence) property() bool {
	const longest = 3
	for i := s.span.Start + 1; i < min(s.span.End-1, s.span.Start+longest+1); i++ {
		if s.tokens[i].Text == ":" {
			return true
		}
	}
	return false
}

// parted reports whether a clause boundary lies between a value and the thing.
func (s *sentence) parted(value Span, t thing) bool {
	r := s.reading()
	from, to := min(value.End, t.End), max(value.Start, t.Start)
	for i := from; i <= to; i++ {
		if r.polarity[i-s.span.Start] && i > from {
			return true
		}
	}
	return false
}

// cell is what the sentence says about one phrase found in it; past says whether
// things of the past count. either are the alternatives beside which it is likely.
func (s *sentence) cell(a schema.Attribute, either *phraseMatcher, f found, past bool) schema.Cell {
	as := s.reading().of(a.Kind == schema.Categorical).Assess(f.Span)
	if as.Unassessed && a.Kind == schema.Binary && s.isThing(f.Span) {
		as = s.assess(f.Span)
	}
	if as.Alternative && either != nil && s.close(either, cover(f.Span, as.Trigger)) {
		as.Possible, as.Probable = false, true
	}
	c := schema.Cell{Value: -1}
	if as.Historical && !past && !as.Never && !as.Standing || as.Hypothetical || as.Other {
		return c
	}
	span := f.Span
	switch {
	case f.sense == absent:
		c.State = schema.Negated
	case f.denied:
		c.State = schema.Negated
	case as.Negated:
		c.State = schema.Negated
		span = cover(span, as.Trigger)
	case as.Possible:
		c.State = schema.Uncertain
		span = cover(span, as.Trigger)
	case f.sense == borderline:
		c.State = schema.Uncertain
	default:
		c.State = schema.Stated
		if as.Probable {
			span = cover(span, as.Trigger)
			if s.x.ProbableIsUncertain {
				c.State = schema.Uncertain
			}
		}
	}
	switch {
	case a.Kind == schema.Binary && c.State == schema.Negated:
		c.Value = 0
	case a.Kind == schema.Binary:
		c.Value = 1
	case c.State != schema.Negated:
		c.Value = f.value
	}
	c.Evidence = s.evidence(span)
	return c
}

// isThing reports whether other attributes of the lexicon belong to what the mention names.
func (s *sentence) isThing(mention Span) bool {
	return slices.ContainsFunc(s.x.Lexicon.near, func(m *phraseMatcher) bool {
		return m != nil && slices.ContainsFunc(m.find(s.tokens, mention), func(f found) bool { return f.Span == mention })
	})
}

// close reports whether one of the phrases stands within a few words of the span.
func (s *sentence) close(m *phraseMatcher, span Span) bool {
	const reach = 5
	return len(m.find(s.tokens, Span{Start: max(span.Start-reach, s.span.Start), End: min(span.End+reach, s.span.End)})) > 0
}

func cover(a, b Span) Span {
	return Span{Start: min(a.Start, b.Start), End: max(a.End, b.End)}
}

func (s *sentence) evidence(span Span) schema.Evidence {
	start, end := s.tokens[span.Start].Start, s.tokens[span.End-1].End
	return schema.Evidence{Section: s.section.Name, Start: start, End: end, Quote: s.section.Text[start:end]}
}

// Options name what an Extractor works with; the zero value takes what is embedded.
type Options struct {
	// Lexicon is the name of an embedded lexicon or a file; "" means ChestXRay.
	Lexicon string
	// Triggers is the file of a trigger table; "" means the embedded one.
	Triggers            string
	ProbableIsUncertain bool
}

// Open reads the lexicon and the trigger table.
func Open(o Options) (Extractor, error) {
	if o.Lexicon == "" {
		o.Lexicon = ChestXRay
	}
	lexicon, err := OpenLexicon(o.Lexicon)
	if err != nil {
		return Extractor{}, err
	}
	engine, err := OpenTriggers(o.Triggers)
	return Extractor{Lexicon: lexicon, Engine: engine, ProbableIsUncertain: o.ProbableIsUncertain, AnyLanguage: o.Triggers != ""}, err
}

// Table extracts a table of all reports, on all processors. Its schema may have fewer
// attributes than the lexicon, other value sets and another order; nil means the lexicon's.
// An attribute that the lexicon does not know is an error.
func (x Extractor) Table(ctx context.Context, s *schema.Schema, reports []report.Report) (*report.Table, error) {
	if s == nil {
		s = &x.Lexicon.Schema
	}
	if _, err := report.Project(x.Lexicon.Schema, x.Extract(report.Report{}), *s); err != nil {
		return nil, fmt.Errorf("schema and lexicon %s: %w", x.Lexicon.Source.Name, err)
	}
	t := &report.Table{Schema: *s, IDs: make([]string, len(reports)), Cells: make([][]schema.Cell, len(reports))}
	known := make([]bool, len(reports))
	var work errgroup.Group
	next := atomic.Int64{}
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= len(reports) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				var cells []schema.Cell
				cells, known[n] = x.read(reports[n])
				if s != &x.Lexicon.Schema {
					var err error
					if cells, err = report.Project(x.Lexicon.Schema, cells, *s); err != nil {
						return fmt.Errorf("report %q: %w", reports[n].ID, err)
					}
				}
				t.IDs[n], t.Cells[n] = reports[n].ID, cells
			}
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	for n, ok := range known {
		if !ok {
			t.Unread = append(t.Unread, reports[n].ID)
		}
	}
	return t, nil
}
