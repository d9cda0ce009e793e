package rules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// Words that tell what a measurement is about.
var (
	// closedWords end a noun phrase.
	closedWords = wordSet(`of down in on at to from with without by for and or but is are was were has have had seen noted identified
		located within along near adjacent abutting involving arising previously prior now currently today compared versus vs than
		series image which that this there it these those again also as if when where while since after before during
		measures measuring measured stable unchanged larger smaller approximately about around circa ca up
		shows show contains demonstrates lies lie extends projecting projects overlying beside next behind between through
		should would could may might must will can not no be been appears remains lined containing present visible
		per respectively each total und oder im in der die das mit von bei y o con en de la el auf um war ist hat sind zuvor nach an am im dem den vor segun antes
		vom beim statt ohne sin sowie bis zu zum zur ein eine einer einem einen eines jeweils weiterhin unverandert nun gegenuber misst betragt erreicht zeigt un una los las del al
		que sigue midiendo por hasta mide miden alcanza presenta se ya frente respecto sobre desde para su`)
	// sizeWords are nouns and adjectives of the size itself.
	sizeWords = wordSet(`diameter size length width height depth axis dimension dimensions extent maximal maximum max largest greatest
		long short longest shortest ap cc tr transverse craniocaudal anteroposterior axial sagittal coronal mean average thick thickness wide
		tall big large across overall total approx approximately about circa ca roughly nearly almost only just at least up to measuring measures
		measured measurement measurements attenuation density hounsfield unit units hu suv suvmax suvmean suvpeak uptake fdg avid avidity metabolic activity value values peak
		intense intensely avidly moderate moderately mild mildly marked markedly high low increased focal homogeneous fdg hypermetabolic
		nativ nativphase unenhanced enhanced precontrast postcontrast noncontrast phase arterial portal venous delayed volume count index percent
		size: a an the its of is in craniocaudally transversely durchmesser grosse tamano diametro short-axis long-axis gross grosse messend messende
		most ø est avg estimated barely merely only still nur noch apenas solo sa ld sd closest nearest narrowest minimum min tv lr si messender messendes messenden grosser grosses grossen grosster grosste grosstes gesamtgrosse gesamtdurchmesser
		maximaler maximale maximalen querdurchmesser langsdurchmesser kurzachse kurzachsendurchmesser kurzachsig langachse axiale axialer kraniokaudal craniokaudal transversal
		sagittaler koronar anteroposterior craneocaudal etwa zirka knapp rund insgesamt dichte he uh densidad atenuacion aproximadamente aproximado unos unas casi maximo
		mayor eje corto largo menor total longitud espesor anchura altura extension dichtewert dichtewerte ausdehnung lange breite dicke hohe`)
	// anaphora stand for a thing named before.
	anaphora = wordSet(`it its they their this these largest biggest dominant larger one measuring measures measured size diameter which both latter
		index sie es er diese dieser er ella este esta mide grosste grosster grosstes mayor mayores dicha dicho ellas ellos welcher welche welches davon darunter`)
	// distance words after a measurement make it the way to somewhere else.
	distanceWords = wordSet(`from above below away distal proximal cephalad caudal superior inferior lateral medial anterior posterior beyond
		inside deep beneath to into cranial past outside off rostral superolateral inferolateral superiorly inferiorly laterally medially
		posteriorly anteriorly distally proximally entfernt unterhalb oberhalb kranial kaudal increase growth larger smaller bigger more less increment apart lower higher shorter longer`)
	// apartWords before a measurement make it no size of the thing.
	apartWords = wordSet(`within distance slice slices section sections collimation increment increments interval intervals cut cuts
		biopsy biopsies punch needle gauge reconstructed margin margins reconstruction gap spacing clearance shift rand abstand schichtdicke wanddicke halsweite grosor cortes distancia marge pared paredes`)
	limitWords  = wordSet(`> \u2265 exceeding exceeds over above minimum threshold cutoff cut-off criterion criteria greater larger more longer groesser mayor`)
	adviceWords = wordSet(`should recommend recommended recommends recommendation follow followup guideline guidelines fleischner criteria threshold
		screening consider warrant warrants`)
	pastWords = wordSet(`previously prior prev previous formerly before antes baseline nadir earlier initially originally compared comparison versus vs last
		vorher zuletzt vormals vorbefund initial zuvor voruntersuchung vu vor-ct vorct vorwert voraufnahme damals opposed statt bisher bislang dato seinerzeit letztmals anfanglich ausgangsbefund referenz anteriormente inicial ehemals einst ursprunglich anfangs gegenuber fruher vergleich previo previa previos previas previamente anterior frente inicialmente basal`)
	nowWords    = wordSet(`now currently presently today current measures measuring is are aktuell aktuelle jetzt heute derzeit nun nur derzeit momentan nunmehr mittlerweile inzwischen gegenwartig ahora actual actualmente hoy`)
	fromWords   = wordSet(`from von de desde`)
	toWords     = wordSet(`to auf a hasta`)
	wasWords    = wordSet(`era eran was were had measured media median war waren hatte`)
	changeWords = wordSet(`doubled tripled increased grown decreased enlarged shrunk changed progressed regressed grew shrank increase decrease growth reduced
		diminished reduction change enlarging decreasing increasing interval
		pasado pasa paso pasar vergrossert verkleinert zugenommen abgenommen gewachsen zunahme abnahme ruckgang aumentado aumento crecido crecimiento disminuido disminucion reducido reduccion`)
	// timeWords name the examination or the time that a past or present word is of.
	timeWords = wordSet(`year month week day time visit exam examination study scan ct mri film radiograph imaging report follow-up followup occasion
		verlauf intervall zeitraum estudio examen control tc tac rm jahr jahren monat monaten jahre monate ano anos mes meses`)
	growthWords = wordSet(`grew grown increased decreased shrank shrunk enlarged`)
	// growthNouns before "of" make a measurement a change.
	growthNouns = wordSet(`growth increase increment decrease reduction change difference shrinkage enlargement progression regression zunahme abnahme aumento crecimiento incremento disminucion reduccion`)
	monthWords  = wordSet(`january february march april june july august september october november december januar februar marz juni juli oktober dezember mai
		enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre`)
	agoWords = wordSet(`hace previo previa previos previas anterior voruntersuchung vorbefund voraufnahme damals vu baseline initially previously before prior previous earlier ago last formerly january february march april june july august september october november december`)
)

