package rules

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Frequent words that are not shared between English and the others: function words,
// and what every report on a chest has (heart, lungs, effusion). Accents are folded.
// Short words that are English abbreviations (LA, LE, SE, OU) are left out.
var (
	english = wordSet(`the of and is are there with for within without right left was were this that has have
		not or to at by be which seen heart lung lungs chest clear effusion`)
	foreign = wordSet(`kein keine keinen nicht und der das dem auf bei oder sich mit ohne links rechts ist sind ein eine beidseits herz lunge lungen erguss
		pas les une des sans avec et du est dans sont sur aux aucun aucune poumons coeur epanchement
		sin los las del por una el con ni hay observa observan derecho izquierdo pulmones corazon derrame neumotorax
		della nella senza nel sono di il polmoni cuore versamento
		sem da com uma dos nao esquerdo direito pulmoes coracao
		geen niet het een rechter linker longen
		inget ingen inga och utan ej lungor hjarta`)
)

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// otherLanguage reports whether the text looks like another language than English:
// most of its letters are not Latin, or more of its words are frequent ones of German,
// French, Spanish, Italian, Portuguese, Dutch or Swedish than of English. English rules
// would find the mentions and miss the negations, or find nothing and call it normal.
func otherLanguage(tokens []Token) bool {
	balance, latin, other := 0, 0, 0
	for _, t := range tokens {
		switch {
		case english[t.Text]:
			balance++
		case foreign[t.Text]:
			balance--
		}
		for _, r := range t.Text {
			switch {
			case r < utf8.RuneSelf || unicode.Is(unicode.Latin, r):
				latin++
			case unicode.IsLetter(r):
				other++
			}
		}
	}
	return balance < 0 || other > latin
}
