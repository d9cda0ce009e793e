package workflow

import (
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
)

// RunData are the cases of a split as a run's pipeline sees them.
type RunData struct {
	Data  *dataset.Dataset
	Cases []dataset.Case
	// Split is the one that was asked for, or the default.
	Split string

	// own says that they are of the run's own data, sameReports that their reports are the
	// run's, reported that a case had an attribute before any was taken away.
	own, sameReports, reported bool
	// reportsSHA256 is the hash of the reports that were given or the run's own; "" without.
	reportsSHA256 string
	// unread are warnings of attributes that the cases do not have.
	unread []string
}

// OpenData opens the data of PredictOptions, or the run's own, with the attributes that the
// run reads, and takes those away that its settings or PredictOptions.Missing say.
func (r *RunFiles) OpenData(o PredictOptions) (*RunData, error) {
	c := r.Config
	if o.Data == "" {
		o.Data = c.Data
	}
	o.Data = dataset.Shown(o.Data, c.Data)
	from, err := r.sources(o)
	if err != nil {
		return nil, err
	}
	d, err := feed.OpenData(o.Data, c, r.Labels, from)
	if err != nil {
		return nil, err
	}
	out := &RunData{Data: d, Split: o.Split, unread: r.unread(d), sameReports: r.Manifest.ReportsSHA256 == ""}
	if from.Reports != nil {
		out.reportsSHA256 = from.Reports.SHA256
		out.sameReports = from.Reports.SHA256 == r.Manifest.ReportsSHA256
	}
	out.own = d.Hash == r.Manifest.DataSHA256 && dataset.SpecOptions(o.Data) == dataset.SpecOptions(c.Data)
	if out.Split == "" {
		out.Split = "all"
		if out.own {
			out.Split = "test"
		}
	}
	whole, err := d.Split(out.Split)
	if err != nil {
		return nil, err
	}
	out.reported = reported(r.Schema, whole)
	if err := feed.MaskAttributes(d, c, o.Missing); err != nil {
		return nil, &config.Error{Err: err}
	}
	if r.Schema != nil {
		if err := d.Bind(r.Schema, false); err != nil {
			return nil, err
		}
		d.Cases = dataset.Fill(d.Cases, r.Modes)
	}
	out.Cases, err = d.Split(out.Split)
	return out, err
}