// timing says when a measurement was taken.
type timing int8

const (
	taken timing = iota
	past
	perhapsPast // told in the past tense: past only beside a present one
	unknownTime
)

// owned is a measurement that belongs to a mention.
type owned struct {
	measurement
	of       *thing
	when     timing
	possible bool // of the mention
	bound    bool // only a limit: "< 5 mm"
}

// thing is a mention that values and measurements may belong to.
type thing struct {
	Span
	counts   bool // it is there, now, and the patient's
	possible bool
}

// things are the mentions of what attribute i is a property of. A sentence that only takes
// up the one before ("It measures 9 mm") has that sentence's at its start.
func (s *sentence) things(i int, carried *thing) []thing {
	var out []thing
	for _, f := range s.standIns(s.x.Lexicon.near[i].find(s.tokens, s.span)) {
		if s.reading().idiom(f.Span) {
			continue
		}
		a := s.assess(f.Span)
		a.Negated = a.Negated && !(a.Trigger.Start >= f.End && s.valued(f.Span, a.Trigger))
		out = append(out, thing{f.Span, !a.Negated && (!a.Historical || a.Standing) && !a.Hypothetical && !a.Other && !f.denied, a.Possible})
	}
	if out == nil && s.topic.End > 0 && s.topic.End <= s.span.Start && s.placesAndSizes() && s.x.Lexicon.Schema.Attributes[i].Kind == schema.Numeric &&
		len(s.x.Lexicon.near[i].find(s.tokens, s.topic)) > 0 {
		return []thing{{Span: Span{s.span.Start, s.span.Start}, counts: true}} // "Calculi: R none. L 5 mm."
	}
	if out == nil && carried != nil && (s.takesUp() || s.field()) {
		out = []thing{{Span{s.span.Start, s.span.Start}, carried.counts, carried.possible}}
	}
	return out
}

// valued reports whether what denies a mention behind it is a part of a value: "margins free".
func (s *sentence) valued(mention, trigger Span) bool {
	for k, m := range s.x.Lexicon.match {
		if s.x.Lexicon.Schema.Attributes[k].Kind == schema.Categorical && slices.ContainsFunc(m.find(s.tokens, cover(mention, trigger)), func(f found) bool { return f.Start <= mention.Start && trigger.End <= f.End }) {
			return true
		}
	}
	return false
}

// thoseWords follow a "those" that stands for what was named before.
var thoseWords = wordSet("previously seen described noted known already in of that which identified mentioned reported")

// standIns adds to the mentions of a thing the words that stand for it behind one: "no new
// nodules; the 6 mm one is stable", "those previously seen".
func (s *sentence) standIns(all []found) []found {
	if len(all) == 0 {
		return all
	}
	const far = 6
	for i := all[0].End; i < s.span.End; i++ {
		pronoun := s.tokens[i].Text == "those" && i+1 < s.span.End && thoseWords[s.tokens[i+1].Text]
		if t := s.tokens[i].Text; t == "one" || t == "ones" {
			for k := i - 1; k >= max(all[0].End, i-far) && (s.tokens[k].Word || decimal(s.tokens, k) || s.tokens[k].Text == "-") && !pronoun; k-- {
				pronoun = s.x.Engine.is(s.tokens[k], definite)
			}
		}
		if pronoun {
			stands := all[0]
			stands.Span, stands.denied = Span{i, i + 1}, false
			all = append(all, stands)
		}
	}
	slices.SortFunc(all, func(a, b found) int { return a.Start - b.Start })
	return all
}

// placesAndSizes reports whether the sentence has nothing but places, letters and sizes.
func (s *sentence) placesAndSizes() bool {
	for i := s.span.Start; i < s.span.End; i++ {
		if t := s.tokens[i]; t.Word && len(t.Text) > 1 && !closedWords[t.Text] && !sizeWords[t.Text] && !startsDigit(t.Text) && lengths.factors[t.Text] == 0 && !s.known(i) {
			return false
		}
	}
	return true
}

// fieldWords name a property of what was named before, at the start of a line or clause that
// has it behind a colon.
var fieldWords = wordSet(`location side site size laterality segment lobe margin margins border borders density attenuation shape zone level pole
	diameter dimensions measurement measurements volume position color colour enhancement calcification
	lokalisation grosse lage seite dichte begrenzung localizacion lado tamano bordes densidad`)

// field reports whether the sentence has a property of what was named before, behind a colon:
// "Location: left lower pole".
func (s *sentence) field() bool {
	const longest = 4
	for i := s.span.Start; i < min(s.span.End-1, s.span.Start+longest); i++ {
		if fieldWords[s.tokens[i].Text] && s.tokens[i+1].Text == ":" {
			return true
		}
	}
	return false
}

// takesUp reports whether the sentence begins by what was named before ("In its greatest
// dimension"), or has nothing but a size and its time ("Previously 6 mm, now 9 mm").
func (s *sentence) takesUp() bool {
	for i := s.span.Start; i < s.span.End; i++ {
		t := s.tokens[i]
		switch {
		case anaphora[t.Text]:
			return true
		case !t.Word, timeWords[t.Text], closedWords[t.Text], sizeWords[t.Text], pastWords[t.Text], nowWords[t.Text], startsDigit(t.Text), lengths.factors[t.Text] != 0, t.Text == "x":
		default:
			return false
		}
	}
	return true
}

// measure reads attribute i from the sentence: of the lengths (or what its unit is) that
// belong to one of the things, the first that is of its time, in the attribute's unit.
func (s *sentence) measure(i int, things []thing) (schema.Cell, bool) {
	a, e := s.x.Lexicon.Schema.Attributes[i], s.x.Lexicon.Source.Attributes[i]
	all := s.owned(e, things)
	if slices.ContainsFunc(all, func(o owned) bool { return !o.bound }) {
		all = slices.DeleteFunc(all, func(o owned) bool { return o.bound }) // "nodules < 5 mm around a mass of 24 mm"
	}
	for _, o := range all {
		gone := o.when == past || o.when == perhapsPast && slices.ContainsFunc(all, func(other owned) bool { return other.when == taken && other.of == o.of })
		extent := max(e.Extent, 1)
		if extent == 2 && len(o.values) == 1 && s.shortAxis(o.Span) {
			extent = 1
		}
		if gone != (e.Time == "prior") || extent > len(o.values) {
			continue
		}
		v := o.values[extent-1] / e.scale()
		c := schema.Cell{State: schema.Stated, Value: a.Bin(v), Raw: strconv.FormatFloat(v, 'g', 6, 64), Evidence: s.evidence(o.Span)}
		if as := s.assess(o.Span); o.possible || as.Possible && !as.Alternative && !(as.Trigger.Start >= o.End && as.Trigger.End <= o.of.Start) && !(as.Trigger.End <= o.of.Start && o.of.End <= o.Start) && !suspected(as.Trigger, o, things) {
			c.State = schema.Uncertain
		}
		return c, true
	}
	return schema.Cell{}, false
}

