package telemetry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// A collector's own messages hold the numbers of the last record, and whose they are.
func TestACollectorGetsWhatARunMeasures(t *testing.T) {
	got, about := map[string]float64{}, ""
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportMetricsServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.URL.Path != "/v1/metrics" {
			t.Errorf("%s: %v", r.URL, err)
		}
		for _, resource := range request.ResourceMetrics {
			about = resource.Resource.String()
			for _, m := range resource.ScopeMetrics[0].Metrics {
				point := m.GetGauge().DataPoints[0]
				got[m.Name+" "+point.Attributes[0].Value.GetStringValue()] = point.GetAsDouble()
			}
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	s, err := Open("itf", "0.2.0", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for i, loss := range []float64{3, 1.5} {
		record := runs.Record{Kind: "step", Step: i + 1, Epoch: 1, Loss: &loss, Losses: map[string]float64{"anchors": loss / 2}, PeakRSSBytes: map[string]int64{"a3d": 3 << 20}}
		if err := s.Record(record); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Record(runs.Record{Kind: "validation", Step: 2, Metrics: map[string]float64{"mean_sensitivity": 0.25}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"alignedfusion.train.loss itf": 1.5, "alignedfusion.train.loss.anchors itf": 0.75, "alignedfusion.train.step itf": 2,
		"alignedfusion.train.memory_mib.a3d itf": 3, "alignedfusion.validation.mean_sensitivity itf": 0.25,
	} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s is %v, want %v; there are %v", name, v, want, got)
		}
	}
	if !strings.Contains(about, `"alignedfusion"`) || !strings.Contains(about, "service.version") {
		t.Error(about)
	}
}

func TestNothingIsSentWithoutACollector(t *testing.T) {
	for _, name := range endpoints {
		t.Setenv(name, "")
	}
	if _, err := Open("itf", "0.2.0", nil); fault.Of(err) != fault.Usage || !strings.Contains(err.Error(), endpoints[0]) {
		t.Error(err)
	}
}
