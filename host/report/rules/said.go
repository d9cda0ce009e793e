package rules

// Said is how a report speaks of one word.
type Said struct {
	Word string
	Assertion
}

// Words says how text speaks of the words of text[start:end], those of the phrases that
// decided it left out, and whether anything is denied in the sentences that they stand in.
func (e *Engine) Words(text string, start, end int) (words []Said, denies bool) {
	tokens := Tokenize(text)
	for _, span := range sentences(tokens) {
		if tokens[span.Start].Start >= end || tokens[span.End-1].End <= start {
			continue
		}
		sentence := e.Read(tokens, span)
		trigger := map[int]bool{}
		said := make([]Assertion, span.End-span.Start)
		for i := range said {
			if !tokens[span.Start+i].Word {
				continue
			}
			said[i] = sentence.Assess(Span{Start: span.Start + i, End: span.Start + i + 1})
			denies = denies || said[i].Negated
			for k := said[i].Trigger.Start; k < said[i].Trigger.End; k++ {
				trigger[k] = true
			}
		}
		for i, a := range said {
			if t := tokens[span.Start+i]; t.Word && !trigger[span.Start+i] && t.Start >= start && t.End <= end {
				words = append(words, Said{t.Text, a})
			}
		}
	}
	return words, denies
}