// shortAxis reports whether the words beside a measurement name it so.
func (s *sentence) shortAxis(m Span) bool {
	const far = 7
	for i := max(s.span.Start, m.Start-far); i+1 < min(s.span.End, m.End+far-2); i++ {
		if t := s.tokens[i].Text; i < m.Start && lengths.factors[t] != 0 || i >= m.End && t == "," {
			continue
		}
		switch t, next := s.tokens[i].Text, s.tokens[i+1].Text; {
		case t == "short" && (next == "axis" || next == "-" || strings.HasPrefix(next, "diam")), t == "eje" && (next == "corto" || next == "menor"),
			t == "sa", strings.HasPrefix(t, "kurzachs"), strings.HasPrefix(next, "kurzachs"), t == "kurzer", t == "kurzen":
			return true
		}
	}
	return false
}

// suspected reports whether the trigger is about another thing that stands between the owner
// of a measurement and the measurement: "nodule suspicious for tumor, 8 mm".
func suspected(trigger Span, o owned, things []thing) bool {
	return trigger.Start >= o.of.End && slices.ContainsFunc(things, func(t thing) bool { return t.possible && t.Start >= trigger.End && t.End <= o.Start })
}

// owned lists the measurements in u that belong to things that count.
func (s *sentence) owned(e entry, things []thing) []owned {
	u := e.quantity()
	var out []owned
	end := s.span.Start
	found := u.measurements(s.tokens, s.span)
	if u.factors == nil {
		found = s.counts(things)
	}
	for _, m := range found {
		before := end
		end = m.End
		t := s.owner(m, things, e.Distance)
		if t == nil || !t.counts {
			continue
		}
		o := owned{m, t, s.when(m, before), t.possible, s.bound(m)}
		if k := len(out) - 1; k >= 0 && out[k].of == t && out[k].when == o.when && s.goesOn(out[k].End, m.Start) {
			out[k].values = append(out[k].values, m.values...)
			slices.SortFunc(out[k].values, func(a, b float64) int { return sign(b - a) })
			out[k].End = m.End
			continue
		}
		out = append(out, o)
	}
	return out
}

// bound reports whether a measurement is only the upper limit of one: "< 5 mm", "less than 5 mm".
func (s *sentence) bound(m measurement) bool {
	i := m.Start - 1
	if i-1 >= s.span.Start && (s.tokens[i].Text == "de" || s.tokens[i].Text == "a") && (strings.HasPrefix(s.tokens[i-1].Text, "menor") || strings.HasPrefix(s.tokens[i-1].Text, "inferior")) {
		return true
	}
	return i >= s.span.Start && (s.tokens[i].Text == "<" || s.tokens[i].Text == "-" && i > s.span.Start && s.tokens[i-1].Text == "sub" || s.tokens[i].Text == "under" || s.tokens[i].Text == "below") ||
		i-1 >= s.span.Start && s.tokens[i].Text == "than" && (s.tokens[i-1].Text == "less" || s.tokens[i-1].Text == "smaller")
}

// goesOn reports whether only commas, "and" and the names of axes stand between two
// measurements: "AP 4 cm, TR 3 cm and CC 6 cm" are the extents of one thing.
func (s *sentence) goesOn(from, to int) bool {
	for _, t := range s.tokens[from:to] {
		if t.Text != "," && t.Text != ";" && t.Text != "(" && t.Text != ")" && t.Text != ":" && !s.x.Engine.is(t, and) && (!dimensionWords[t.Text] || t.Text == "by") && t.Text != "dimension" && t.Text != "plane" {
			return false
		}
	}
	return !slices.ContainsFunc(s.tokens[from:to], func(t Token) bool { return t.Text == ";" }) || slices.ContainsFunc(s.tokens[from:to], func(t Token) bool { return dimensionWords[t.Text] })
}

// counts reads how many things there are: "3 nodules", "three enlarged lymph nodes".
func (s *sentence) counts(things []thing) []measurement {
	var out []measurement
	for _, t := range things {
		if m, ok := s.numberOf(t); ok {
			out = append(out, m)
			continue
		}
		from := t.Start
		for from > max(s.span.Start, t.Start-4) && s.tokens[from-1].Word {
			from--
		}
		p := pieces(s.tokens, Span{from, t.Start})
		for i := range p {
			v, next := readNumber(p, i)
			if next == i || next < len(p) && (lengths.factors[p[next].text] != 0 || closedWords[p[next].text]) {
				continue
			}
			out = append(out, measurement{Span{p[i].token, p[next-1].token + 1}, []float64{v}})
			break
		}
	}
	return out
}

// modifiers reports whether nothing but places and looks of a thing, brackets and "and" stand
// between tokens from and to: "3 mm right upper (6:24) and right middle lobe nodules".
func (s *sentence) modifiers(from, to int) bool {
	depth := 0
	for i := from; i < to; i++ {
		switch t := s.tokens[i]; {
		case t.Text == "(":
			depth++
		case t.Text == ")":
			depth--
		case depth > 0, s.x.Engine.is(t, and|apart) && t.Text != "or", t.Text == "-", t.Text == "," && i > from, s.known(i), sizeWords[t.Text] && i == from, s.x.Engine.language == "de" && t.Word && !s.mayBeNoun(i) && !closedWords[t.Text], looks(t.Text) && !s.distant(i):
		default:
			return false
		}
	}
	return to > from && depth == 0
}

// lookWords are adjectives that no ending tells.
var lookWords = wordSet("round firm flat soft hard dense thick thin dark light pale smooth sharp raised dull")

