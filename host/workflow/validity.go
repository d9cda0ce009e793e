package workflow

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// What is in this file finds out why a run's figures may be better than they should be, or
// a comparison with them void. It is said when it happens and again wherever the figures
// are shown.

// trained are the cases a run has learned from: ids by fingerprint (dataset.Fingerprint).
type trained map[string]string

// readTrained reads training.csv of a run; runs of 0.1 have none, which gives nil.
func readTrained(run string) (trained, error) {
	path := filepath.Join(run, runs.TrainingFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	t, err := table.Read(path)
	if err == nil {
		err = t.Need("id", "sha256")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runs.ErrDamaged, err)
	}
	out := trained{}
	for _, r := range t.Rows {
		out[t.Get(r, "sha256")] = t.Get(r, "id")
	}
	return out, nil
}

func (t trained) add(d *dataset.Dataset, cases []dataset.Case) error {
	sums, err := d.Fingerprints(cases)
	for i, sum := range sums {
		t[sum] = cases[i].ID
	}
	return err
}

// write puts training.csv into a run, ordered by id.
func (t trained) write(run *runs.Run) error {
	var rows [][]string
	for sum, id := range t {
		rows = append(rows, []string{id, sum})
	}
	slices.SortFunc(rows, slices.Compare[[]string])
	var b bytes.Buffer
	if err := csv.NewWriter(&b).WriteAll(append([][]string{{"id", "sha256"}}, rows...)); err != nil {
		return err
	}
	return run.Write(runs.TrainingFile, b.Bytes())
}

// seen warns of cases that the run was trained on, whatever they, their split and their
// data set are called now.
func (t trained) seen(d *dataset.Dataset, cases []dataset.Case) ([]string, error) {
	n, first := 0, ""
	sums, err := d.Fingerprints(cases)
	for i, sum := range sums {
		id, ok := t[sum]
		if !ok {
			continue
		}
		if n++; n == 1 {
			first = fmt.Sprintf("%q", cases[i].ID)
			if id != cases[i].ID {
				first += fmt.Sprintf(" (there called %q)", id)
			}
		}
	}
	return seenText(n, len(cases), first), err
}

func seenText(n, of int, first string) []string {
	if n == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d of the %d cases were trained on, the first is %s: figures on them say nothing about other cases", n, of, first)}
}

// seenByName is seen for runs of 0.1, which did not keep what they were trained on: it
// looks at the names of the splits, on the run's own data.
func seenByName(c *config.Config, cases []dataset.Case) []string {
	n, first := 0, ""
	for i := range cases {
		if !dataset.InSplit(cases[i].Split, c.DataSettings.TrainSplit) {
			continue
		}
		if n++; n == 1 {
			first = fmt.Sprintf("%q", cases[i].ID)
		}
	}
	return seenText(n, len(cases), first)
}

// readsReports reports whether the fusion has a use for reports.
func (s *Session) readsReports() bool {
	fusion := s.Pipeline.Member(sdk.KindFusion)
	return fusion != nil && slices.ContainsFunc(fusion.Stage.Inputs, func(p sdk.Port) bool {
		return slices.Contains([]string{ports.ReportState.Name, ports.ReportValue.Name, ports.ReportEmbedding.Name}, p.Name)
	})
}

// refuseNoReports fails when the fusion reads reports and gets none, unless the
// configuration asks for that in so many words.
func (s *Session) refuseNoReports() error {
	if !s.readsReports() || s.Feed.Reports != nil || s.Config.Attributes != nil && len(*s.Config.Attributes) == 0 {
		return nil
	}
	return &config.Error{Err: fmt.Errorf("fusion %s reads reports and %s has no attribute: it would fuse nothing; choose other data or columns (--attributes), or --fusion none, or say that none are wanted: --attributes=",
		s.Config.Fusion.Ref(), s.Config.Data)}
}

