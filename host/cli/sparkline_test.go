package cli

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

func TestASparklineShowsTheCourseAndFits(t *testing.T) {
	if got := sparkline([]float64{0, 0.5, math.NaN(), 1}, 0, 1); got != "▁▅ █" {
		t.Errorf("%q", got)
	}
	if got := sparkline([]float64{0.3, 0.3}, 0.3, 0.3); got != "▅▅" {
		t.Errorf("constant: %q", got)
	}
	long := make([]float64, 1000)
	long[500] = 1 // one peak among many must stay
	if got := sparkline(long, 0, 1); utf8.RuneCountInString(got) != sparkWidth || !strings.Contains(got, "█") {
		t.Errorf("%q", got)
	}
}

// What is no terminal gets words, without colours and blocks.
func TestASparklineIsWordsInAFile(t *testing.T) {
	records := []runs.Record{
		{Kind: "validation", Epoch: 1, Metrics: map[string]float64{"balanced_accuracy.a": 0.25, "balanced_accuracy.b": 0.75}},
		{Kind: "step", Metrics: map[string]float64{"balanced_accuracy.a": 9}},
		{Kind: "validation", Epoch: 2, Metrics: map[string]float64{}},
		{Kind: "validation", Epoch: 3, Metrics: map[string]float64{"balanced_accuracy.a": 0.5, "balanced_accuracy.b": 1}},
	}
	var out bytes.Buffer
	writeSparkline(&out, records, runs.Best{Metric: "balanced accuracy", Value: 0.75, Epoch: 3})
	if got := out.String(); got != "balanced accuracy in 2 validations: first 0.5000, best 0.7500 (epoch 3), last 0.7500\n" {
		t.Errorf("%q", got)
	}
	out.Reset()
	if writeSparkline(&out, records[:1], runs.Best{Metric: "balanced accuracy"}); out.Len() > 0 {
		t.Errorf("one validation has no course: %q", out.String())
	}
}
