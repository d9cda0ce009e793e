package rules

import "github.com/alignedfusion/alignedfusion/host/report/schema"

// Synonym gives the value that a text means by the lexicon's phrases, as a whole: "LUL" for
// a location, "solitary" for a number. It is a report.Synonym.
func (c *Lexicon) Synonym(attribute, text string) (string, bool) {
	i := c.Schema.Index(attribute)
	tokens := Tokenize(text)
	if i < 0 || len(tokens) == 0 {
		return "", false
	}
	a := c.Schema.Attributes[i]
	for _, f := range c.match[i].find(tokens, Span{End: len(tokens)}) {
		switch {
		case f.Start != 0 || f.End != len(tokens):
		case a.Kind == schema.Categorical:
			return a.Values[f.value], true
		case f.sense == absent:
			return "no", true
		case f.sense == mention:
			return "yes", true
		}
	}
	return "", false
}
