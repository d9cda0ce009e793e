package cli

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

// sparks are the heights of a sparkline.
const sparks = "▁▂▃▄▅▆▇█"

// sparkWidth is how many columns a sparkline may take, so that its line fits 80.
const sparkWidth = 32

// validated is the metric that chooses the best checkpoint, by validation; NaN where it could
// not be computed.
type validated struct {
	epoch []int
	value []float64
}

// validationsOf reads them: the metric by its name, or the mean over the label sets that it
// was measured on.
func validationsOf(records []runs.Record, metric string) (out validated) {
	name := strings.ReplaceAll(strings.ToLower(metric), " ", "_")
	for _, r := range records {
		if r.Kind != "validation" {
			continue
		}
		value, ok := r.Metrics[name]
		if !ok {
			sum, n := 0.0, 0.0
			for key, v := range r.Metrics {
				if strings.HasPrefix(key, name+".") {
					sum, n = sum+v, n+1
				}
			}
			value = sum / n // NaN where there is none
		}
		out.epoch, out.value = append(out.epoch, r.Epoch), append(out.value, value)
	}
	return out
}

// writeSparkline draws how the validation metric went: as blocks on a terminal that can show
// them, in words elsewhere. Fewer than two validations have no course.
func writeSparkline(w io.Writer, records []runs.Record, best runs.Best) {
	v := validationsOf(records, best.Metric)
	known := slices.DeleteFunc(slices.Clone(v.value), math.IsNaN)
	if len(known) < 2 {
		return
	}
	low, high, last := slices.Min(known), slices.Max(known), known[len(known)-1]
	if !drawsBlocks(w) {
		fmt.Fprintf(w, "%s in %d validations: first %.4f, best %.4f (epoch %d), last %.4f\n", best.Metric, len(known), known[0], best.Value, best.Epoch, last)
		return
	}
	line := sparkline(v.value, low, high)
	if os.Getenv("NO_COLOR") == "" {
		line = "\x1b[36m" + line + "\x1b[0m"
	}
	fmt.Fprintf(w, "%s %s %.3f to %.3f, last %.3f\n", best.Metric, line, low, high, last)
}

// drawsBlocks reports whether w is a terminal with characters for the blocks.
func drawsBlocks(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return false
	}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(os.Getenv(name)); locale != "" {
			return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
		}
	}
	return false
}

// sparkline is a character per value, a blank where there is none. More values than
// sparkWidth share characters, each showing the best of its own.
func sparkline(values []float64, low, high float64) string {
	n := min(len(values), sparkWidth)
	blocks := []rune(sparks)
	var line strings.Builder
	for k := range n {
		top := math.NaN()
		for _, v := range values[k*len(values)/n : (k+1)*len(values)/n] {
			if !(v <= top) && !math.IsNaN(v) {
				top = v
			}
		}
		switch {
		case math.IsNaN(top):
			line.WriteRune(' ')
		case high > low:
			line.WriteRune(blocks[int(math.Round((top-low)/(high-low)*float64(len(blocks)-1)))])
		default:
			line.WriteRune(blocks[len(blocks)/2])
		}
	}
	return line.String()
}
