package page

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/redact"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// Options of Gather.
type Options struct {
	// Compare names the systems, and how they are evaluated; no systems: data alone.
	Compare workflow.CompareOptions
	// Data is where pictures and attributes are; empty: the first run's own.
	Data, Reports string
	// Study is a folder of `alignedfusion study` whose table is shown too; may be empty.
	Study string
	// IDs shows ids of cases and patients and whole paths as they are.
	IDs bool
	// Version is the program's.
	Version string
}

// Gathered is a document with what its pictures are read from.
type Gathered struct {
	Document Document

	viewer *dataset.Viewer
	// shown are the data's cases, parallel to Document.Cases; nil where the data have none.
	shown []*dataset.Case
	names names
	runs  []*workflow.RunFiles // parallel to Document.Systems; nil for files
	data  *dataset.Dataset
	split string
	// drawn are the maps that stages drew over the pictures, by case and what they are called.
	drawn map[int]map[string]predictions.Map
}

// Gather reads everything the page shows but the pixels. Data that cannot be opened are a
// warning of the document where there are predictions to show without them.
func Gather(ctx context.Context, o Options) (*Gathered, error) {
	g := &Gathered{names: names{plain: o.IDs, known: map[string]string{}}}
	d := &g.Document
	*d = Document{SchemaVersion: DocumentVersion, Version: o.Version, Made: runs.Now(), Hashed: !o.IDs, Systems: []System{}, Cases: []Case{}}
	if err := g.readStudy(o.Study); err != nil {
		return nil, err
	}
	if len(o.Compare.Systems) == 0 {
		if err := g.openData(o); err != nil || o.Data == "" {
			return g, err
		}
		g.dataAlone()
		return g, nil
	}
	by := o.Compare.FROC.Strata
	o.Compare.FROC.Strata = nil // evaluated here, with the data's own
	found, err := workflow.Compare(ctx, o.Compare)
	if err != nil {
		return nil, err
	}
	g.split = found.Split
	for _, s := range o.Compare.Systems {
		g.names.paths = append(g.names.paths, s.Path)
		if err := g.addSystem(s); err != nil {
			return nil, err
		}
	}
	if err := g.openData(o); err != nil {
		if o.Data != "" {
			return nil, err
		}
		d.Warnings = append(d.Warnings, fmt.Sprintf("no pictures and no attributes: the run's data cannot be opened (%v); say with --data where they are", err))
	}
	if found.Detection != nil {
		d.Task = config.Detect
		err = g.addDetection(found.Detection, by)
	} else {
		d.Task = config.Classify
		g.addClassification(found.Classification, found.Measured)
	}
	if err != nil {
		return nil, err
	}
	if g.runs[0] != nil {
		d.Split = found.Split
	}
	d.Warnings = append(found.Warnings, d.Warnings...)
	for i, s := range o.Compare.Systems {
		if err := g.addAnswers(i, s.Path); err != nil {
			return nil, err
		}
	}
	d.Checklist = g.checklist()
	d.Title = g.title()
	g.hide()
	return g, nil
}

func (g *Gathered) title() string {
	var names []string
	for _, s := range g.Document.Systems {
		names = append(names, s.Name)
	}
	title := strings.Join(names, ", ")
	if g.Document.Split != "" {
		title += " on " + g.Document.Split
	}
	return title
}

// addSystem reads what a run says about itself.
func (g *Gathered) addSystem(s workflow.System) error {
	out := System{Name: s.Name}
	if !runs.IsRun(s.Path) {
		g.runs, g.Document.Systems = append(g.runs, nil), append(g.Document.Systems, out)
		return nil
	}
	r, err := workflow.ReadRun(s.Path)
	if err != nil {
		return err
	}
	out.Manifest, out.Calibration = r.Manifest, r.Calibration.String()
	if r.Schema == nil {
		out.Calibration = ""
	}
	text, err := os.ReadFile(filepath.Join(s.Path, runs.ConfigFile))
	if err != nil {
		return err
	}
	records, err := runs.ReadMetrics(s.Path)
	if err != nil {
		return fault.Wrap(fault.Data, err)
	}
	out.Config, out.Training = string(text), thinned(records)
	g.runs, g.Document.Systems = append(g.runs, r), append(g.Document.Systems, out)
	return nil
}

// trainingPoints bounds the steps of a curve of training; all validations are kept.
const trainingPoints = 400