// voids are the warnings of the data and the pipeline that make figures too good or a
// comparison void, for the cases used; reported says that one of them has an attribute.
func (s *Session) voids(cases []dataset.Case, reported bool) []string {
	out := slices.Clone(s.Data.Leaks)
	if s.readsReports() && !reported {
		out = append(out, fmt.Sprintf("fusion %s reads reports, and no case has any attribute: it adds nothing", s.Pipeline.Member(sdk.KindFusion).Plugin))
	}
	if depth := s.depth(); depth > 1 {
		if n := s.Data.Flat(cases); n > 0 {
			out = append(out, fmt.Sprintf("encoder %s takes %d slices, and around those of %d of %d cases there are none: it sees copies of one slice",
				s.Feed.Encoder.Plugin, depth, n, len(cases)))
		}
	}
	return out
}

// reported tells whether a case has one of a schema's attributes; the schema may be nil.
func reported(s *schema.Schema, cases []dataset.Case) bool {
	return s != nil && slices.ContainsFunc(cases, func(c dataset.Case) bool {
		return slices.ContainsFunc(s.Attributes, func(a schema.Attribute) bool { return c.Attributes.Mentions(a.Name) })
	})
}

// depth is the number of slices that the encoder takes, 0 when it takes no volume.
func (s *Session) depth() int {
	i := slices.IndexFunc(s.Data.Modalities, ports.Scan)
	if s.Feed.Encoder == nil || i < 0 {
		return 0
	}
	if n := s.Config.DataSettings.Slices; n > 0 {
		return n
	}
	port := sdk.FindPort(s.Feed.Encoder.Opened.Inputs, s.Data.Modalities[i])
	if port == nil || len(port.Shape) != 5 {
		return 0
	}
	n, _ := strconv.Atoi(port.Shape[2]) // a name: any depth
	return n
}

// changedPlugin begins, behind the plugin's name and role, what is said of one that is not
// what it was; predictions and runs keep it among their warnings.
const changedPlugin = ") has changed since the run began: version "

func saysChangedPlugin(warning string) bool { return strings.Contains(warning, changedPlugin) }

// changedPlugins names the plugins that are not the ones a run began with.
func changedPlugins(m *runs.Manifest, now []runs.PluginRecord) []string {
	var out []string
	for _, p := range now {
		i := slices.IndexFunc(m.Plugins, func(r runs.PluginRecord) bool { return r.Role == p.Role })
		if i >= 0 && m.Plugins[i].SHA256 != p.SHA256 {
			out = append(out, fmt.Sprintf("plugin %s (%s"+changedPlugin+"%s with SHA-256 %.12s…, then %s with %.12s…",
				p.Name, p.Role, p.Version, p.SHA256, m.Plugins[i].Version, m.Plugins[i].SHA256))
		}
	}
	return out
}

// changedData warns when the data of a run are no longer what they were.
func changedData(m *runs.Manifest, d *dataset.Dataset) []string {
	if d.Hash == m.DataSHA256 {
		return nil
	}
	return []string{fmt.Sprintf("%s has changed since the run began: SHA-256 %.12s…, then %.12s…", d.Spec, d.Hash, m.DataSHA256)}
}

// voids are the warnings of a prediction of cases with the run's pipeline, as it is opened
// now; own says that they are of the run's own data.
func (r *RunFiles) voids(s *Session, cases []dataset.Case, reported, own bool) ([]string, error) {
	out := slices.Concat(s.voids(cases, reported), changedPlugins(r.Manifest, s.records))
	switch {
	case r.trained != nil:
		seen, err := r.trained.seen(s.Data, cases)
		if err != nil {
			return nil, err
		}
		out = append(out, seen...)
	case own:
		out = append(out, seenByName(r.Config, cases)...)
	}
	if sameSpec(s.Data.Spec, r.Config.Data) {
		out = append(out, changedData(r.Manifest, s.Data)...)
	}
	for _, w := range r.Manifest.Warnings {
		if !slices.Contains(out, w) {
			out = append(out, "training: "+w)
		}
	}
	return unique(out), nil
}

// sameSpec reports whether two data specs name one place with equal options.
func sameSpec(a, b string) bool {
	a, errA := dataset.AbsoluteSpec(a)
	b, errB := dataset.AbsoluteSpec(b)
	return errA == nil && errB == nil && a == b
}

// unique keeps the first of equal texts.
func unique(texts []string) []string {
	var out []string
	for _, t := range texts {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}