// looks reports whether the word is an adjective by its looks: "shiny", "nonspecific".
func looks(word string) bool {
	const shortest = 5
	return lookWords[word] || len(word) >= shortest && (strings.HasSuffix(word, "y") || strings.HasSuffix(word, "ish") || slices.ContainsFunc(adjectiveEndings, func(e string) bool { return strings.HasSuffix(word, e) }))
}

// numberOf reads "number of nodules: 3".
func (s *sentence) numberOf(t thing) (measurement, bool) {
	if t.Start-2 < s.span.Start || s.tokens[t.Start-1].Text != "of" || s.tokens[t.Start-2].Text != "number" || t.End+1 >= s.span.End ||
		s.tokens[t.End].Text != ":" && s.tokens[t.End].Text != "=" && !s.x.Engine.is(s.tokens[t.End], verb) {
		return measurement{}, false
	}
	v, next := readNumber(pieces(s.tokens, Span{t.End + 1, s.span.End}), 0)
	return measurement{Span{t.End + 1, t.End + 2}, []float64{v}}, next > 0
}

// owner is the thing that a measurement belongs to by syntax; nil when it is of something
// else, a change, a limit or, unless distances are looked for, a distance.
func (s *sentence) owner(m measurement, things []thing, distance bool) *thing {
	phrase := s.nounPhrase(m.End)
	for k := range things {
		if t := &things[k]; m.Start <= t.Start && t.End <= m.End { // "3 mitoses per mm2"
			return t
		}
	}
	for k := range things {
		if t := &things[k]; t.Start >= m.End && (t.Start < phrase.End || s.modifiers(m.End, t.Start)) {
			return t
		}
	}
	for k := range things { // "1.2 mm thick (Breslow)"
		if t := &things[k]; t.Start == phrase.End+1 && s.tokens[phrase.End].Text == "(" && t.End < s.span.End && s.tokens[t.End].Text == ")" {
			return t
		}
	}
	if s.foreign(phrase, things) || !distance && s.setApart(m, things) {
		return nil
	}
	var before, after *thing
	for k := range things {
		switch t := &things[k]; {
		case t.End <= m.Start && !t.counts && before != nil && before.counts && s.reading().joint(t.End, m.Start): // "cyst, no solid nodule, 9 HU"
		case t.End <= m.Start && !(before != nil && before.counts && !before.possible && t.possible && !s.reading().joint(before.End, t.Start)):
			before = t // not what the one before is suspected to be: "nodule suspicious for tumor, 8 mm"
		case after == nil && t.Start >= m.End:
			after = t
		}
	}
	if before != nil {
		if s.otherSubject(Span{before.End, m.Start}, things) {
			return nil
		}
		return before
	}
	if after != nil && !s.reading().crosses(m.End, after.Start) && (distance && !s.reading().joint(m.End, after.Start) || !distance && !s.namedBefore(m)) {
		return after
	}
	return nil
}

// namedBefore reports whether the words right before a measurement name what it is of:
// "the aorta is 4 cm wide and the nodule …".
func (s *sentence) namedBefore(m measurement) bool {
	place := false // which needs a preposition: "in the right upper lobe 9 mm nodule", not "right kidney 11 cm"
	for i := m.Start - 1; i >= s.span.Start; i-- {
		switch t := s.tokens[i]; {
		case place && s.x.Engine.is(t, inside):
			return false
		case s.x.Engine.is(t, article) && i < m.Start-1 && !place:
			return false // "and a tiny (3 mm) cyst"
		case s.known(i):
			place = true
		case t.Text == "(" && i == m.Start-1: // "punch biopsy (4 mm)"
		case !t.Word && t.Text != "-" && (t.Text != "," || i < m.Start-1):
			return place
		case !t.Word, startsDigit(t.Text), closedWords[t.Text], sizeWords[t.Text], pastWords[t.Text], nowWords[t.Text], timeWords[t.Text], !s.mayBeNoun(i), s.x.Engine.is(t, opener|verb|existential):
		default:
			return true
		}
	}
	return place
}

// nounPhrase is the run of words from token i that a measurement there describes.
func (s *sentence) nounPhrase(i int) Span {
	p := Span{i, i}
	const longest = 10
	for p.End < s.span.End && p.End-i < longest {
		t := s.tokens[p.End]
		if t.Text == "-" && t.Space && p.End+1 < s.span.End && s.tokens[p.End+1].Space || p.End == i && (t.Text == "a" || nowWords[t.Text] || s.past(p.End) || actsOn(t.Text)) {
			break
		}
		if p.End > i && p.End+1 < s.span.End && closedWords[t.Text] && s.tokens[p.End-1].Text == "-" && s.tokens[p.End+1].Text == "-" && !t.Space {
			p.End++ // tree-in-bud
			continue
		}
		if t.Text != "-" && (!t.Word || closedWords[t.Text] || p.End == i && s.distant(i)) || p.End > i && s.x.Engine.is(t, article) {
			break
		}
		p.End++
	}
	return p
}

// sideWords are directions that are adjectives as well.
var sideWords = wordSet("superior inferior lateral medial anterior posterior distal proximal cephalad caudal cranial lower higher shorter longer")

// distant reports whether token i, right behind a measurement, makes it the way to somewhere:
// "2 cm superior to the carina", not "2 mm superior segment nodule".
func (s *sentence) distant(i int) bool {
	if t := s.tokens[i].Text; !distanceWords[t] || !sideWords[t] {
		return distanceWords[t]
	}
	next := i + 1
	return next >= s.span.End || !s.tokens[next].Word || closedWords[s.tokens[next].Text]
}

// actWords are verbs of what a thing does, which may stand right behind its size.
var actWords = wordSet("abuts encases invades extends displaces compresses occupies involves obstructs causes crosses contacts touches effaces narrows obscures enhances arises projects replaces")

// actsOn reports whether the word begins what the thing before it does: "13 mm abuts", "12 mm causing".
func actsOn(word string) bool {
	const shortest = 7
	return actWords[word] || len(word) >= shortest && strings.HasSuffix(word, "ing")
}

// foreign reports whether a noun phrase without a thing names something else.
func (s *sentence) foreign(p Span, things []thing) bool {
	for i := p.Start; i < p.End; i++ {
		if t := s.tokens[i]; t.Word && s.mayBeNoun(i) && !sizeWords[t.Text] && !startsDigit(t.Text) && lengths.factors[t.Text] == 0 && !s.known(i) {
			return true
		}
	}
	return false
}

