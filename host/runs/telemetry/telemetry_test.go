package telemetry

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	collectors "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// A collector's own messages hold the numbers of the last record, and whose they are.
func TestACollectorGetsWhatARunMeasures(t *testing.T) {
	got, about, tries := map[string]float64{}, "", 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		unpacked, err := gzip.NewReader(r.Body)
		if err == nil {
			body, err = io.ReadAll(unpacked)
		}
		if r.Header.Get("Authorization") != "Bearer a,b" {
			t.Errorf("headers %v", r.Header)
		}
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var request collectors.ExportMetricsServiceRequest
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
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20a%2Cb")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "cluster=west")
	s, err := Open("itf", "0.2.0", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for i, loss := range []float64{3, 1.5} {
		record := runs.Record{Kind: "step", Step: i + 1, Epoch: 1, Loss: &loss, Losses: map[string]float64{"anchors": loss / 2}, PeakRSSBytes: map[string]int64{"a3d": 3 << 20}}
		s.Record(record)
	}
	s.Record(runs.Record{Kind: "validation", Step: 2, Metrics: map[string]float64{"mean_sensitivity": 0.25}})
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
	if !strings.Contains(about, `"alignedfusion"`) || !strings.Contains(about, "service.version") || !strings.Contains(about, "west") {
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

func TestWhatACollectorDoesNotTakeIsSaid(t *testing.T) {
	answer := []byte{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if answer == nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		_, _ = w.Write(answer)
	}))
	defer server.Close()
	partial, err := proto.Marshal(&collectors.ExportMetricsServiceResponse{PartialSuccess: &collectors.ExportMetricsPartialSuccess{RejectedDataPoints: 2, ErrorMessage: "too old"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", server.URL+"/own/path")
	for want, body := range map[string][]byte{"400 Bad Request": nil, "too old": partial, "": {}} {
		answer = body
		s, err := Open("itf", "0.2.0", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Record(runs.Record{Kind: "step", Step: 1})
		if err := s.Close(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/own/path")) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestVariablesOfOpenTelemetryAreUnderstoodOrRefused(t *testing.T) {
	t.Setenv(endpoints[1], "http://localhost:4318")
	for name, value := range map[string]string{
		endpoints[0]: "collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "secret", "OTEL_EXPORTER_OTLP_TIMEOUT": "10s",
		"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd", "OTEL_METRIC_EXPORT_INTERVAL": "-1", "OTEL_EXPORTER_OTLP_CERTIFICATE": "telemetry_test.go",
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "missing.pem", "OTEL_RESOURCE_ATTRIBUTES": "a=%zz",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := Open("itf", "0.2.0", nil); fault.Of(err) != fault.Usage || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		})
	}
}
