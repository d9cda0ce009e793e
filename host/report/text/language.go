package text

import "strings"

// The function words below are frequent, short, and not shared between English
// and the others.
var (
	english = wordSet("the of and is are there with for within without normal right left was were this that has have")
	foreign = wordSet(`kein keine keinen nicht und der mit ohne links rechts ist sind ein eine beidseits
		pas les une des sans avec et du est dans
		sin los las del por una derecho izquierdo hay
		non della senza nel sono di il
		sem da com um uma esquerdo direito
		geen niet het een rechter linker
		inget ingen inga och utan ej`)
)

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// OtherLanguage reports whether the text looks like another language written in
// Latin letters than English: more of its words are function words of German,
// French, Spanish, Italian, Portuguese, Dutch or Swedish than of English. English
// rules would find the mentions and miss the negations.
func OtherLanguage(tokens []Token) bool {
	balance := 0
	for _, t := range tokens {
		switch {
		case english[t.Text]:
			balance++
		case foreign[t.Text]:
			balance--
		}
	}
	return balance < 0
}