// spanishNouns are the things beside lesions that Spanish reports measure.
var spanishNouns = wordSet(`aorta bazo higado rinon rinones conducto conductos via vias coledoco wirsung vena venas arteria arterias pared paredes cuello espesor utero prostata ovario
	ovarios vesicula vejiga apendice derrame neumotorax edema trombo cateter tubo cavidad cortes corte ventriculo ventriculos vertebra distancia grosor lamina liquido ascitis absceso
	calculo calculos hematoma quiste quistes ganglio ganglios tiroides silueta corazon traquea bronquio estomago asa asas colon margen margenes`)

// mayBeNoun reports whether token i may name a thing: German nouns have a capital, the Spanish
// ones that are measured are listed, any English word may, and of other languages it is not known.
func (s *sentence) mayBeNoun(i int) bool {
	switch t := s.tokens[i]; s.x.Engine.language {
	case "de":
		return (t.Capital || t.Upper) && len(t.Text) > 1
	case "es":
		return spanishNouns[t.Text]
	case unlisted:
		return false
	default:
		return true
	}
}

// known reports whether a phrase of the lexicon covers token i that tells a place or a look of
// a thing, and is none itself.
func (s *sentence) known(i int) bool {
	for k, m := range s.x.Lexicon.match {
		kind := s.x.Lexicon.Schema.Attributes[k].Kind
		if kind == schema.Numeric {
			continue
		}
		for _, f := range m.find(s.tokens, s.span) {
			if f.Start <= i && i < f.End && (kind == schema.Categorical || !s.measured(f.Span)) {
				return true
			}
		}
	}
	return false
}

// measured reports whether sizes of the lexicon belong to what the mention names.
func (s *sentence) measured(mention Span) bool {
	for k, m := range s.x.Lexicon.near {
		if m != nil && s.x.Lexicon.Schema.Attributes[k].Kind == schema.Numeric && len(m.find(s.tokens, mention)) > 0 {
			return true
		}
	}
	return false
}

// setApart reports whether the words about a measurement make it a distance, a slice, a
// margin, a change or a limit.
func (s *sentence) setApart(m measurement, things []thing) bool {
	if m.End < s.span.End {
		next := s.tokens[m.End]
		ahead := m.End+1 < s.span.End && (startsDigit(s.tokens[m.End+1].Text) || s.tokens[m.End+1].Text == ".")
		if s.distant(m.End) && !((toWords[next.Text] || fromWords[next.Text]) && ahead) {
			return true
		}
	}
	word := func(back int) string {
		if i := m.Start - back; i >= s.span.Start {
			return s.tokens[i].Text
		}
		return ""
	}
	if growthNouns[word(2)] && (word(1) == "of" || word(1) == "de" || word(1) == "von" || word(1) == "um") || word(1) == "um" && s.changes(s.span.Start, s.span.End) {
		return true
	}
	if m.End+1 < s.span.End && (s.tokens[m.End].Text == "von" || s.tokens[m.End].Text == "vom") && slices.ContainsFunc(s.tokens[m.End:min(m.End+6, s.span.End)], func(t Token) bool { return t.Text == "entfernt" }) {
		return true
	}
	if m.End < s.span.End && s.tokens[m.End].Text == "of" && slices.ContainsFunc(s.tokens[m.End:min(m.End+4, s.span.End)], func(t Token) bool { return effectWords[t.Text] }) {
		return true
	}
	if word(1) == "a" && m.End < s.span.End && (s.tokens[m.End].Text == "de" || s.tokens[m.End].Text == "del") {
		return true // "a 2 cm de la pleura"
	}
	limit := limitWords[word(1)] && word(2) != "-" || word(1) == "than" && limitWords[word(2)] || word(1) == "=" && limitWords[word(2)]
	if limit && (s.advises() || s.assess(m.Span).Negated || growthWords[word(2)] || growthWords[word(3)]) || s.reaches(m) || growthWords[word(1)] || word(1) == "by" {
		return true
	}
	if (word(1) == "<" || word(1) == "than" || word(1) == "under" || word(1) == "below") && s.advises() {
		return true
	}
	for back := 1; back <= 4; back++ {
		i := m.Start - back
		if i < s.span.Start || !s.tokens[i].Word && s.tokens[i].Text != ":" && (s.tokens[i].Text != "(" || back > 1) || covered(i, things) {
			break
		}
		if apartWords[s.tokens[i].Text] {
			return true
		}
	}
	return false
}

// effectWords are what a thing does to others, which "9 mm of" is then of: "9 mm of capsular contact".
var effectWords = wordSet("contact abutment encasement growth shift displacement retraction separation extension invasion narrowing compression shrinkage enlargement")

// reaches reports whether a measurement is what the thing does to something else: a contact
// "over a length of 3 cm", a vein compressed "to 5 mm", the "distance to the vein: 4 mm".
func (s *sentence) reaches(m measurement) bool {
	const far = 9
	last := ""
	if m.Start > s.span.Start {
		last = s.tokens[m.Start-1].Text
	}
	to, over := toWords[last], last == "over"
	for i := m.Start - 1; i >= max(s.span.Start, m.Start-far); i-- {
		switch t := s.tokens[i].Text; {
		case t == "," || t == ";" || t == "measures" || t == "measuring":
			return false
		case t == "over" && i+1 < m.Start && s.touches(i), t == "distance" || t == "clearance" || t == "abstand",
			over && strings.HasPrefix(t, "contact"), (over || last == "for") && (strings.HasPrefix(t, "abut") || strings.HasPrefix(t, "contact") || strings.HasPrefix(t, "touch")), to && strings.HasPrefix(t, "compress"), to && strings.HasPrefix(t, "narrow"), to && strings.HasPrefix(t, "displac"):
			return true
		}
	}
	return false
}

// touches reports whether a verb of contact stands before token i.
func (s *sentence) touches(i int) bool {
	for _, t := range s.tokens[s.span.Start:i] {
		for _, verb := range []string{"contact", "abut", "touch", "encas", "adher", "border", "compress", "surround", "displac"} {
			if strings.HasPrefix(t.Text, verb) {
				return true
			}
		}
	}
	return false
}

