package attributes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// maxSentences bounds the tokens of a report; the last has what is behind them.
const maxSentences = 64

// LoadText reads reports as they were written, whole or a sentence each: attributes of kind
// schema.Text. Of s, unless nil, it makes what is there, and the last sentence has the rest.
func LoadText(ctx context.Context, path string, sentences bool, s *schema.Schema) (*Reports, error) {
	reports, err := report.Read(report.Source{Path: path})
	if err != nil {
		return nil, dataUnlessStopped(ctx, fault.Wrap(fault.Data, err))
	}
	r := &Reports{Path: path, Table: &report.Table{}}
	h := sha256.New()
	texts, most := make([][]string, len(reports)), 1
	for i, one := range reports {
		fmt.Fprintf(h, "%q\n", one)
		if texts[i] = rules.Sentences(one); !sentences && len(texts[i]) > 0 {
			texts[i] = []string{strings.Join(texts[i], " ")}
		}
		most = max(most, len(texts[i]))
	}
	r.SHA256 = hex.EncodeToString(h.Sum(nil))
	if most = min(most, maxSentences); s != nil {
		most = 0
		for _, a := range s.Attributes {
			if a.Kind == schema.Text {
				most++
			}
		}
	}
	for k := range most {
		name := "report"
		if sentences {
			name = fmt.Sprintf("sentence %d", k+1)
		}
		r.Table.Schema.Attributes = append(r.Table.Schema.Attributes, schema.TextAttribute(name))
	}
	for i, one := range reports {
		if n := len(texts[i]); n > most && most > 0 {
			texts[i] = append(texts[i][:most-1:most-1], strings.Join(texts[i][most-1:], " "))
		}
		cells := make([]schema.Cell, most)
		for k := range cells {
			cells[k].Value = -1
			if k < len(texts[i]) {
				cells[k].State, cells[k].Raw = schema.Stated, texts[i][k]
			}
		}
		r.Table.IDs, r.Table.Cells = append(r.Table.IDs, one.ID), append(r.Table.Cells, cells)
	}
	return r, nil
}
