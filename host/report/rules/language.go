package rules

import (
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/host/report"
)

// Frequent words by language, folded. English words that other languages write alike (in,
// no, is, of) are weak evidence.
var (
	english = wordSet(`the and are there with for within without right left were this that have has to by be which seen heart lung lungs
		chest clear evidence but unchanged normal left-sided small large mild moderate stable new prior previous`)
	weakEnglish = wordSet(`approx strong weak strongly weakly of is was not non or at in on no a an effusion effusions pleural pulmonary bilateral basal basilar apical hilar lower upper
		middle lobe lobes base bases nodule nodules opacity opacities mass masses lesion lesions acute chronic focal impression
		findings report negative none nil absent possible probable likely suspected query unlikely excluded resolved gone cleared
		neoplasm tumor disease fracture fractures pneumonia size films film view views exam scan images image cavity free air fluid
		cardiac silhouette mediastinal rib ribs bone bones wall tiny trace residual recurrent old known active persistent yes
		airspace interval space spaces pneumonias infiltrate infiltrates edema thickening scarring pulmonale cardiomegaly
		liver kidney hepatic renal mm cm multiple single solitary thin thick melanoma nodular plaque papule macule nevus lesions skin dermal margin margins
		enhancement calcification necrosis adenopathy density hypodense hyperdense spiculated lobulated round oval carcinoma invasion
		rim ring edge border borders shape center centre core tip dome pole poles neck head tail body spine skull pelvis breast brain bowel bladder spleen
		adrenal adrenals gland glands vein veins artery node nodes lymph tissue muscle fat cyst cysts collection stone stones duct ducts stent clip clips
		tube line catheter drain wire lead leads pacemaker device graft repair change changes growth increase decrease width length height depth thickness
		diameter total largest smallest left-sided low high deep soft hard sharp blunt dense faint vague hazy patchy rounded linear solid cystic
		long short wide narrow thickened borderline questionable definite zero today now then again also both each other same since until after before
		during while about around near above below under over between through toward he she they patient his her year years month months week weeks
		day days ago one two three four five six seven eight nine ten first second last next few many most more less than very well not
		can could may might must should would will do does did done be been being had were what who how see saw show shows shown lacks lack
		cm mm rule out follow up due given ruled query consistent compatible favor favored versus vs status post history known
		collapse consolidation atelectasis pneumothorax hernia fibrosis emphysema blood clot thrombus bleed bled ulcer itch itchy rash mole
		rate per index grade level stage mitotic mitoses mitosis figures receptor receptors sentinel invasive situ extension extensions carcinomas melanomas
		skin hair nail scalp cheek nose lip ear eye arm leg hand foot finger toe trunk back shoulder hip knee ankle rib sternum clavicle`)
	german = wordSet(`kein keine keinen keiner keines und der das dem den auf bei oder mit ohne links rechts linker rechter linken rechten ist sind
		ein eine einen einem eines einer beidseits beidseitig herz lunge lungen erguss pleuraerguss nicht nachweis nein verdacht zustand nach
		ausgeschlossen vergrossert normal regelrecht unauffallig kleiner kleine grosser geringer sich im zum zur kardiomegalie rundherd
		raumforderung raumforderungen lungenodem pneumonie stauung auch noch mehr des frische frischer frisches alte alter kleine herd herde zyste zysten
		leber milz niere nieren lasion lasionen befund kontrastmittel anreicherung unscharf unscharfe glatt scharf begrenzt begrenzte begrenzter
		begrenztes metastase metastasen lymphknoten unterlappen oberlappen mittellappen blutung infarkt fraktur frakturen riss gelenkerguss verkalkung
		verkalkungen verkalkt unverandert grosse rechtsseitig linksseitig sowie bis misst messend durchmesser vorbekannter bekannter bekannte
		disloziert konkrement stein steine harnleiter gallenblase schadel hirn knochen wirbelkorper haut weiterhin deutlich deutliche zeigt keinerlei
		suspekte suspekter suspekt fraglich fragliche moglich wahrscheinlich vom bei`)
	spanish = wordSet(`sin los las del por una el con ni hay se observa observan aprecia aprecian evidencia evidencian derecho derecha izquierdo
		izquierda pulmones corazon derrame neumotorax neumonia y existe nodulo nodulos masa enfisema cardiomegalia pulmonar
		descarta posible ausencia la silueta antecedente antecedentes de tras reseccion rinon higado bazo lesiones adenopatias calcificacion calcificaciones
		hepatica hepaticas hepatico pulmonares lobulo aumento sospecha sospechosa sospechoso sospechosas neoplasia mide miden tamano borde bordes
		rinones quiste quistes ganglios estable realce captacion imagen tumoracion aumentado disminuido estables cambios respecto muestra muestran varios varias
		calculo calculos izquierdos derechos izquierdas derechas ambos ambas cabeza cola vesicula vejiga hueso huesos rotura musculo rodilla hombro
		microcalcificaciones fracturas lesiones hallazgos nuevo nueva nuevos nuevas ligera ligero tendon antes mas via biliar cuello previo previa previos previas
		previamente ganglio osea oseo oseas oseos dudosa dudoso seno pared aproximadamente margenes lisos milimetros centimetros ya unico unica
		hepatocarcinoma lavado izq dcho dcha suprarrenal suprarrenales paratraqueal mediastinica mediastinicas adenopatia estudio cortes
		ahora actualmente valorable corresponder probablemente crecido meses seis siete ocho nueve diez segmento segmentos hilio hiliar mama mamaria cuerpo conocido conocida descrito descrita visto vista crecimiento eje corto milimetrico milimetricos tumoracion engrosamiento aspecto componente unos unas uno dos tres cuatro cinco ninguna ninguno completa completo era izdo izda polo mayor menor alcanza persiste persisten`)
	otherTongues = wordSet(`pas les une des sans avec et du dans sont sur aux aucun aucune poumons coeur epanchement est droit gauche
		della nella senza nel sono di il polmoni cuore versamento nessun nessuna destra sinistra
		sem da com uma dos nao esquerdo esquerda direito direita pulmoes coracao pneumotorax pneumotoraks pnomotoraks ha ausencia atelectasia
		geen niet het een rechter longen links zonder en van
		inget ingen inga och utan ej lungor hjarta ikke og uten uden ingen eller hoyre venstre
		bez nie jest cech odma odmy plyn plynu brak lewej prawej oraz sa w po vlevo vpravo jsou neni vypotek vypotku ani je nema nije bilo
		yok yoktur ve izlenmedi sag solda sagda var degildir mevcut saptanmadi akciger plevral efuzyon
		ei ole eika keuhkot vasemmalla oikealla ja nestetta kuvassa pneumotorakset
		nincs nem es  bal jobb lathato fara nu este cu si stanga dreapta lichid revarsat tidak ada tampak kanan kiri dan efusi
		khong co tran dich walang nav nera ir puudub pole jah brez ne nuk hakuna ekki engin engar tanpa tiada ez dim nic zadnych zadna zadne zadny fravaer
		lobo linfonodomegalias linfonodomegalia linfonodos figado rins leziune leziuni noduli drept stang lobul cu si pentru fara ilman inte nessuno nenhum nenhuma`)
	// endings of English words that few others have.
	endings = []string{"ed", "ing", "ings", "ly", "ness", "ous", "ful", "less", "ary", "ular", "iac", "ity", "ght", "th", "ship", "ers"}
)

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// triggerWords are the words of the English trigger table.
var triggerWords = sync.OnceValue(func() map[string]bool {
	words := map[string]bool{}
	if e, err := DefaultEngine(); err == nil {
		for _, a := range e.axes() {
			a.matcher.collect(words)
		}
	}
	return words
})

