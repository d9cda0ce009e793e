package feed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/attributes"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// Sources say where a data set's attributes come from.
type Sources struct {
	// Columns of the data; nil takes the configuration's choice.
	Columns []string
	// Schema, unless nil, takes the place of Columns: its attributes are columns of the data
	// or of the reports.
	Schema *schema.Schema
	// Reports are joined to the cases; nil: none.
	Reports *attributes.Reports
}

// OpenData opens a data set for a configuration's task. An error wraps dataset.ErrData.
func OpenData(spec string, c *config.Config, labels []sdk.LabelSet, from Sources) (*dataset.Dataset, error) {
	o := dataset.Options{Task: dataset.Task(c.Task), LabelSets: labels, Attributes: from.Columns, Schema: from.Schema}
	o.Asked = c.Head.Settings["question"]
	if _, err := sdk.ParseQuestions(o.Asked); err != nil {
		return nil, &config.Error{Err: fmt.Errorf("head.question: %w", err)}
	}
	if from.Columns == nil && c.Attributes != nil {
		o.Attributes = append([]string{}, *c.Attributes...)
	}
	if r := from.Reports; r != nil {
		o.Reports, o.ReportsPath = r.Table, r.Path
	}
	if c.Fusion.Plugin == config.None || c.Report.Tokens != config.PerAttribute && o.Attributes == nil {
		o.Attributes = []string{} // nobody would read them
	}
	d, err := dataset.Open(spec, o)
	if err != nil {
		return nil, err
	}
	if string(d.Task) != c.Task {
		return nil, fmt.Errorf("%w: %s is data for --task %s, the task is %s", dataset.ErrData, spec, d.Task, c.Task)
	}
	if from.Reports != nil {
		d.Warnings = append(d.Warnings, from.Reports.Warnings...)
	}
	return d, nil
}

// TrainingData are the cases that a run learns from and is validated on.
type TrainingData struct {
	Data                 *dataset.Dataset
	Training, Validation []dataset.Case
	Labels               []sdk.LabelSet
	// Schema of the attributes; nil when the pipeline reads none.
	Schema *schema.Schema
	// Modes are what data.impute=mode puts where an attribute is missing.
	Modes    map[string]schema.Cell
	Warnings []string
	// Reports that were joined to the cases; nil: none.
	Reports *attributes.Reports
	// NoTargets says of which training case the boxes are not known; nil where they are of all.
	// Stages that take no targets do without.
	NoTargets error

	config *config.Config
	// fixed is the schema that is given; nil when it is learnt from the training cases.
	fixed *schema.Schema
}

// PrepareTraining opens the data of a new run and chooses labels and attributes from
// the training split. c must be resolved.
func PrepareTraining(c *config.Config) (*TrainingData, error) {
	t := &TrainingData{config: c}
	if err := t.open(nil); err != nil {
		return nil, err
	}
	if err := t.Data.Scale(t.Training, c.DataSettings.Intervals); err != nil {
		return nil, err
	}
	t.Labels = slices.Clone(t.Data.Labels)
	if t.config.DataSettings.ClassWeights == config.Balanced {
		balance(t.Labels, t.Training)
	}
	if t.config.Fusion.Plugin == config.None {
		return t, nil
	}
	if err := t.chooseSchema(); err != nil || t.Schema == nil {
		return t, err
	}
	if t.config.DataSettings.Impute == config.ImputeMode {
		t.Modes = dataset.Modes(t.Schema, t.Training)
		t.Data.Cases = dataset.Fill(t.Data.Cases, t.Modes)
	}
	return t, nil
}

// chooseSchema takes the schema that is given, or learns one from the training cases, and
// binds the cases to it.
func (t *TrainingData) chooseSchema() (err error) {
	if t.Schema = t.fixed; t.fixed == nil {
		var warnings []string
		unselected := t.Reports != nil && t.Reports.Unselected
		t.Schema, warnings, err = SchemaOf(t.Data, t.Training, unselected)
		t.Warnings = append(t.Warnings, warnings...)
		if err != nil || t.Schema == nil {
			return err
		}
	}
	for _, name := range t.Schema.Names() {
		if !slices.Contains(t.Data.AttributeColumns, name) {
			return fmt.Errorf("%w: schema %s: attribute %q is a column neither of %s nor of reports (%q)", dataset.ErrData, t.config.Schema, name, t.config.Data, t.config.Reports)
		}
	}
	return t.Data.Bind(t.Schema, t.fixed != nil)
}