// thinned keeps every n-th step.
func thinned(records []runs.Record) []runs.Record {
	every := 1 + len(records)/trainingPoints
	out := []runs.Record{}
	for i, r := range records {
		if r.Kind != "step" || i%every == 0 {
			out = append(out, r)
		}
	}
	return out
}

// readStudy reads the table of a study.
func (g *Gathered) readStudy(dir string) error {
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, "table.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.Errorf(fault.Usage, "--study %s: there is no table.json in it; `alignedfusion study` writes one at its end", dir)
	}
	if err != nil {
		return err
	}
	var head struct {
		SchemaVersion int    `json:"schema_version"`
		Metric        string `json:"metric"`
		Rows          []struct {
			Method  string                     `json:"method"`
			Figures map[string]json.RawMessage `json:"figures"`
		} `json:"rows"`
	}
	err = json.Unmarshal(data, &head)
	if err == nil && (head.SchemaVersion != 1 || head.Metric == "" || head.Rows == nil) {
		err = errors.New("schema_version 1, a metric or rows are missing")
	}
	for i, r := range head.Rows {
		if err == nil && (r.Method == "" || r.Figures == nil) {
			err = fmt.Errorf("row %d has no method, or no figures", i+1)
		}
	}
	if err != nil {
		return fault.Errorf(fault.Data, "%s is not the table that `alignedfusion study` writes: %v", path, err)
	}
	g.Document.Study = json.RawMessage(data)
	g.Document.Title = "Study " + filepath.Base(dir)
	return nil
}

// openData opens the data that were asked for, or those of the first run.
func (g *Gathered) openData(o Options) (err error) {
	i := slices.IndexFunc(g.runs, func(r *workflow.RunFiles) bool { return r != nil && r.Schema != nil })
	if i < 0 {
		i = slices.IndexFunc(g.runs, func(r *workflow.RunFiles) bool { return r != nil })
	}
	switch {
	case i >= 0:
		r := g.runs[i]
		given, err := r.OpenData(workflow.PredictOptions{Data: o.Data, Reports: o.Reports, Split: g.split})
		if err != nil {
			return err
		}
		g.data = given.Data
		if r.Schema != nil {
			for _, a := range r.Schema.Attributes {
				g.Document.Attributes = append(g.Document.Attributes, Attribute{a.Name, a.Kind, a.Values, r.Priors[a.Name]})
			}
		}
		if g.data.Hash != r.Manifest.DataSHA256 {
			g.Document.Warnings = append(g.Document.Warnings, "the pictures and attributes shown are of data other than the run's")
		}
	case o.Data != "":
		if g.data, err = dataset.Open(o.Data, dataset.Options{Task: dataset.Detect}); err != nil {
			return err
		}
		for _, name := range g.data.AttributeColumns {
			g.Document.Attributes = append(g.Document.Attributes, Attribute{Name: name, Values: []string{}})
		}
	default:
		return nil
	}
	g.viewer = g.data.Viewer()
	return nil
}

// reachOfSlices is how many neighbours a key slice has at most, on either side.
const reachOfSlices = 64

// addCases makes the document's cases of their ids; patients may be nil.
func (g *Gathered) addCases(ids []string, patient func(i int) string) {
	at := map[string]*dataset.Case{}
	if g.data != nil {
		for i := range g.data.Cases {
			at[g.data.Cases[i].ID] = &g.data.Cases[i]
		}
	}
	strangers := 0
	for i, id := range ids {
		c := Case{ID: g.names.of(id)}
		if p := patient(i); p != "" {
			c.Patient = g.names.of(p)
		}
		source := at[id]
		if source == nil {
			strangers++
		} else {
			g.describe(&c, source)
		}
		g.Document.Cases, g.shown = append(g.Document.Cases, c), append(g.shown, source)
	}
	if g.data != nil && strangers > 0 {
		g.Document.Warnings = append(g.Document.Warnings, fmt.Sprintf("%d of %d images are not among the data's cases: they have no picture", strangers, len(ids)))
	}
}

// describe adds what the data say of a case.
func (g *Gathered) describe(c *Case, from *dataset.Case) {
	c.Height, c.Width, c.SpacingMM, c.Key = from.Size[0], from.Size[1], from.SpacingMM, from.KeySlice
	if from.Patient != "" {
		c.Patient = g.names.of(from.Patient)
	}
	for _, m := range g.data.Modalities {
		if from.Images[m] != "" {
			c.Modalities = append(c.Modalities, m)
		}
	}
	c.Low, c.High = g.viewer.Slices(from, reachOfSlices)
	for _, a := range g.Document.Attributes {
		cell := from.Attributes.Cell(a.Name)
		out := Cell{State: cell.State.String(), Text: cell.Raw, Words: cell.Evidence.Quote}
		if cell.State != schema.Unmentioned && a.Kind != "" {
			if cell.Value >= 0 && cell.Value < len(a.Values) && (a.Kind != schema.Numeric || out.Text == "") {
				out.Text = a.Values[cell.Value]
			}
		}
		c.Cells = append(c.Cells, out)
	}
}