func covered(i int, things []thing) bool {
	for _, t := range things {
		if t.Start <= i && i < t.End {
			return true
		}
	}
	return false
}

func (s *sentence) advises() bool {
	for i := s.span.Start; i < s.span.End; i++ {
		if adviceWords[s.tokens[i].Text] {
			return true
		}
	}
	return false
}

// otherSubject reports whether the words between a thing and a measurement turn to
// something else: a semicolon, or a noun after a comma or "and" ("nodule, heart 12 cm").
func (s *sentence) otherSubject(between Span, things []thing) bool {
	turned, depth, noun, label := false, 0, false, between.Start <= s.span.Start+3
	aside := between.End > between.Start && s.tokens[between.End-1].Text == "(" // of all before it: "tumor in the body and tail (43 mm)"
	for i := between.Start; i < between.End; i++ {
		t := s.tokens[i]
		switch {
		case t.Text == "(" || t.Text == "[":
			depth++
		case t.Text == ")" || t.Text == "]":
			depth--
		case depth > 0:
		case t.Text == ";":
			turned, noun, label = true, false, false
		case aside && s.x.Engine.is(t, and) && !s.x.Engine.is(s.tokens[i+1], article|verb|opener):
		case t.Text == "," && !decimal(s.tokens, i) || s.x.Engine.is(t, and|with):
			turned, noun = true, false
		case anaphora[t.Text]:
			turned, noun = false, false
		case t.Text == ":" && label:
			turned, noun = false, false
		case densityWords[t.Text]:
			noun = false // "with fluid attenuation"
		case turned && t.Word && len(t.Text) > 1 && !strings.HasSuffix(t.Text, "eal") && !strings.HasSuffix(t.Text, "lar") && (s.x.Engine.language == unlisted || s.mayBeNoun(i)) && !closedWords[t.Text] && !sizeWords[t.Text] && !pastWords[t.Text] && !nowWords[t.Text] &&
			t.Text != "x" && !wasWords[t.Text] && !changeWords[t.Text] && !timeWords[t.Text] && !monthWords[t.Text] && !startsDigit(t.Text) && lengths.factors[t.Text] == 0 && !s.x.Engine.is(t, opener|verb|existential) && !covered(i, things) && !s.known(i):
			noun = true
		}
	}
	return turned && (noun || s.wholeOrgan(between.End))
}

// wholeOrgans have sizes of their own.
var wholeOrgans = wordSet("spleen kidney liver prostate uterus milz niere leber prostata bazo rinon higado")

// wholeOrgan reports whether an organ is named right before the measurement at token m, which is
// as large as one: "nodular surface, spleen 14 cm".
func (s *sentence) wholeOrgan(m int) bool {
	const least = 70
	i := m - 1
	for i > s.span.Start && (sizeWords[s.tokens[i].Text] || s.tokens[i].Text == ":" || s.x.Engine.is(s.tokens[i], verb)) {
		i--
	}
	if i < s.span.Start || !wholeOrgans[s.tokens[i].Text] || i > s.span.Start && s.x.Engine.is(s.tokens[i-1], inside|definite) {
		return false
	}
	size := lengths.measurements(s.tokens, Span{m, s.span.End})
	return len(size) > 0 && size[0].Start == m && size[0].values[0] >= least
}

// densityWords are what the words before them describe, and not a thing.
var densityWords = wordSet("attenuation density uptake activity avidity dichte densidad atenuacion")

// decimal reports whether the comma or full stop at token i stands in a number.
func decimal(tokens []Token, i int) bool {
	return (tokens[i].Text == "," || tokens[i].Text == ".") && i > 0 && i+1 < len(tokens) && !tokens[i+1].Space && startsDigit(tokens[i-1].Text) && startsDigit(tokens[i+1].Text)
}

// refWords take up the examination that a comparison is with.
var refWords = wordSet("since from than compared comparison versus vs comparado comparacion respecto seit desde")

// elsewhen reports whether the past word at token i is no time of a measurement at token to,
// with a comma or "and" between the two: it is of the measurement before, which ended at token
// from ("6 mm previously, 9 mm now"), or of what is compared ("stable since the prior, 8 mm").
func (s *sentence) elsewhen(i, from, to int) bool {
	r := s.reading()
	colon := slices.ContainsFunc(s.tokens[i:to], func(t Token) bool { return t.Text == ":" })
	if colon && i > s.span.Start && (s.tokens[i-1].Text == "als" || s.tokens[i-1].Text == "than") {
		return true // "smaller than before: 20 mm"
	}
	if !r.joint(i, to) || slices.ContainsFunc(s.tokens[from:i], func(t Token) bool { return t.Text == ";" }) {
		return false
	}
	for k := i; k >= max(from, i-3); k-- {
		if refWords[s.tokens[k].Text] {
			return true
		}
	}
	for k := i + 1; k+1 < to; k++ { // "4 cm, formerly 3 cm, and 30 HU"
		if lengths.factors[s.tokens[k].Text] != 0 && startsDigit(s.tokens[k-1].Text) && r.joint(k, to) {
			return true
		}
	}
	return from > s.span.Start && !r.joint(from, i)
}

// date reports whether one begins at token i: 12.04.2019, 2019-04-12, 3/14/20.
func (s *sentence) date(i int) bool {
	for k := i; k < i+5; k++ {
		if k >= s.span.End {
			return false
		}
		t := s.tokens[k]
		if k > i && t.Space || (k-i)%2 == 0 && !number(t.Text) || (k-i)%2 == 1 && t.Text != "/" && t.Text != "-" && t.Text != "." {
			return false
		}
	}
	return true
}

// columnsOf are the times of the cells of the table's lines that follow a line of their names,
// "Lesion | Current | Prior"; last are those of the line before.
func columnsOf(tokens []Token, span Span, last []timing) []timing {
	var out []timing
	cell, named := taken, false
	isBar := func(t Token) bool { return t.Text == "|" || t.Text == ";" }
	for i := span.Start; i < span.End; i++ {
		switch t := tokens[i]; {
		case isBar(t):
			out, cell = append(out, cell), taken
		case lengths.factors[t.Text] != 0 && startsDigit(tokens[max(i-1, span.Start)].Text), t.Text == ".", t.Text == ":":
			out = nil
			i = span.End
		case pastWords[t.Text] || monthWords[t.Text] || len(t.Text) == 3 && monthBegins(t.Text):
			cell, named = past, true
		case nowWords[t.Text]:
			named = true
		}
	}
	if len(out) > 0 && named {
		return append(out, cell)
	}
	if out := datedColumns(tokens, span); out != nil {
		return out
	}
	if !slices.ContainsFunc(tokens[span.Start:span.End], isBar) {
		return nil
	}
	return last
}