// readSources reads the schema and the reports that the configuration names.
func (t *TrainingData) readSources() (err error) {
	c := t.config
	if c.Report.Tokens != config.PerAttribute && c.Fusion.Plugin != config.None && c.Reports == "" {
		if c.Reports, err = ReportsOf(c.Data); err != nil {
			return &config.Error{Err: fmt.Errorf("report.tokens=%s: %w", c.Report.Tokens, err)}
		}
	}
	if c.Reports == "" && c.Schema == "" {
		return nil
	}
	switch {
	case c.Fusion.Plugin == config.None:
		return &config.Error{Err: errors.New("reports and a schema are given, and there is no fusion that would read them; choose one with --fusion")}
	case t.Schema != nil:
		t.fixed = t.Schema // the run's own
	case c.Schema != "" && c.Attributes != nil:
		return &config.Error{Err: errors.New("attributes and a schema are given; the schema names the attributes")}
	case c.Schema != "":
		if t.fixed, err = attributes.ReadSchema(c.Schema); err != nil {
			return err
		}
	}
	if c.Reports != "" {
		t.Reports, err = LoadReports(c, c.Reports, t.fixed)
	}
	return err
}

// LoadReports reads reports as report.tokens and report.lexicon say.
func LoadReports(c *config.Config, path string, s *schema.Schema) (*attributes.Reports, error) {
	if c.Report.Tokens == config.PerAttribute {
		lexicon := string(c.Report.Lexicon)
		if c.Report.Lexicon == config.AnyLexicon {
			lexicon = ""
		}
		return attributes.Load(context.Background(), path, lexicon, s)
	}
	return attributes.LoadText(context.Background(), path, c.Report.Tokens == config.PerSentence, s)
}

// ReportsOf is the reports.csv that lies with the data of a spec.
func ReportsOf(spec string) (string, error) {
	_, path, _ := strings.Cut(spec, ":")
	path, _, _ = strings.Cut(path, "?")
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		path = filepath.Dir(path)
	}
	file := filepath.Join(path, "reports.csv")
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("want --reports FILE, for there is no %s", filepath.ToSlash(file))
	}
	return file, nil
}

// sources are where the cases' attributes come from.
func (t *TrainingData) sources() Sources { return Sources{Schema: t.fixed, Reports: t.Reports} }

// ReopenTraining opens the data of a run that goes on, with the labels, schema and modes
// it began with.
func ReopenTraining(c *config.Config, labels []sdk.LabelSet, s *schema.Schema, modes map[string]schema.Cell) (*TrainingData, error) {
	t := &TrainingData{config: c, Labels: labels, Schema: s, Modes: modes}
	if err := t.open(labels); err != nil {
		return nil, err
	}
	if s == nil {
		return t, nil
	}
	if err := t.Data.Bind(s, false); err != nil {
		return nil, err
	}
	t.Data.Cases = dataset.Fill(t.Data.Cases, t.Modes)
	return t, nil
}

func (t *TrainingData) open(labels []sdk.LabelSet) (err error) {
	c := t.config
	if err := t.readSources(); err != nil {
		return err
	}
	if t.Data, err = OpenData(c.Data, c, labels, t.sources()); err != nil {
		return err
	}
	if err := MaskAttributes(t.Data, c, nil); err != nil {
		return &config.Error{Err: err}
	}
	if t.Training, err = t.Data.Split(c.DataSettings.TrainSplit); err != nil {
		return err
	}
	t.Training = dataset.KeySlices(t.Training)
	if t.NoTargets = needTargets(t.Data, t.Training, "nothing can be learned from them"); t.NoTargets != nil && c.Task == config.Classify {
		return t.NoTargets
	}
	t.Training = fraction(t.Training, c.DataSettings.TrainFraction, uint64(c.DataSettings.MissingSeed))
	if n := len(t.Training); c.Given("train.batch_size") && c.Train.BatchSize > n {
		t.Warnings = append(t.Warnings, fmt.Sprintf("train.batch_size is %d and %d cases are trained on: every step sees all of them", c.Train.BatchSize, n))
	}
	if c.DataSettings.ValidationSplit == "" {
		t.warnOfSplits()
		return nil
	}
	if t.Validation, err = t.Data.Split(c.DataSettings.ValidationSplit); err != nil {
		return fmt.Errorf("%w; the best checkpoint is chosen on a validation split (data.validation_split; empty: none, the last checkpoint is the best)", err)
	}
	t.warnOfSplits()
	return needTargets(t.Data, t.Validation, "the best checkpoint cannot be chosen on them")
}