// dataAlone shows the cases and their reference boxes.
func (g *Gathered) dataAlone() {
	var ids []string
	for i := range g.data.Cases {
		ids = append(ids, g.data.Cases[i].ID)
	}
	g.addCases(ids, func(i int) string { return g.data.Cases[i].Patient })
	for i := range g.data.Cases {
		for _, b := range g.data.Cases[i].Boxes {
			g.Document.Lesions = append(g.Document.Lesions, Lesion{Case: i, Box: []float64{b.X1, b.Y1, b.X2, b.Y2}})
		}
	}
	g.Document.Title, g.Document.Warnings = g.data.Spec, g.data.Warnings
	g.hide()
}

// addAnswers adds what a run keeps beside its predictions: recovered attributes, and answers
// to other reports.
func (g *Gathered) addAnswers(system int, path string) error {
	if g.runs[system] == nil {
		return nil
	}
	dir := predictions.Dir(path, g.split)
	index := map[string]int{}
	for i, c := range g.shown {
		if c != nil {
			index[c.ID] = i
		}
	}
	if err := g.addMaps(system, filepath.Join(dir, predictions.VisualsDir), index); err != nil {
		return fault.Wrap(fault.Data, err)
	}
	file := filepath.Join(dir, predictions.ReconstructionFile)
	switch recovered, _, err := predictions.ReadReconstructions(file); {
	case err == nil:
		out := map[int][]predictions.Reconstructed{}
		for id, all := range recovered {
			if i, ok := index[id]; ok && len(all) > 0 {
				out[i] = all
			}
		}
		g.Document.Systems[system].Recovered = out
	case !errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(fault.Data, err)
	}
	other, err := predictions.ReadCounterfactuals(filepath.Join(dir, predictions.CounterfactualFile))
	if err != nil || other == nil {
		return fault.Wrap(fault.Data, err)
	}
	if g.Document.Detection != nil {
		return fault.Wrap(fault.Data, g.addOtherScores(&g.Document.Detection.Systems[system], other, file))
	}
	all := map[predictions.CounterfactualKind][][][]float64{}
	for id, kinds := range other.Cases {
		for kind, answer := range kinds {
			if all[kind] == nil {
				all[kind] = make([][][]float64, len(g.Document.Cases))
			}
			if i, ok := index[id]; ok {
				all[kind][i] = answer.Probabilities
			}
		}
	}
	g.Document.Systems[system].Counterfactual = all
	return nil
}

// addMaps shows the maps that a run's stages drew as further pictures of the cases, whose
// places are in index.
func (g *Gathered) addMaps(system int, dir string, index map[string]int) error {
	visuals, err := predictions.ReadVisuals(dir)
	if err != nil || len(visuals) == 0 {
		return err
	}
	if g.drawn == nil {
		g.drawn = map[int]map[string]predictions.Map{}
		g.Document.Notes = append(g.Document.Notes, "maps drawn over a picture go from the case's least value (clear) to its greatest (yellow)")
	}
	for id, drawn := range visuals {
		i, known := index[id]
		if !known || len(g.Document.Cases[i].Modalities) == 0 {
			continue
		}
		if g.drawn[i] == nil {
			g.drawn[i] = map[string]predictions.Map{}
		}
		for _, name := range slices.Sorted(maps.Keys(drawn)) {
			short, _ := ports.Visuals.Member(name)
			if len(g.Document.Systems) > 1 {
				short += " of " + strings.ReplaceAll(g.Document.Systems[system].Name, "/", "_")
			}
			g.drawn[i][short] = drawn[name]
			g.Document.Cases[i].Modalities = append(g.Document.Cases[i].Modalities, short)
		}
	}
	return nil
}