// datedColumns are the columns of a line of names with dates: the latest is now.
func datedColumns(tokens []Token, span Span) []timing {
	var when []int
	start := span.Start
	for i := span.Start; i <= span.End; i++ {
		if i < span.End && tokens[i].Text != "|" {
			continue
		}
		when, start = append(when, monthOf(tokens[start:i])), i+1
	}
	latest, dates := slices.Max(when), 0
	out := make([]timing, len(when))
	for k, w := range when {
		if w > 0 {
			dates++
		}
		if w > 0 && w < latest {
			out[k] = past
		}
	}
	if dates < 2 {
		return nil
	}
	return out
}

// monthOf is the month of a date (04/2023, 4/17/2023, 17.04.2023, 2023-04-17), counted from the
// year 0; 0 when the tokens are none.
func monthOf(tokens []Token) int {
	var numbers []int
	for _, t := range tokens {
		if n, err := strconv.Atoi(t.Text); err == nil {
			numbers = append(numbers, n)
		} else if t.Word {
			return 0
		}
	}
	const first = 1900
	switch n := len(numbers); {
	case n == 0 || n > 3:
	case numbers[0] >= first && n > 1:
		return numbers[0]*12 + numbers[1]
	case numbers[n-1] < first:
	case n == 3 && tokens[1].Text == ".":
		return numbers[2]*12 + numbers[1]
	case n == 1:
		return numbers[0] * 12
	default:
		return numbers[n-1]*12 + numbers[0]
	}
	return 0
}

// monthBegins reports whether a month begins with the three letters: "feb".
func monthBegins(letters string) bool {
	for m := range monthWords {
		if strings.HasPrefix(m, letters) {
			return true
		}
	}
	return false
}

// ordered is the time of a measurement of two with a stroke between, whose order the sentence
// names before a colon: "size (current/prior): 9 mm / 7 mm".
func (s *sentence) ordered(m measurement) timing {
	second := m.Start > s.span.Start && s.tokens[m.Start-1].Text == "/"
	if !second && (m.End >= s.span.End || s.tokens[m.End].Text != "/") {
		return unknownTime
	}
	for i := s.span.Start; i+2 < m.Start; i++ {
		if s.tokens[i+1].Text != "/" {
			continue
		}
		now, then := nowWords[s.tokens[i].Text] && s.past(i+2), s.past(i) && nowWords[s.tokens[i+2].Text]
		if now && second || then && !second {
			return past
		}
		if now || then {
			return taken
		}
	}
	return unknownTime
}

// column is the time of the table's column that a measurement stands in.
func (s *sentence) column(m measurement) timing {
	n := 0
	for _, t := range s.tokens[s.span.Start:m.Start] {
		if t.Text == "|" || t.Text == ";" {
			n++
		}
	}
	if n >= len(s.columns) || n == 0 {
		return unknownTime
	}
	return s.columns[n]
}

// unenhanced reports whether the "before" at token i is of contrast: "68 HU before contrast".
func (s *sentence) unenhanced(i int) bool {
	if t := s.tokens[i].Text; t != "before" && t != "vor" && t != "antes" && t != "prior" {
		return false
	}
	for k := i + 1; k < min(i+4, s.span.End); k++ {
		if contrastWords[s.tokens[k].Text] {
			return true
		}
	}
	return false
}

var contrastWords = wordSet("contrast enhancement injection administration gadolinium kontrastmittel km contraste")

// told reports whether nothing but a date and small words stands between the past word at token i
// and the bracket at token open: "on the prior of 3 April (21 mm)", not "smaller than on the prior
// and stable (21 mm)".
func (s *sentence) told(i, open int) bool {
	for _, t := range s.tokens[i+1 : open] {
		if t.Word && !startsDigit(t.Text) && !closedWords[t.Text] && !timeWords[t.Text] && !monthWords[t.Text] && !pastWords[t.Text] {
			return false
		}
	}
	return true
}

func number4(text string) bool { return len(text) == 4 && number(text) }

// monthYear reports whether one begins at token i: 07/22, 07/2022.
func (s *sentence) monthYear(i int) bool {
	return i+2 < s.span.End && number(s.tokens[i].Text) && s.tokens[i+1].Text == "/" && !s.tokens[i+1].Space && number(s.tokens[i+2].Text)
}

// bare reports whether a measurement stands alone in a bracket behind another of the same
// sentence, which it then is the former of: "14 x 9 mm (12 x 8 mm)".
func (s *sentence) bare(m measurement) bool {
	if m.Start-2 < s.span.Start || m.End >= s.span.End || s.tokens[m.Start-1].Text != "(" || s.tokens[m.End].Text != ")" {
		return false
	}
	for i := m.Start - 2; i >= max(s.span.Start, m.Start-5); i-- {
		if unit := s.tokens[i].Text; lengths.factors[unit] != 0 {
			return unit == s.tokens[m.End-1].Text && (i == m.Start-2 || !s.reading().joint(i, m.Start)) // "1.2 cm (12 mm)" says it twice
		}
	}
	return false
}

// arrow reports whether one and a number follow a measurement: "9 mm -> 12 mm", "9 mm -> now 12 mm".
func (s *sentence) arrow(i int) bool {
	for i < s.span.End && (s.tokens[i].Text == "-" || s.tokens[i].Text == "=") {
		i++
	}
	if i+1 >= s.span.End || !(s.tokens[i].Text == ">" && i > s.span.Start && (!s.tokens[i-1].Word && s.tokens[i-1].Text != ")" || lengths.factors[s.tokens[i-1].Text] != 0) || s.tokens[i].Text == "\u2192") {
		return false
	}
	if i++; nowWords[s.tokens[i].Text] {
		i++
	}
	return i < s.span.End && startsDigit(s.tokens[i].Text)
}