// tongue is how much of a text is of which language.
// strange counts those with letters that neither English nor German nor Spanish has.
type tongue struct{ english, weak, german, spanish, other, unknown, strange int }

// listen counts the words of tokens. Words that known says to be mentions count for none:
// they are Latin in every language.
func listen(text string, tokens []Token, known func(string) bool) tongue {
	var n tongue
	measured := false // one unit of length is a word of evidence, more are none
	for i, t := range tokens {
		if !t.Word || strings.ContainsAny(t.Text, "0123456789") || abbreviated(tokens, i) || i > 0 && startsDigit(tokens[i-1].Text) && (units["HU"].factors[t.Text] != 0 || t.Text == "x" || measured && lengths.factors[t.Text] != 0) ||
			notEnd[t.Text] && i+1 < len(tokens) && tokens[i+1].Text == "." && !tokens[i+1].Space && i+2 < len(tokens) {
			continue
		}
		measured = measured || lengths.factors[t.Text] != 0
		foreign := false
		if german[t.Text] {
			n.german, foreign = n.german+1, true
		}
		strange := ofNeither(text[t.Start:t.End])
		if spanish[t.Text] && !strange {
			n.spanish, foreign = n.spanish+1, true
		}
		if otherTongues[t.Text] && !german[t.Text] {
			n.other, foreign = n.other+1, true
		}
		switch {
		case t.Text == "de" || t.Text == "en": // Spanish, or French and its like
			n.spanish, n.other, foreign = n.spanish+1, n.other+1, true
		case !foreign && len(t.Text) >= 8 && germanEnding(t.Text):
			n.german, foreign = n.german+1, true
		case !foreign && strings.HasSuffix(strings.ToLower(text[t.Start:t.End]), "i\u00f3n"):
			n.spanish, foreign = n.spanish+1, true
		}
		if !foreign && (english[t.Text] || weakEnglish[t.Text]) && accented(text, t) { // lésion
			n.other, foreign = n.other+1, true
		}
		if strange {
			n.other, n.strange, foreign = n.other+1, n.strange+1, true
		}
		switch {
		case english[t.Text] && !accented(text, t):
			n.english++
		case (weakEnglish[t.Text] || !foreign && triggerWords()[t.Text]) && !accented(text, t):
			n.weak++
		case foreign || known(t.Text):
		case slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(t.Text, e) && len(t.Text) > len(e)+2 }) && !accented(text, t):
			n.weak++
		default:
			n.unknown++
			if accented(text, t) {
				n.unknown++
			}
		}
	}
	return n
}

