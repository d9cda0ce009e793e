package rules

import (
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/alignedfusion/alignedfusion/host/report"
)

// headings are the usual names of a report's parts, as patterns, by what they hold.
var headings = map[headingKind][]string{
	// Why the examination was made. What it says is no finding.
	reasonPart: {
		"clinical? indication|indications", "clinical|patient|patient's|relevant|medical|brief? history|information|info|data|details|detail|background|notes|statement|presentation|context|summary",
		"clinical|diagnostic question", "clinical", "history of present illness", "past|previous|prior medical|surgical|oncologic? history", "pmh|hpi", "history and indication",
		"reason|reasons for the|this? exam|examination|study|visit|referral|consultation|test|order|request|imaging|scan", "reason|reasons",
		"chief? complaint|complaints", "signs and? symptoms", "symptoms", "admitting|referring|provisional|working|admission|preoperative diagnosis", "request", "question",
		"klinische angaben|fragestellung|information", "fragestellung|anamnese|klinik|indikation|rechtfertigende", "klinische angaben und fragestellung",
		"indicacion|antecedentes|motivo|clinica", "datos|informacion clinicos|clinica", "motivo de|del consulta|estudio|examen",
	},
	// What was done and what it was compared with.
	methodPart: {
		"comparison|comparisons", "comparison|prior|previous studies|study|exam|exams|examination|examinations|films|imaging", "technique|techniques|protocol|procedure|procedures",
		"procedure comments?", "exam|examination|study", "exam|examination|study type|date|description|performed|technique", "views|contrast|medication|dose|radiation", "clinical protocol",
		"technik|voruntersuchung|voraufnahmen|vergleich|untersuchung", "tecnica|comparacion|procedimiento|estudio",
	},
	findingPart: {
		"findings|finding", "impression|impressions", "conclusion|conclusions|conclusiones", "opinion|interpretation|assessment|summary|result|results|report|comment|comments|observations|observation",
		"final|pathologic|pathological|histologic|histological|microscopic|gross|radiologic|radiological? diagnosis|diagnoses|description|impression|findings|report", "impression and plan|recommendation|recommendations",
		"findings|impression and|/ impression|findings", "chest|ct|mri findings",
		"befund|befunde|beurteilung|ergebnis|zusammenfassung|diagnose", "hallazgos|impresion|diagnostico|resultado|resultados|informe",
	},
	// What was looked at: a heading that is a part of what its sentence says.
	organPart: {
		"lungs|lung|lungs/pleura|pleura|heart|mediastinum|bones|abdomen|chest|thorax|liver|kidneys|airways|airway|tubes|lines|pleural|cardiac|osseous|musculoskeletal",
		"lungs and pleura|airways", "lines and|/ tubes", "heart and mediastinum", "pleural spaces|space", "soft tissues", "bony thorax|structures", "osseous structures", "cardiomediastinal silhouette",
	},
}

type headingKind int8

const (
	findingPart headingKind = iota
	reasonPart
	methodPart
	organPart
)

// headingMatcher finds headings; kinds are by pattern.
var headingMatcher = sync.OnceValues(func() (*matcher, []headingKind) {
	var patterns []pattern
	var kinds []headingKind
	for _, kind := range []headingKind{findingPart, reasonPart, methodPart, organPart} {
		for _, phrase := range headings[kind] {
			p, err := parsePattern(phrase)
			if err != nil {
				panic(err) // a heading above is misspelt
			}
			patterns, kinds = append(patterns, p), append(kinds, kind)
		}
	}
	return newMatcher(patterns), kinds
})

// heading is a heading found at a span of tokens; the mark after it belongs to it.
type heading struct {
	Span
	kind headingKind
}

// headingsOf finds the headings in a text: a usual name at the start of a line or sentence
// that a colon follows, or that stands alone on its line, or in capitals in a text that
// has small letters.
func headingsOf(text string, tokens []Token) []heading {
	m, kinds := headingMatcher()
	mixed := strings.ContainsFunc(text, unicode.IsLower)
	var out []heading
	for i := 0; i < len(tokens); i++ {
		if !tokens[i].Word || !mayBegin(text, tokens, i) {
			continue
		}
		end, kind := -1, findingPart
		for _, n := range m.candidates(tokens[i].Text) {
			if e := m.patterns[n].match(tokens, i); e > end {
				end, kind = e, kinds[n]
			}
		}
		if end < 0 || end < len(tokens) && tokens[end-1].Lines > 0 && end-1 > i {
			continue
		}
		atStart := tokens[i].Lines > 0 || i == 0
		colon := end < len(tokens) && (tokens[end].Text == ":" || atStart && (kind == reasonPart || kind == methodPart) && dash(tokens, end))
		switch {
		case colon:
			end++
		case atStart:
			alone := end == len(tokens) || tokens[end].Lines > 0
			if !alone && !(mixed && upper(text, tokens, i, end)) {
				continue
			}
		case !mixed || !upper(text, tokens, i, end):
			continue
		}
		out = append(out, heading{Span{i, end}, kind})
		i = end - 1
	}
	return out
}

