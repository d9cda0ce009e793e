package study

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
)

// Scenario says where attributes are missing: in training (and validation), in the
// split that is predicted, or both.
type Scenario struct {
	Name string
	// Train and Test are the rates; below 0 the point's own.
	Train, Test float64
}

var scenarioForm = regexp.MustCompile(`^(C|M)(\d+)?-Tr\+(C|M)(\d+)?-Te$`)

// ParseScenario reads M-Tr+C-Te, C-Tr+M-Te, M-Tr+M-Te or C-Tr+C-Te: M is missing at
// the rate of the table's column, C complete, and M50 missing at 50 % in every column.
func ParseScenario(text string) (Scenario, error) {
	m := scenarioForm.FindStringSubmatch(text)
	if m == nil {
		return Scenario{}, fmt.Errorf("scenario %q: want M-Tr+C-Te, C-Tr+M-Te, M-Tr+M-Te (M50-Tr: 50 %% in all columns)", text)
	}
	rate := func(kind, percent string) (float64, error) {
		switch {
		case kind == "C" && percent == "":
			return 0, nil
		case kind == "C":
			return 0, fmt.Errorf("scenario %q: complete has no percentage", text)
		case percent == "":
			return -1, nil
		}
		v, err := strconv.Atoi(percent)
		if err != nil || v > 100 {
			return 0, fmt.Errorf("scenario %q: %s %% is more than all", text, percent)
		}
		return float64(v) / 100, nil
	}
	train, err := rate(m[1], m[2])
	if err != nil {
		return Scenario{}, err
	}
	test, err := rate(m[3], m[4])
	return Scenario{text, train, test}, err
}

// Point is a column of the table: what the methods are compared on.
type Point struct {
	Scenario string
	// Rate is the column's missing rate, TrainRate and TestRate what comes of it.
	Rate, TrainRate, TestRate float64
	// Fraction is the share of the training patients.
	Fraction float64
}

