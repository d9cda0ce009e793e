package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// message is a message of OTLP's metrics as it is sent, built field by field
// (opentelemetry/proto/metrics/v1/metrics.proto has their numbers).
type message []byte

func (m message) message(field protowire.Number, v message) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), v)
}

func (m message) text(field protowire.Number, v string) message {
	return m.message(field, message(v))
}

func (m message) double(field protowire.Number, v float64) message {
	return protowire.AppendFixed64(protowire.AppendTag(m, field, protowire.Fixed64Type), math.Float64bits(v))
}

func (m message) instant(field protowire.Number, t time.Time) message {
	return protowire.AppendFixed64(protowire.AppendTag(m, field, protowire.Fixed64Type), uint64(t.UnixNano()))
}

func attribute(key, value string) message {
	return message{}.text(1, key).message(2, message{}.text(1, value))
}

// collector is where metrics go.
type collector struct {
	url     string
	headers map[string]string
	gzip    bool
	timeout time.Duration // of one export
	client  *http.Client
	about   message // who sends: OTLP's Resource
}

// endpoints are the variables that name a collector.
var endpoints = []string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"}

// fromVariables reads OpenTelemetry's variables: the collector, and the time between exports.
func fromVariables(version string) (*collector, time.Duration, error) {
	there := ""
	for _, name := range endpoints {
		if there == "" && os.Getenv(name) != "" {
			there = name
		}
	}
	if there == "" {
		return nil, 0, fault.Errorf(fault.Usage, "no collector is named: set %s, for example to http://localhost:4318", strings.Join(endpoints, " or "))
	}
	place, err := url.Parse(os.Getenv(there))
	if err != nil || place.Host == "" || place.Scheme != "http" && place.Scheme != "https" {
		return nil, 0, fault.Errorf(fault.Usage, "%s is %q, want an address such as http://localhost:4318", there, os.Getenv(there))
	}
	if there == endpoints[1] {
		place = place.JoinPath("v1/metrics")
	}
	c := &collector{url: place.String(), client: &http.Client{}}
	name, protocol := variable("PROTOCOL")
	if protocol != "" && protocol != "http/protobuf" {
		return nil, 0, fault.Errorf(fault.Usage, "%s is %q, want http/protobuf", name, protocol)
	}
	name, compression := variable("COMPRESSION")
	if c.gzip = compression == "gzip"; !c.gzip && compression != "" && compression != "none" {
		return nil, 0, fault.Errorf(fault.Usage, "%s is %q, want gzip or none", name, compression)
	}
	name, headers := variable("HEADERS")
	if c.headers, err = pairs(name, headers); err != nil {
		return nil, 0, err
	}
	name, timeout := variable("TIMEOUT")
	if c.timeout, err = milliseconds(name, timeout, 10*time.Second); err != nil {
		return nil, 0, err
	}
	interval, err := milliseconds("OTEL_METRIC_EXPORT_INTERVAL", os.Getenv("OTEL_METRIC_EXPORT_INTERVAL"), time.Minute)
	if err != nil {
		return nil, 0, err
	}
	if err := c.trust(); err != nil {
		return nil, 0, err
	}
	about, err := pairs("OTEL_RESOURCE_ATTRIBUTES", os.Getenv("OTEL_RESOURCE_ATTRIBUTES"))
	if err != nil {
		return nil, 0, err
	}
	about["service.version"] = version
	for _, service := range []string{os.Getenv("OTEL_SERVICE_NAME"), about["service.name"], "alignedfusion"} {
		if service != "" {
			about["service.name"] = service
			break
		}
	}
	for _, key := range slices.Sorted(maps.Keys(about)) {
		c.about = c.about.message(1, attribute(key, about[key]))
	}
	return c, interval, nil
}

// variable is a setting of the exporter: that for metrics comes before that for all signals.
func variable(setting string) (name, value string) {
	for _, name = range []string{"OTEL_EXPORTER_OTLP_METRICS_" + setting, "OTEL_EXPORTER_OTLP_" + setting} {
		if value = strings.TrimSpace(os.Getenv(name)); value != "" {
			break
		}
	}
	return name, value
}

// pairs reads key=value,key=value; values may be escaped as in addresses.
func pairs(name, list string) (map[string]string, error) {
	out := map[string]string{}
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			return nil, fault.Errorf(fault.Usage, "%s has %q, want key=value with commas between", name, part)
		}
		out[key] = value
	}
	return out, nil
}

func milliseconds(name, value string, usual time.Duration) (time.Duration, error) {
	if value == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 || n > math.MaxInt32 {
		return 0, fault.Errorf(fault.Usage, "%s is %q, want milliseconds", name, value)
	}
	return time.Duration(n) * time.Millisecond, nil
}

// trust takes authorities and the own certificate from files where variables name them.
func (c *collector) trust() error {
	authorities, ca := variable("CERTIFICATE")
	certificate, cert := variable("CLIENT_CERTIFICATE")
	_, key := variable("CLIENT_KEY")
	if ca == "" && cert == "" {
		return nil
	}
	config := &tls.Config{}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return fault.Errorf(fault.Usage, "%s: %w", authorities, err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(text) {
			return fault.Errorf(fault.Usage, "%s: %s holds no certificate in PEM", authorities, ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fault.Errorf(fault.Usage, "%s with its CLIENT_KEY: %w", certificate, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	c.client.Transport = transport
	return nil
}

// post sends a request, again while the collector says that it is busy.
func (c *collector) post(ctx context.Context, body message) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	defer c.client.CloseIdleConnections()
	if c.gzip {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write(body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		body = packed.Bytes()
	}
	for {
		status, err := c.try(ctx, body)
		switch status {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func (c *collector) try(ctx context.Context, body []byte) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	for key, value := range c.headers {
		request.Header.Set(key, value)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	if c.gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, err
	}
	if response.StatusCode/100 != 2 {
		return response.StatusCode, fmt.Errorf("%s answers %s", c.url, response.Status)
	}
	// A partial success is field 1, with the reason in its field 2.
	if partial := field(answer, 1); partial != nil {
		if reason := field(partial, 2); len(reason) > 0 {
			return response.StatusCode, fmt.Errorf("%s took not all: %s", c.url, reason)
		}
	}
	return response.StatusCode, nil
}

// field is the content of a message's field of type message or string, nil where it is not there.
func field(m message, number protowire.Number) message {
	for len(m) > 0 {
		n, kind, head := protowire.ConsumeTag(m)
		if head < 0 {
			return nil
		}
		size := protowire.ConsumeFieldValue(n, kind, m[head:])
		if size < 0 {
			return nil
		}
		if n == number && kind == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(m[head:])
			return v
		}
		m = m[head+size:]
	}
	return nil
}