// warnOfSplits names splits that the run does not use, for a misspelt one would lose its
// cases in silence (the test split is not meant to be used), and those it uses twice.
func (t *TrainingData) warnOfSplits() {
	c := &t.config.DataSettings
	counts := t.Data.Splits()
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		trained, validated := dataset.InSplit(name, c.TrainSplit), validatedOn(c, name)
		switch {
		case trained && validated:
			t.Warnings = append(t.Warnings, fmt.Sprintf("the %d cases of split %q are trained on and validated on: what is measured there says nothing about other cases", counts[name], name))
		case !trained && !validated && name != "test":
			t.Warnings = append(t.Warnings, fmt.Sprintf("%d cases are in split %q, which is not used: this run trains on %q and validates on %q",
				counts[name], name, c.TrainSplit, c.ValidationSplit))
		}
	}
}

// needTargets names the first of a split's cases that have no targets.
func needTargets(d *dataset.Dataset, cases []dataset.Case, why string) error {
	if d.Task == dataset.Classify && len(d.Labels) == 0 {
		return fmt.Errorf("%w: %s: there is no label column: want label, or label.NAME for each of several tasks (or name it: ?labels=COLUMN)", dataset.ErrData, d.Spec)
	}
	for i := range cases {
		if c := &cases[i]; !c.HasTargets {
			return fmt.Errorf("%w: %s: split %q has cases without targets, the first is %q: %s", dataset.ErrData, c.Origin(), c.Split, c.ID, why)
		}
	}
	return nil
}

// Repeated are the cases whose tokens serve more than once: those of the validation,
// and those of the training unless they are varied at random.
func (t *TrainingData) Repeated() []dataset.Case {
	c := &t.config.DataSettings
	if c.Augment != config.AugmentNone || c.Crop > 0 {
		return t.Validation
	}
	return slices.Concat(t.Training, t.Validation)
}

// Table are the cases of a configuration with the attributes that are left to them.
type Table struct {
	Data                 *dataset.Dataset
	Training, Validation []dataset.Case
	// Cases of the split asked for, at the rate asked for.
	Cases  []dataset.Case
	Labels []sdk.LabelSet
	Schema *schema.Schema
}

// ReadTable reads what a method needs that has no plugins: training and validation
// cases as Train sees them, and a split as Predict sees it. c must be resolved. The
// data must have attributes.
func ReadTable(c *config.Config, split string, rate *float64) (*Table, error) {
	plain := *c
	plain.Fusion = config.Stage{Plugin: "reports"} // so that attributes are read
	t, err := PrepareTraining(&plain)
	if err != nil {
		return nil, err
	}
	if t.Schema == nil {
		return nil, &config.Error{Err: fmt.Errorf("%s has no attributes to learn from", c.Data)}
	}
	d, err := OpenData(c.Data, &plain, nil, t.sources())
	if err != nil {
		return nil, err
	}
	if err := MaskAttributes(d, c, rate); err != nil {
		return nil, &config.Error{Err: err}
	}
	if err := d.Bind(t.Schema, false); err != nil {
		return nil, err
	}
	cases, err := d.Split(split)
	return &Table{Data: d, Training: t.Training, Validation: t.Validation, Cases: cases, Labels: t.Labels, Schema: t.Schema}, err
}

// TrainingCases counts the cases that a configuration trains on. c must be resolved.
func TrainingCases(c *config.Config) (int, error) {
	t := &TrainingData{config: c}
	err := t.open(nil)
	return len(t.Training), err
}