// dash reports whether a dash between blanks is token i.
func dash(tokens []Token, i int) bool {
	return tokens[i].Text == "-" && tokens[i].Space && i+1 < len(tokens) && tokens[i+1].Space
}

// mayBegin reports whether a heading may begin at token i: at the start of a line or
// sentence, or anywhere with a capital.
func mayBegin(text string, tokens []Token, i int) bool {
	if i == 0 || tokens[i].Lines > 0 {
		return true
	}
	switch tokens[i-1].Text {
	case ".", ";", "!", "?", ")", "]", "*", "-":
		return true
	}
	first := rune(text[tokens[i].Start])
	return unicode.IsUpper(first) && tokens[i].Space
}

// upper reports whether tokens from to end are written in capitals, four at least.
func upper(text string, tokens []Token, from, end int) bool {
	s := text[tokens[from].Start:tokens[end-1].End]
	return len(s) >= 4 && s == strings.ToUpper(s)
}

// leads are the headings that what a report finds begins with.
var leads = wordSet("findings befund befunde hallazgos")

// findingSpans are the parts of a text that speak of findings: not what the reason for the
// examination, the comparison and the technique say. Without a later heading a reason ends
// at a blank line, and a method with its first sentence.
func findingSpans(text string, tokens []Token) []Span {
	found := headingsOf(text, tokens)
	var out []Span
	start := 0
	if slices.ContainsFunc(found, func(h heading) bool { return h.kind == findingPart && leads[tokens[h.Start].Text] }) {
		start = found[0].Start // what stands before the findings is why they were looked for
	}
	add := func(end int) {
		if end > start {
			out = append(out, Span{start, end})
		}
	}
	for k, h := range found {
		add(h.Start)
		end, last := len(tokens), k+1 == len(found)
		if !last {
			end = found[k+1].Start
		}
		switch h.kind {
		case findingPart:
			start = h.End
		case organPart:
			start = h.Start
		default:
			start = h.ends(tokens, end, last)
		}
	}
	add(len(tokens))
	return out
}

// findingSentences are the sentences of the parts that speak of findings.
func findingSentences(text string, tokens []Token) []Span {
	var out []Span
	for _, part := range findingSpans(text, tokens) {
		for _, s := range sentences(tokens[part.Start:part.End]) {
			out = append(out, Span{s.Start + part.Start, s.End + part.Start})
		}
	}
	return out
}

// Sentences are the texts of a report's sentences, whatever part they stand in; blanks and line
// breaks within one are a blank.
func Sentences(r report.Report) (out []string) {
	for _, section := range r.Sections {
		tokens := Tokenize(section.Text)
		for _, s := range sentences(tokens) {
			text := section.Text[tokens[s.Start].Start:tokens[s.End-1].End]
			out = append(out, strings.Join(strings.Fields(text), " "))
		}
	}
	return out
}

// ends is where the part under a heading of another kind than findings ends, at the latest
// at token end; last says that no heading follows.
func (h heading) ends(tokens []Token, end int, last bool) int {
	for i := h.End + 1; i < end; i++ {
		if tokens[i].Lines >= 2 && (last || h.kind == reasonPart) {
			return i
		}
	}
	if last && h.kind == methodPart {
		if s := sentences(tokens[h.End:end]); len(s) > 0 {
			return h.End + s[0].End
		}
	}
	return end
}

// reasonColumn reports whether a report's section is named as what holds no findings.
func reasonColumn(name string) bool {
	tokens := Tokenize(strings.ReplaceAll(name, "_", " "))
	for _, h := range headingsOf(name, tokens) {
		if h.Start == 0 && h.End == len(tokens) {
			return h.kind == reasonPart || h.kind == methodPart
		}
	}
	return false
}