// when says by the words since the last measurement, and by the ones that follow, when a
// measurement was taken.
func (s *sentence) when(m measurement, from int) timing {
	was := false
	if s.arrow(m.End) || m.End < s.span.End && s.tokens[m.End].Text == "auf" && s.precedesNow(m) {
		return past
	}
	if s.bare(m) {
		return past
	}
	if c := s.ordered(m); c != unknownTime {
		return c
	}
	if c := s.column(m); c != unknownTime {
		return c
	}
	open := -1 // the bracket that the measurement stands in
	for i := m.Start - 1; i >= max(from, m.Start-9); i-- {
		t := s.tokens[i]
		switch {
		case t.Text == "(" && open < 0:
			open = i
		case i >= m.Start-3 && number4(t.Text) && year(t.Text) && !s.reading().joint(i, m.Start):
			was = true // "2019 noch 6 mm"
		case t.Text == ")": // what a closed bracket says is of what stands before it
			for i > from && s.tokens[i].Text != "(" {
				i--
			}
		case monthWords[t.Text]:
			was = true
		case t.Text == ";":
			i = s.span.Start - 1
		case s.date(i):
			was = true
		case s.unenhanced(i):
		case open >= 0 && s.past(i) && !s.told(i, open):
		case s.past(i) && s.elsewhen(i, from, m.Start):
		case s.past(i):
			return past
		case t.Text == "from" && i == m.Start-1 && s.changes(m.End, s.span.End) && s.toward(m.End):
			return past // "from 18 mm the lesion has grown to 26 mm"
		case t.Text == "de" && !s.precedesNow(m):
		case fromWords[t.Text] && (s.changes(from, i) || s.precedesNow(m) || i == m.Start-1 && s.changes(s.span.Start, i)):
			return past
		case nowWords[t.Text] && s.elsewhen(i, from, m.Start):
		case nowWords[t.Text]:
			return taken
		case wasWords[t.Text]:
			was = true
		}
	}
	for i := m.End; i < min(m.End+6, s.span.End); i++ {
		t := s.tokens[i]
		if !t.Word && t.Text != "-" || s.past(i) && !agoWords[t.Text] || t.Text == "than" || t.Text == "since" || t.Text == "from" || nowWords[t.Text] {
			break
		}
		if (t.Text == "on" || t.Text == "in" || t.Text == "am" || t.Text == "el") && (s.date(i+1) || s.monthYear(i+1)) {
			was = true
		}
		number := i+1 < s.span.End && startsDigit(s.tokens[i+1].Text)
		if s.unenhanced(i) || t.Text == "anterior" && !s.past(i) {
			continue
		}
		if i == m.End && year(t.Text) && number4(t.Text) {
			return past // "11 mm 2020"
		}
		if agoWords[t.Text] && !number || (t.Text == "in" || t.Text == "en" || t.Text == "im") && number && len(s.tokens[i+1].Text) == 4 {
			return past
		}
	}
	if was {
		return perhapsPast
	}
	return taken
}

// studyWords stand before the Spanish "anterior" that is of a time and not of a place.
var studyWords = wordSet("estudio examen control tc tac rm la al exploracion imagen informe valor medida")

// past reports whether token i tells of the past: "previously", "estudio anterior", not
// "anterior segment".
func (s *sentence) past(i int) bool {
	for _, t := range s.reading().tags[1] { // "not seen previously" is of the thing
		if t.role&pseudo != 0 && t.Start <= i && i < t.End && s.x.Engine.is(s.tokens[t.Start], negator) {
			return false
		}
	}
	switch t := s.tokens[i].Text; t {
	case "anterior":
		return i > s.span.Start && studyWords[s.tokens[i-1].Text]
	case "basal":
		return s.x.Engine.language == "es" && i+1 < s.span.End && s.tokens[i+1].Text == ":"
	case "vor": // Vor-CT
		return i+1 < s.span.End && s.tokens[i+1].Text == "-"
	default:
		return pastWords[t]
	}
}

// toward reports whether "to" and a number stand after token i.
func (s *sentence) toward(i int) bool {
	for ; i+1 < s.span.End; i++ {
		if s.tokens[i].Text == "to" && startsDigit(s.tokens[i+1].Text) {
			return true
		}
	}
	return false
}

// changes reports whether a word of change stands between tokens from and to.
func (s *sentence) changes(from, to int) bool {
	for _, t := range s.tokens[from:max(from, to)] {
		if changeWords[t.Text] {
			return true
		}
	}
	return false
}

// precedesNow reports whether "to" and a number follow the measurement.
func (s *sentence) precedesNow(m measurement) bool {
	return m.End+1 < s.span.End && toWords[s.tokens[m.End].Text] && startsDigit(s.tokens[m.End+1].Text)
}

// belongs reports whether a value belongs to a thing: not when it describes another noun
// that a row of other words parts from the thing ("irregular heart beat degrades the
// images of the nodule").
func (s *sentence) belongs(value Span, things []thing) bool {
	const far = 2
	if _, counted := numberWords[s.tokens[value.Start].Text]; counted && value.End-value.Start == 1 {
		if p := s.nounPhrase(value.End); s.foreign(p, nil) && !slices.ContainsFunc(things, func(t thing) bool { return t.Start < p.End && p.Start < t.End }) {
			return false // two radiologists
		}
	}
	for _, t := range things {
		if !t.counts {
			continue
		}
		if s.elsewhere(value, t) {
			continue
		}
		if t.Start < value.End {
			return true
		}
		others := 0
		for i := s.nounPhrase(value.End).End; i < t.Start; i++ {
			if w := s.tokens[i]; w.Word && !closedWords[w.Text] && !s.x.Engine.is(w, opener|verb|existential) && !s.known(i) && !startsDigit(w.Text) && lengths.factors[w.Text] == 0 {
				others++
			}
		}
		if others <= far || s.nounPhrase(value.End).End >= t.Start {
			return true
		}
	}
	return false
}

// elsewhere reports whether a semicolon or the like parts a value from a thing, and it
// describes another noun there: "the nodule is stable; the left kidney is normal".
func (s *sentence) elsewhere(value Span, t thing) bool {
	if !s.reading().crosses(min(value.End, t.End), max(value.Start, t.Start)) {
		return false
	}
	p := s.nounPhrase(value.End)
	return p.End > p.Start && (s.foreign(p, nil) || p.End < s.span.End && s.x.Engine.is(s.tokens[p.End], verb))
}
