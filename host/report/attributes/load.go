package attributes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/digest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

// Reports are what is known from reports, to be joined to cases.
type Reports struct {
	Table *report.Table
	// Path is where they were read, SHA256 the hash of what was read there.
	Path, SHA256 string
	// Unselected says that the table has all that the lexicon knows: training keeps what its
	// own reports mention.
	Unselected bool
	Warnings   []string
}

// Load reads reports (a CSV file or a folder, read by the rules and the embedded lexicon of that
// name; "" stands for the one that knows the most of s, chest-xray without one) or a table that
// Extract wrote. Of s, unless nil, it takes what the lexicon or the table has; without it
// a table's schema is that of its FILE.json, else its cells stay as they are written.
func Load(ctx context.Context, path, lexicon string, s *schema.Schema) (*Reports, error) {
	text, err := report.HasText(path)
	if err != nil {
		return nil, fault.Wrap(fault.Data, err)
	}
	r := &Reports{Path: path}
	if text {
		err = r.readText(ctx, lexicon, s)
	} else {
		err = r.readTable(s)
	}
	if err != nil {
		return nil, dataUnlessStopped(ctx, fmt.Errorf("reports %s: %w", path, err))
	}
	return r, nil
}

// lexiconFor is the embedded lexicon that knows the most of a schema's attributes.
func lexiconFor(s *schema.Schema) (best string, err error) {
	most := 0
	for _, name := range rules.Names() {
		lexicon, err := rules.OpenLexicon(name)
		if err != nil {
			return "", err
		}
		if n := len(s.Restrict(lexicon.Schema.Names()).Attributes); n > most {
			best, most = name, n
		}
	}
	return best, nil
}

func (r *Reports) readText(ctx context.Context, lexicon string, s *schema.Schema) (err error) {
	if lexicon == "" && s != nil {
		if lexicon, err = lexiconFor(s); err != nil {
			return err
		}
	}
	x, err := rules.Open(rules.Options{Lexicon: lexicon})
	if err != nil {
		return err
	}
	reports, err := report.Read(report.Source{Path: r.Path})
	if err != nil {
		return err
	}
	h := sha256.New()
	for _, one := range reports {
		fmt.Fprintf(h, "%q\n", one)
	}
	r.SHA256, r.Unselected = hex.EncodeToString(h.Sum(nil)), s == nil
	if s != nil {
		if s = s.Restrict(x.Lexicon.Schema.Names()); len(s.Attributes) == 0 {
			return fmt.Errorf("the embedded lexicon %s knows none of the schema's attributes; make a table of states with `attributes extract --lexicon FILE` and give that", x.Lexicon.Source.Name)
		}
	}
	if r.Table, err = x.Table(ctx, s, reports); err != nil {
		return err
	}
	if n := len(r.Table.Unread); n > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s: %d reports look like another language than the lexicon knows and are left unmentioned, the first is %q", r.Path, n, r.Table.Unread[0]))
	}
	return nil
}

func (r *Reports) readTable(s *schema.Schema) error {
	data, err := os.ReadFile(r.Path)
	if err != nil {
		return err
	}
	t, err := table.ParseWith(r.Path, data, table.Options{AnySeparator: true})
	if err != nil {
		return err
	}
	r.SHA256 = digest.Of(data)
	record, err := sidecar(r.Path)
	if err != nil {
		return err
	}
	if s == nil {
		s = record.Schema
	}
	if s == nil {
		r.Table, err = report.WrittenTable(t)
		return err
	}
	if s = s.Restrict(t.Columns); len(s.Attributes) == 0 {
		return fmt.Errorf("none of its columns %s is an attribute of the schema", problem.Quote(t.Columns))
	}
	read, err := report.ParseTable(data, r.Path, *s, record.synonym())
	if len(read.Extra) > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%s: the schema leaves out the columns %s", r.Path, problem.Quote(read.Extra)))
	}
	r.Table = &read
	return err
}

// sidecar is what FILE.json beside a table records; empty when there is none.
func sidecar(path string) (Record, error) {
	var r Record
	data, err := os.ReadFile(path + ".json")
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s.json: %w", path, err)
	}
	return r, nil
}

// synonym knows the words of the lexicon that a table was made with, where it is embedded.
func (r Record) synonym() report.Synonym {
	x, err := rules.Open(rules.Options{Lexicon: r.Lexicon})
	if err != nil {
		return nil
	}
	return x.Lexicon.Synonym
}
