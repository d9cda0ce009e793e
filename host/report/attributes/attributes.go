// Package attributes chooses attributes and fills the table of them from reports: what
// the commands `attributes select` and `attributes extract`, and training with reports, do.
package attributes

import (
	"fmt"

	"github.com/alignedfusion/alignedfusion/host/report/llm"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// RecordVersion is the schema_version of a Record.
const RecordVersion = 1

// Record says how a schema or a table came about; it stands beside it as FILE.json. It
// holds no report text.
type Record struct {
	SchemaVersion int    `json:"schema_version"`
	Method        string `json:"method"`
	Reports       int    `json:"reports"`
	Lexicon       string `json:"lexicon,omitempty"`
	LexiconSHA256 string `json:"lexicon_sha256,omitempty"`
	AttributeHash string `json:"attributes_sha256"`
	// Schema is that of a table, so that the table can be read alone.
	Schema        *schema.Schema `json:"schema,omitempty"`
	Corrected     string         `json:"corrected_table_sha256,omitempty"`
	KeptRows      int            `json:"rows_kept_from_corrected_table,omitempty"`
	Endpoint      string         `json:"endpoint,omitempty"`
	Model         string         `json:"model,omitempty"`
	Prompt        string         `json:"prompt,omitempty"`
	Audit         *llm.Audit     `json:"audit,omitempty"`
	OtherLanguage []string       `json:"reports_in_another_language,omitempty"`
	Attributes    []schema.Count `json:"attributes,omitempty"`
	Out           string         `json:"out"`

	// extra names the columns of a corrected table that are no attributes.
	extra []string
}

// Warnings tell what was not read, one line each.
func (r *Record) Warnings() []string {
	var out []string
	if a := r.Audit; a != nil {
		for _, w := range []struct {
			reports []string
			what    string
		}{
			{a.Unreadable, "got no readable answer and are left unmentioned"},
			{a.TooLong, "are longer than the model's context and are left unmentioned"},
			{a.PromptsCut, "were not read whole, by the endpoint's own count of tokens: raise the server's context length and clear the cache"},
		} {
			if n := len(w.reports); n > 0 {
				out = append(out, fmt.Sprintf("%d reports %s; the record names them, the first is %q", n, w.what, w.reports[0]))
			}
		}
	}
	if len(r.extra) > 0 {
		out = append(out, fmt.Sprintf("the table's columns %s are no attributes and are left out", problem.Quote(r.extra)))
	}
	if n := len(r.OtherLanguage); n > 0 {
		out = append(out, fmt.Sprintf("%d reports look like another language than the lexicon and the trigger tables know and are left unmentioned; the record names them", n))
	}
	return out
}

// byModel notes which model was asked what.
func (r *Record) byModel(c *llm.Client, prompt string) {
	r.Endpoint, r.Model, r.Prompt = c.Endpoint(), c.Model(), prompt
}