// addOtherScores puts the scores with other reports beside the marks, which stand in the
// order of the predictions of each case.
func (g *Gathered) addOtherScores(d *Detector, other *predictions.Counterfactuals, path string) error {
	nth := make([]int, len(g.Document.Cases))
	d.Other = map[predictions.CounterfactualKind][]*float64{}
	for _, kind := range predictions.CounterfactualKinds() {
		d.Other[kind] = make([]*float64, len(d.Case))
	}
	for k, i := range d.Case {
		if g.shown[i] == nil {
			continue
		}
		for kind, answer := range other.Cases[g.shown[i].ID] {
			if nth[i] >= len(answer.Scores) {
				return fmt.Errorf("%s: case %q has %d scores and more boxes: predict again with --counterfactuals", path, g.shown[i].ID, len(answer.Scores))
			}
			if d.Other[kind] != nil {
				d.Other[kind][k] = answer.Scores[nth[i]]
			}
		}
		nth[i]++
	}
	return nil
}

// addClassification adds labels and probabilities, numbers and times with their answers.
func (g *Gathered) addClassification(sets []*workflow.Classification, measured []*workflow.Measured) {
	index := map[string]int{}
	var ids, patients []string
	placesOf := func(of, whose []string) []int {
		places := make([]int, len(of))
		for k, id := range of {
			if _, known := index[id]; !known {
				index[id] = len(ids)
				ids, patients = append(ids, id), append(patients, whose[k])
			}
			places[k] = index[id]
		}
		return places
	}
	d := &g.Document
	for _, set := range sets {
		out := Classified{Classification: set, Label: set.Results[0].Result.Labels, Case: placesOf(set.IDs, set.Patients), Set: set.Set}
		for _, r := range set.Results {
			out.Probability = append(out.Probability, r.Result.Probabilities)
		}
		d.Classified, d.Notes = append(d.Classified, out), append(d.Notes, set.Notes...)
	}
	for _, set := range measured {
		out := Measured{Measured: set, Case: placesOf(set.IDs, set.Patients)}
		for _, a := range set.Answers {
			switch a := a.(type) {
			case *classify.Numbers:
				truth, answer := a.Pairs()
				out.Truth, out.Answer = truth, append(out.Answer, answer)
			case *classify.Times:
				out.Truth, out.Event = a.Truth()
				out.Answer = append(out.Answer, a.Expected())
			}
		}
		d.Measured, d.Notes = append(d.Measured, out), append(d.Notes, set.Notes...)
	}
	g.addCases(ids, func(i int) string { return patients[i] })
}

// hide puts pseudonyms in the place of ids, and the last name in that of paths, in texts.
func (g *Gathered) hide() {
	d := &g.Document
	texts := []*string{&d.Title}
	for _, list := range [][]string{d.Warnings, d.Notes} {
		for i := range list {
			texts = append(texts, &list[i])
		}
	}
	for i := range d.Checklist {
		texts = append(texts, &d.Checklist[i].Text)
	}
	for i := range d.Systems {
		s := &d.Systems[i]
		texts = append(texts, &s.Config)
		if s.Manifest != nil {
			m := *s.Manifest
			m.Warnings, m.Notes = slices.Clone(m.Warnings), slices.Clone(m.Notes)
			s.Manifest = &m
			texts = append(texts, &m.DataSpec, &m.Reports)
			for _, list := range [][]string{m.Warnings, m.Notes} {
				for k := range list {
					texts = append(texts, &list[k])
				}
			}
		}
	}
	for _, t := range texts {
		*t = g.names.within(*t)
	}
}

// names are what ids are called in the document.
type names struct {
	plain bool
	known map[string]string
	paths []string // of the systems
}

func (n names) of(id string) string {
	if n.plain {
		return id
	}
	if n.known[id] == "" {
		n.known[id] = dataset.Pseudonym(id)
	}
	return n.known[id]
}

// within hides the ids in a text that stand in quotes, and the folders of paths.
func (n names) within(text string) string {
	if n.plain {
		return text
	}
	text = redact.Quoted(text, func(q string) string { return cmp.Or(n.known[q], q) })
	for _, path := range n.paths {
		if filepath.Base(path) == path {
			continue
		}
		text = strings.ReplaceAll(text, path, "…/"+filepath.Base(path))
	}
	return redact.Folders(text)
}

// number keeps JSON from what it cannot hold.
func number(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return -1
	}
	return v
}

// corners are a region's x1 y1 x2 y2, and z1 z2 where it is not in the plane.
func corners(r *froc.Region) []float64 {
	low, high := r.Bounds()
	out := []float64{low[0], low[1], high[0], high[1]}
	if k := r.Kind(); k != froc.KindBox2D && k != froc.KindPoint2D {
		out = append(out, low[2], high[2])
	}
	for i := range out {
		out[i] = math.Round(number(out[i])*100) / 100
	}
	return out
}