// Model is what is trained once: cells that differ in the test's rate share it.
type Model struct {
	Method         Method
	Rate, Fraction float64
	Seed           uint64
	// Fold is the split that the model is not trained on and predicts; empty without folds.
	Fold string
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// Name is the model's folder below DIR/runs.
func (m Model) Name() string {
	name := fmt.Sprintf("%s_tr%s", m.Method.Name, number(m.Rate))
	if m.Fraction != 1 {
		name += "_f" + number(m.Fraction)
	}
	if m.Fold != "" {
		name += "_" + m.Fold
	}
	return fmt.Sprintf("%s_s%d", name, m.Seed)
}

// Cell is one model predicted at one missing rate.
type Cell struct {
	Model
	TestRate float64
}

// Name is the cell's folder below DIR/cells, and what --only takes.
func (c Cell) Name() string { return fmt.Sprintf("%s_te%s", c.Model.Name(), number(c.TestRate)) }

// Block is a grid of points and methods.
type Block struct {
	Points  []Point
	Methods []Method
}

// Plan is what a study runs.
type Plan struct {
	Blocks []Block
	Seeds  []uint64
	// Folds are the splits of `data split --folds`, each of which is predicted by models that
	// the others trained; empty: Options.Split is predicted.
	Folds []string
}

// folds are those of the plan, or one that is none.
func (p Plan) folds() []string {
	if len(p.Folds) == 0 {
		return []string{""}
	}
	return p.Folds
}

// Points crosses scenarios with rates, and fractions with both.
func Points(scenarios []Scenario, rates, fractions []float64) []Point {
	var points []Point
	for _, s := range scenarios {
		for _, f := range fractions {
			for _, r := range rates {
				p := Point{Scenario: s.Name, Rate: r, TrainRate: s.Train, TestRate: s.Test, Fraction: f}
				if p.TrainRate < 0 {
					p.TrainRate = r
				}
				if p.TestRate < 0 {
					p.TestRate = r
				}
				points = append(points, p)
			}
		}
	}
	return points
}

// cell is a method's cell at a point. A method that reads no attributes is trained and
// predicted once for all rates.
func (p Point) cell(m Method, seed uint64, fold string) Cell {
	c := Cell{Model{m, p.TrainRate, p.Fraction, seed, fold}, p.TestRate}
	if !m.attributes() {
		c.Rate, c.TestRate = 0, 0
	}
	return c
}

// Cells lists every cell once, those of one model behind each other, all methods of a
// seed before the next seed: an unfinished study has whole rows.
func (p Plan) Cells() []Cell {
	var cells []Cell
	seen := map[string]bool{}
	for _, seed := range p.Seeds {
		first := len(cells)
		for _, b := range p.Blocks {
			for _, point := range b.Points {
				for _, m := range b.Methods {
					for _, fold := range p.folds() {
						c := point.cell(m, seed, fold)
						if name := c.Name(); !seen[name] {
							seen[name] = true
							cells = append(cells, c)
						}
					}
				}
			}
		}
		place := map[string]int{}
		for i, c := range cells[first:] {
			if _, ok := place[c.Model.Name()]; !ok {
				place[c.Model.Name()] = i
			}
		}
		slices.SortStableFunc(cells[first:], func(a, b Cell) int { return place[a.Model.Name()] - place[b.Model.Name()] })
	}
	return cells
}

// only keeps the cells that match one of the patterns (path.Match); every pattern must
// match something.
func only(cells []Cell, patterns []string) ([]Cell, error) {
	if len(patterns) == 0 {
		return cells, nil
	}
	kept := map[string]bool{}
	for _, pattern := range patterns {
		found := false
		for _, c := range cells {
			ok, err := path.Match(pattern, c.Name())
			if err != nil {
				return nil, fmt.Errorf("--only %q: %w", pattern, err)
			}
			if ok {
				kept[c.Name()], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("--only %q names no cell of this study; the first is %q, and --dry-run lists all", pattern, cells[0].Name())
		}
	}
	return slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { return !kept[c.Name()] }), nil
}

// config is the configuration of a model's run.
func (o *Options) config(m Model) (*config.Config, error) {
	c, err := config.New(o.Task)
	if err != nil {
		return nil, err
	}
	c.Data, c.Attributes, c.Seed, c.Threads = o.Data, o.Attributes, m.Seed, o.Threads
	c.Init = o.Init
	if o.Device != "" {
		c.Device = o.Device
	}
	encoder, fusion := o.Encoder, m.Method.Fusion
	if m.Method.Encoder != "" {
		encoder = m.Method.Encoder
	}
	if fusion == "" {
		fusion = config.None // the host's methods open the encoder alone
	}
	for _, s := range []struct {
		ref   string
		stage *config.Stage
	}{{encoder, &c.Encoder}, {fusion, &c.Fusion}, {o.Head, &c.Head}} {
		if s.ref == "" {
			continue
		}
		if err := s.stage.Use(s.ref); err != nil {
			return nil, err
		}
	}
	if o.Epochs > 0 {
		c.Train.Epochs = o.Epochs
	}
	// What the study itself decides of a model.
	fixed := []string{"data.missing_train=" + number(m.Rate), "data.missing_validation=-1", fmt.Sprintf("data.missing_seed=%d", m.Seed),
		"data.train_fraction=" + number(m.Fraction)}
	if m.Fold != "" {
		// Nothing is chosen on the fold, which is what is compared on.
		fixed = append(fixed, "data.train_split=!"+m.Fold, "data.validation_split=", "train.best_by="+string(config.Last))
	}
	var own []string
	for _, text := range o.Set {
		pattern, set, scoped := cutScope(text)
		if err := decided(text, set, fixed); err != nil {
			return nil, err
		}
		if fold := foldForm.FindString(pattern); fold != "" {
			if fold != m.Fold {
				continue
			}
			text, scoped = set, false
		}
		if !scoped {
			// What a role is told is for the methods that have it.
			if strings.HasPrefix(text, "fusion.") && c.Fusion.Plugin == config.None || strings.HasPrefix(text, "encoder.") && c.Encoder.Plugin == config.None {
				continue
			}
			if err := c.Set(text); err != nil {
				return nil, err
			}
			continue
		}
		ok, err := path.Match(pattern, m.Method.Name)
		if err != nil {
			return nil, fmt.Errorf("--set %q: %w", text, err)
		}
		if ok {
			own = append(own, set)
		}
	}
	own = append(slices.Clone(m.Method.Set), own...)
	for _, set := range append(own, fixed...) {
		if err := c.Set(set); err != nil {
			return nil, fmt.Errorf("method %s: %w", m.Method.Name, err)
		}
	}
	if c.Report.Tokens != config.PerAttribute {
		c.Reports = o.Reports
	}
	return c, c.Resolve()
}

// decided refuses a setting of --set that a study decides by itself: it would be without effect.
// What is taken away in the test belongs to a cell, not to a model.
func decided(text, set string, fixed []string) error {
	key, _, _ := strings.Cut(set, "=")
	isFixed := slices.ContainsFunc(fixed, func(f string) bool { return strings.HasPrefix(f, key+"=") })
	if slices.Contains(fixed, set) || !isFixed && key != "data.missing_test" {
		return nil
	}
	by := "--rates, --scenarios and --seeds say which values are taken away"
	switch key {
	case "data.train_fraction":
		by = "study detection has --fractions, and data split makes a table with fewer of train"
	case "data.train_split", "data.validation_split", "train.best_by":
		by = "with --folds a fold is predicted by the last checkpoint of a run on all others"
	}
	return fmt.Errorf("--set %s: a study decides %s by itself, cell by cell; leave it out; %s", text, key, by)
}

// foldForm is a scope that names a fold, not methods.
var foldForm = regexp.MustCompile(`^fold\d+$`)

// cutScope splits METHOD/GROUP.KEY=VALUE, METHOD a pattern.
func cutScope(text string) (pattern, set string, scoped bool) {
	name, _, _ := strings.Cut(text, "=")
	if i := strings.IndexByte(name, '/'); i > 0 {
		return text[:i], text[i+1:], true
	}
	return "", text, false
}