// germanEnding reports whether a long word ends as German ones do.
func germanEnding(word string) bool {
	return slices.ContainsFunc([]string{"ung", "ungen", "lappen", "herd", "herde", "herden", "zyste", "zysten", "knoten", "befund", "befunde", "metastase", "metastasen", "lasion"}, func(e string) bool { return strings.HasSuffix(word, e) })
}

// imageWords stand before the number of an image or series.
var imageWords = wordSet("im ser se img")

// abbreviated reports whether token i is a letter beside a stroke, as in "c/w", or says of
// which image: "im 55".
func abbreviated(tokens []Token, i int) bool {
	if imageWords[tokens[i].Text] && i+1 < len(tokens) && startsDigit(tokens[i+1].Text) {
		return true
	}
	return len(tokens[i].Text) == 1 && (i > 0 && tokens[i-1].Text == "/" || i+1 < len(tokens) && tokens[i+1].Text == "/")
}

// accented reports whether the word is written with letters that English lacks.
func accented(text string, t Token) bool {
	return strings.ContainsFunc(text[t.Start:t.End], func(r rune) bool { return r >= utf8.RuneSelf && unicode.IsLetter(r) })
}

// ofNeither reports whether a word has letters that neither English nor German nor Spanish
// is written with.
func ofNeither(word string) bool {
	return len(word) > 3 && strings.ContainsFunc(strings.ToLower(word), func(r rune) bool {
		return r >= '\u00e0' && r <= '\u024f' && !strings.ContainsRune("\u00e4\u00f6\u00fc\u00df\u00e1\u00e9\u00ed\u00f3\u00fa\u00f1", r)
	})
}

// language is the tongue's code: en, de, es, or "" for another one. English needs evidence,
// unless all words but one are mentions: "Apical pneumothorax."
func (n tongue) language() string {
	foreign := max(n.german, n.spanish, n.other)
	evidence := n.english + n.weak
	switch {
	case foreign > n.english && !(foreign == 1 && evidence > 2) && evidence < 4*foreign:
		switch {
		case n.german > n.spanish && n.german > n.other:
			return "de"
		case n.spanish > n.german && n.spanish > n.other+3*n.strange:
			return "es"
		}
		return ""
	case evidence == 0 && n.unknown > 1, n.unknown > 3*evidence+2:
		return ""
	}
	return "en"
}

// nonLatin reports whether most letters of the text are not Latin.
func nonLatin(text string) bool {
	latin, other := 0, 0
	for _, r := range text {
		switch {
		case r < utf8.RuneSelf && unicode.IsLetter(r) || r >= utf8.RuneSelf && unicode.Is(unicode.Latin, r):
			latin++
		case unicode.IsLetter(r):
			other++
		}
	}
	return other > latin
}

// Language is the language of a report's text: en, de, es, or "" for one that the rules do
// not know. Words that known says to be names of findings are of no language; when
// it is nil no word is held against English because the rules lack it.
func Language(r report.Report, known func(word string) bool) string {
	if known == nil {
		known = func(string) bool { return true }
	}
	texts := make([][]Token, len(r.Sections))
	for k, s := range r.Sections {
		texts[k] = Tokenize(s.Text)
	}
	return languageOf(r, texts, known)
}

// languageOf is Language of a report whose sections' words are at hand.
func languageOf(r report.Report, texts [][]Token, known func(word string) bool) string {
	var n tongue
	for k, s := range r.Sections {
		if nonLatin(s.Text) {
			return ""
		}
		m := listen(s.Text, texts[k], known)
		n = tongue{n.english + m.english, n.weak + m.weak, n.german + m.german, n.spanish + m.spanish, n.other + m.other, n.unknown + m.unknown, n.strange + m.strange}
	}
	return n.language()
}

// unlisted is the language of a table of a person's own for reports that are not English.
const unlisted = "other"

// engineFor is the engine of the report's language; nil when the lexicon has no words of it
// or the rules no triggers for it: mentions would be found and negations missed.
func (x Extractor) engineFor(r report.Report, texts [][]Token) *Engine {
	if r.Empty() {
		return x.Engine
	}
	if x.AnyLanguage {
		if languageOf(r, texts, x.Lexicon.names) == "en" {
			return x.Engine
		}
		own := *x.Engine
		own.language = unlisted
		return &own
	}
	language := languageOf(r, texts, x.Lexicon.names)
	switch {
	case !slices.Contains(x.Lexicon.languages(), language):
		return nil
	case language == "en":
		return x.Engine
	}
	e, err := TriggersOf(language)
	if err != nil {
		return nil
	}
	return e
}
