package froc

import (
	"errors"
	"math"
	"sync"

	"github.com/alignedfusion/alignedfusion/eval/resample"
)

// BootstrapOptions sets how clusters are resampled.
type BootstrapOptions = resample.Options

// Interval is a confidence interval. Both ends are NaN where it is undefined.
type Interval = resample.Interval

// Bootstrap holds the confidence intervals of one result.
type Bootstrap struct {
	Options BootstrapOptions // resolved
	Points  []Interval       // sensitivity at each of Protocol.FPPI
	Mean    Interval         // mean sensitivity
	AP      Interval
	Merit   MeritIntervals
	// WithoutLesion counts the replicates in which no lesion was drawn. They
	// have no sensitivity and are left out of the intervals.
	WithoutLesion int
}

// MeritIntervals are the confidence intervals of [FiguresOfMerit].
type MeritIntervals struct {
	AFROC, AFROC1, WAFROC, WAFROC1, CaseAUROC, LROC, Ranking Interval
}

// ErrTooFewReplicates is returned when fewer than two replicates contain a lesion.
var ErrTooFewReplicates = errors.New("bootstrap: fewer than two replicates contain a lesion")

// Bootstrap resamples clusters (patients, unless the protocol says otherwise)
// with replacement and returns confidence intervals. It works on the steps of
// the curve; nothing is matched again.
//
// Cost: O(replicates · steps), spread over all processors.
func (r *Result) Bootstrap(options BootstrapOptions) (*Bootstrap, error) {
	o, err := options.Resolved()
	if err != nil {
		return nil, err
	}
	if !r.made() {
		return nil, errNoResult
	}
	systems := []*Result{r}
	out := &Bootstrap{Options: o}
	tables, err := replicates(o, systems)
	if err != nil {
		return nil, err
	}
	columns, dropped := tables[0].columns()
	out.WithoutLesion = dropped
	if o.Replicates-dropped < 2 {
		return nil, ErrTooFewReplicates
	}
	jack := make([][]float64, len(columns))
	if o.Method == resample.BCa {
		left, err := jackknife(o, systems)
		if err != nil {
			return nil, err
		}
		jack, _ = left[0].columns()
	}
	intervals := make([]Interval, len(columns))
	k := len(r.Protocol.FPPI)
	n := r.clusters.withLesion()
	for i, estimate := range r.estimate() {
		bound := o.Share // sensitivities and their mean
		if i > k {
			bound = o.Bounded
		}
		intervals[i] = bound(columns[i], estimate, jack[i], n)
	}
	out.Points, out.Mean, out.AP = intervals[:k], intervals[k], intervals[k+1]
	m := intervals[k+2:] // in the order of FiguresOfMerit.vector
	out.Merit = MeritIntervals{m[0], m[1], m[2], m[3], m[4], m[5], m[6]}
	return out, nil
}

// MeanReplicates returns the mean sensitivity in every replicate of Bootstrap, for intervals
// of what is computed from several results; NaN where no lesion was drawn. Results of the
// same truth and seed have the same clusters in the same replicate.
func (r *Result) MeanReplicates(options BootstrapOptions) ([]float64, error) {
	o, err := options.Resolved()
	if err != nil {
		return nil, err
	}
	if !r.made() {
		return nil, errNoResult
	}
	tables, err := replicates(o, []*Result{r})
	if err != nil {
		return nil, err
	}
	out := make([]float64, o.Replicates)
	for b, row := range tables[0] {
		out[b] = math.NaN()
		if row != nil {
			out[b] = row[len(r.Protocol.FPPI)]
		}
	}
	return out, nil
}

// table holds the statistics of every replicate, see Result.statistics. A replicate without a lesion is nil.
type table [][]float64

// columns returns one slice per statistic, in the order of the replicates, and
// the number of replicates left out.
func (t table) columns() (columns [][]float64, dropped int) {
	for _, row := range t {
		if row == nil {
			dropped++
			continue
		}
		if columns == nil {
			columns = make([][]float64, len(row))
		}
		for i, v := range row {
			columns[i] = append(columns[i], v)
		}
	}
	return columns, dropped
}

// replicated keeps a result's last table of replicates, which intervals and comparisons
// share.
type replicated struct {
	sync.Mutex
	number int
	seed   uint64
	table  table
}

// replicates returns a table per system. They depend on the number of replicates and on the
// seed alone, so that those made before with both are used again.
func replicates(o BootstrapOptions, systems []*Result) ([]table, error) {
	out := make([]table, len(systems))
	var missing []*Result
	for s, r := range systems {
		r.replicated.Lock()
		if r.replicated.number == o.Replicates && r.replicated.seed == o.Seed {
			out[s] = r.replicated.table
		} else {
			missing = append(missing, r)
		}
		r.replicated.Unlock()
	}
	if len(missing) == 0 {
		return out, nil
	}
	made, err := reweigh(o, o.Replicates, missing, o.Draw)
	if err != nil {
		return nil, err
	}
	for s, r := range systems {
		if out[s] != nil {
			continue
		}
		out[s], made = made[0], made[1:]
		r.replicated.Lock()
		r.replicated.number, r.replicated.seed, r.replicated.table = o.Replicates, o.Seed, out[s]
		r.replicated.Unlock()
	}
	return out, nil
}

func jackknife(o BootstrapOptions, systems []*Result) ([]table, error) {
	return reweigh(o, resample.JackknifeGroups(len(systems[0].clusters.names)), systems, resample.LeaveOut)
}

// weighting sums up what is drawn with the given weight per cluster.
func (c *clusters) weighting(drawn []int32) (w weighting) {
	for k, n := range drawn {
		w.units += int(n) * int(c.units[k])
		w.lesions += int(n) * int(c.lesions[k])
	}
	return w
}

// reweigh computes the statistics of systems that share their clusters under n
// weightings, or those of them that are this process's (o.Division). draw gets zeroed weights.
func reweigh(o BootstrapOptions, n int, systems []*Result, draw func(i int, weights []int32)) ([]table, error) {
	c := &systems[0].clusters
	out := make([]table, len(systems))
	for s := range systems {
		out[s] = make(table, n)
	}
	// The place of a weighting that another process computes; that it has lesions is known here.
	elsewhere := make([]float64, len(systems[0].estimate()))
	err := resample.ParallelContext(o.Context, (n+abreast-1)/abreast, func(next func() (int, bool)) {
		drawn, words := make([]int32, len(c.names)), make([]weightWords, len(c.names))
		walkers := make([]*walkerSet, len(systems))
		for s, r := range systems {
			walkers[s] = newWalkers(&r.Protocol)
		}
		for block, ok := next(); ok; block, ok = next() {
			var made []int // the weightings that are computed here
			var lanes []weighting
			heaviest := int32(0)
			clear(words)
			for i := block * abreast; i < min((block+1)*abreast, n); i++ {
				clear(drawn)
				draw(i, drawn)
				w := c.weighting(drawn)
				if w.lesions == 0 || w.units == 0 {
					continue
				}
				if !o.Division.Mine(i) {
					for s := range systems {
						out[s][i] = elsewhere
					}
					continue
				}
				for k, n := range drawn {
					words[k].set(len(made), n)
					heaviest = max(heaviest, n)
				}
				made, lanes = append(made, i), append(lanes, w)
			}
			for s, r := range systems {
				rows := r.statistics(walkers[s], words, int(heaviest), lanes)
				for lane, i := range made {
					out[s][i] = rows[lane]
				}
			}
		}
	})
	for s := range out {
		err = errors.Join(err, o.Division.Rows(out[s], len(elsewhere)))
	}
	return out, err
}
