package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

var findings = schema.Schema{Attributes: []schema.Attribute{
	{Name: "mass", Kind: schema.Binary, Values: []string{"no", "yes"}},
	{Name: "side", Kind: schema.Categorical, Values: []string{"left", "right"}},
	{Name: "size", Kind: schema.Numeric, Values: []string{"under 10", "10 or more"}, Edges: []float64{10}},
}}

func one(text string) report.Report {
	return report.Report{ID: "r1", Sections: []report.Section{{Name: "findings", Text: text}}}
}

// endpoint serves chat completions on loopback; answer makes the content.
func endpoint(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request) string) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(calls.Add(1))
		if r.URL.Path != "/v1/chat/completions" {
			http.NotFound(w, r)
			return
		}
		content := answer(n, w, r)
		if content == "" {
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": content}}}})
	}))
	t.Cleanup(s.Close)
	return s, &calls
}

func client(t *testing.T, s *httptest.Server, change func(*Config)) *Client {
	t.Helper()
	config := Config{BaseURL: s.URL + "/v1", Model: "m", Key: "sekret", Backoff: time.Millisecond, Retries: 2, Timeout: 5 * time.Second}
	if change != nil {
		change(&config)
	}
	c, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func engine(t testing.TB) *rules.Engine {
	t.Helper()
	e, err := rules.DefaultEngine()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func cellsJSON(cells ...string) string { return `{"cells":[` + strings.Join(cells, ",") + `]}` }

func TestInterpretTakesOnlyWhatTheReportSays(t *testing.T) {
	r := one("A 12 mm mass on the left. No nodule in the masses.")
	for _, c := range []struct {
		name, answer string
		want         []string // state and value of the cells
		audit        Audit
	}{
		{"all well", cellsJSON(
			`{"attribute":"mass","state":"stated","value":"yes","quote":"12 mm mass"}`,
			`{"attribute":"side","state":"uncertain","value":"Left","quote":"on the left"}`,
			`{"attribute":"size","state":"stated","value":"12","quote":"12 mm"}`),
			[]string{"stated 1", "uncertain 0", "stated 1"}, Audit{Accepted: 3}},
		{"quote is not there", cellsJSON(`{"attribute":"mass","state":"stated","value":"yes","quote":"a large mass"}`),
			[]string{"unmentioned -1", "unmentioned -1", "unmentioned -1"}, Audit{QuoteNotFound: 1}},
		{"quote differs in case and blanks", cellsJSON(`{"attribute":"mass","state":"stated","value":"yes","quote":"a 12MM\n mass"}`),
			[]string{"stated 1", "unmentioned -1", "unmentioned -1"}, Audit{Accepted: 1}},
		{"quote is part of a word", cellsJSON(`{"attribute":"mass","state":"stated","value":"yes","quote":"odule"}`),
			[]string{"unmentioned -1", "unmentioned -1", "unmentioned -1"}, Audit{QuoteNotFound: 1}},
		{"quote is empty or trivial", cellsJSON(`{"attribute":"mass","state":"stated","value":"yes","quote":""}`, `{"attribute":"side","state":"stated","value":"left","quote":"A"}`),
			[]string{"unmentioned -1", "unmentioned -1", "unmentioned -1"}, Audit{QuoteNotFound: 2}},
		{"invented values", cellsJSON(
			`{"attribute":"side","state":"stated","value":"both","quote":"on the left"}`,
			`{"attribute":"size","state":"stated","value":"36","quote":"12 mm"}`,
			`{"attribute":"mass","state":"stated","value":"perhaps","quote":"12 mm mass"}`),
			[]string{"unmentioned -1", "unmentioned -1", "unmentioned -1"}, Audit{InventedValue: 3}},
		{"unknown attribute, state, repetition", cellsJSON(
			`{"attribute":"colour","state":"stated","value":"","quote":"mass"}`,
			`{"attribute":"side","state":"<UNKNOWN>","value":"left","quote":"on the left"}`,
			`{"attribute":"mass","state":"negated","value":"","quote":"No nodule"}`,
			`{"attribute":"mass","state":"stated","value":"yes","quote":"12 mm mass"}`),
			[]string{"negated 0", "unmentioned -1", "unmentioned -1"}, Audit{Accepted: 1, UnknownAttribute: 1, BadState: 1, Repeated: 1}},
		{"fenced", "```json\n" + cellsJSON(`{"attribute":"mass","state":"stated","value":"","quote":"mass"}`) + "\n```",
			[]string{"stated 1", "unmentioned -1", "unmentioned -1"}, Audit{Accepted: 1}},
		{"stated no", cellsJSON(`{"attribute":"mass","state":"stated","value":"no","quote":"No nodule"}`),
			[]string{"negated 0", "unmentioned -1", "unmentioned -1"}, Audit{Accepted: 1}},
		{"nothing", cellsJSON(), []string{"unmentioned -1", "unmentioned -1", "unmentioned -1"}, Audit{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cells, audit, err := interpret(engine(t), &findings, r, c.answer)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, cell := range cells {
				got = append(got, fmt.Sprintf("%s %d", cell.State, cell.Value))
				if cell.State != schema.Unmentioned && !r.Holds(cell.Evidence) {
					t.Errorf("evidence %+v is not in the report", cell.Evidence)
				}
			}
			if diff := cmp.Diff(c.want, got) + cmp.Diff(c.audit, audit); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []string{"", "I am sorry", `{"cells":`, `[]`, `{"answer":[]}`, `{"cells":"x"}`, cellsJSON() + cellsJSON(`{}`)} {
		if _, _, err := interpret(engine(t), &findings, r, bad); err == nil {
			t.Errorf("answer %q was read", bad)
		}
	}
}

func TestExtractKeepsOrderCachesAndRecordsNothingElse(t *testing.T) {
	var mu sync.Mutex
	keys := map[string]bool{}
	s, calls := endpoint(t, func(_ int, _ http.ResponseWriter, r *http.Request) string {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		keys[r.Header.Get("Authorization")] = true
		mu.Unlock()
		if !strings.Contains(string(body), `"json_schema"`) || !strings.Contains(string(body), `"strict":true`) || !strings.Contains(string(body), `"temperature":0`) {
			t.Errorf("the request asks for no JSON schema: %s", body)
		}
		if strings.Contains(string(body), "left mass") {
			return cellsJSON(`{"attribute":"side","state":"stated","value":"left","quote":"left mass"}`)
		}
		return cellsJSON(`{"attribute":"side","state":"stated","value":"right","quote":"right mass"}`)
	})
	dir := filepath.Join(t.TempDir(), "cache")
	c := client(t, s, func(c *Config) { c.CacheDir = dir })
	reports := []report.Report{one("A left mass."), one("A right mass."), one("  \n"), one("A left mass.")}
	if e := c.EstimateExtract(&findings, reports); e.Requests != 3 || e.Empty != 1 || e.InputTokens < 100 || calls.Load() != 0 {
		t.Errorf("estimate %+v after %d calls", e, calls.Load())
	}
	rows, audit, err := c.Extract(context.Background(), &findings, reports)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, row := range rows {
		got = append(got, row[1].Value)
	}
	if diff := cmp.Diff([]int{0, 1, -1, 0}, got); diff != "" || audit.Accepted != 3 {
		t.Error(diff, audit)
	}
	before := calls.Load()
	if _, _, err := c.Extract(context.Background(), &findings, reports); err != nil || calls.Load() != before {
		t.Errorf("the second run sent %d requests (%v)", calls.Load()-before, err)
	}
	if e := c.EstimateExtract(&findings, reports); e.Requests != 0 || e.Cached != 3 {
		t.Errorf("estimate after the run: %+v", e)
	}
	if !keys["Bearer sekret"] || len(keys) != 1 {
		t.Errorf("keys sent: %v", keys)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 2 {
		t.Fatalf("cache holds %v", files)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", f, info.Mode(), err)
		}
		data, _ := os.ReadFile(f)
		if err := os.WriteFile(f, []byte(strings.Replace(string(data), "mass", "MASS", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := c.Extract(context.Background(), &findings, reports[:2]); err != nil || calls.Load() != before+2 {
		t.Errorf("spoilt cache files were taken: %d new requests, %v", calls.Load()-before, err)
	}
}

func TestAnswersThatAreNotJSONAreAskedForAgainThenUnmentioned(t *testing.T) {
	s, calls := endpoint(t, func(n int, _ http.ResponseWriter, _ *http.Request) string {
		if n == 3 {
			return cellsJSON(`{"attribute":"mass","state":"stated","value":"yes","quote":"mass"}`)
		}
		return "The patient has a mass."
	})
	c := client(t, s, nil)
	rows, audit, err := c.Extract(context.Background(), &findings, []report.Report{one("A mass.")})
	if err != nil || rows[0][0].State != schema.Stated || calls.Load() != 3 {
		t.Errorf("%v %+v %v after %d calls", rows, audit, err, calls.Load())
	}
	_, _, err = c.Extract(context.Background(), &findings, []report.Report{one("Another mass."), one("")})
	if err == nil || !strings.Contains(err.Error(), "none of 1 reports") || calls.Load() != 6 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestFailingEndpoints(t *testing.T) {
	const words = "PATIENTWORDS mass"
	for _, c := range []struct {
		name   string
		status int
		calls  int32
		want   string
	}{
		{"overloaded", http.StatusServiceUnavailable, 3, "HTTP status 503"},
		{"too many requests", http.StatusTooManyRequests, 3, "HTTP status 429"},
		{"wrong key", http.StatusUnauthorized, 1, "check the key"},
		{"wrong path", http.StatusNotFound, 1, "check base URL"},
		{"refused in every form", http.StatusBadRequest, 4, "JSON schema"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, calls := endpoint(t, func(_ int, w http.ResponseWriter, _ *http.Request) string {
				w.WriteHeader(c.status)
				fmt.Fprintf(w, `{"error":{"message":"cannot process: %s","type":"x"}}`, words)
				return ""
			})
			_, _, err := client(t, s, nil).Extract(context.Background(), &findings, []report.Report{one(words)})
			if err == nil || !strings.Contains(err.Error(), c.want) || calls.Load() != c.calls {
				t.Fatalf("error %v after %d calls; want one with %q after %d", err, calls.Load(), c.want, c.calls)
			}
			if strings.Contains(err.Error(), "PATIENTWORDS") || strings.Contains(err.Error(), "sekret") {
				t.Errorf("report text or key in %v", err)
			}
		})
	}
	t.Run("no chat completion", func(t *testing.T) {
		s, _ := endpoint(t, func(_ int, w http.ResponseWriter, _ *http.Request) string {
			fmt.Fprintf(w, "<html>%s</html>", words)
			return ""
		})
		_, _, err := client(t, s, nil).Extract(context.Background(), &findings, []report.Report{one(words)})
		if err == nil || strings.Contains(err.Error(), "PATIENTWORDS") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("slow", func(t *testing.T) {
		release := make(chan struct{})
		s, calls := endpoint(t, func(_ int, _ http.ResponseWriter, r *http.Request) string {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return ""
		})
		defer close(release)
		c := client(t, s, func(c *Config) { c.Timeout = 20 * time.Millisecond; c.Retries = 1 })
		_, _, err := c.Extract(context.Background(), &findings, []report.Report{one(words)})
		if err == nil || !strings.Contains(err.Error(), "no answer within 20ms") || calls.Load() != 2 {
			t.Errorf("error %v after %d calls", err, calls.Load())
		}
	})
	t.Run("down", func(t *testing.T) {
		s, _ := endpoint(t, func(int, http.ResponseWriter, *http.Request) string { return "" })
		c := client(t, s, func(c *Config) { c.Retries = -1 })
		s.Close()
		_, _, err := c.Extract(context.Background(), &findings, []report.Report{one(words)})
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		s, _ := endpoint(t, func(_ int, w http.ResponseWriter, _ *http.Request) string {
			w.WriteHeader(http.StatusServiceUnavailable)
			return ""
		})
		ctx, cancel := context.WithCancel(context.Background())
		c := client(t, s, func(c *Config) { c.Backoff = time.Hour })
		time.AfterFunc(30*time.Millisecond, cancel)
		if _, _, err := c.Extract(ctx, &findings, []report.Report{one(words)}); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

func TestRetryHealsATransientFailure(t *testing.T) {
	s, calls := endpoint(t, func(n int, w http.ResponseWriter, _ *http.Request) string {
		if n < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return ""
		}
		return cellsJSON()
	})
	if _, _, err := client(t, s, nil).Extract(context.Background(), &findings, []report.Report{one("mass")}); err != nil || calls.Load() != 3 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestSelectWantsAValidSchema(t *testing.T) {
	good := `{"attributes":[{"name":"mass","kind":"binary","values":[],"edges":[]},{"name":"size","kind":"numeric","values":[],"edges":[10,20]},{"name":"side","kind":"categorical","values":["left","right"],"edges":[]}]}`
	for _, c := range []struct{ name, answer, want string }{
		{"good", good, ""},
		{"one value", `{"attributes":[{"name":"side","kind":"categorical","values":["left"],"edges":[]}]}`, "at least 2"},
		{"duplicate names", `{"attributes":[{"name":"a","kind":"binary","values":[],"edges":[]},{"name":"a","kind":"binary","values":[],"edges":[]}]}`, "already used"},
		{"no edges", `{"attributes":[{"name":"size","kind":"numeric","values":[],"edges":[]}]}`, "at least 2"},
		{"not JSON", `Mass, size and side.`, "not the JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := endpoint(t, func(int, http.ResponseWriter, *http.Request) string { return c.answer })
			cl := client(t, s, nil)
			training := []report.Report{one("A left mass of 12 mm."), one("")}
			if e := cl.EstimateSelect(training, 5); e.Requests != 1 || e.InputTokens == 0 {
				t.Errorf("estimate %+v", e)
			}
			got, err := cl.Select(context.Background(), training, 5)
			if c.want == "" {
				if err != nil || got.Attributes[1].Values[1] != "10 to 20" || got.Attributes[0].Values[0] != "no" {
					t.Errorf("%+v %v", got, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	s, calls := endpoint(t, func(int, http.ResponseWriter, *http.Request) string { return good })
	if _, err := client(t, s, nil).Select(context.Background(), []report.Report{one("")}, 3); err == nil || calls.Load() != 0 {
		t.Errorf("empty reports: %v after %d calls", err, calls.Load())
	}
}

func TestNewRefusesBadConfigurations(t *testing.T) {
	for _, c := range []Config{{}, {BaseURL: "localhost:1", Model: "m"}, {BaseURL: "ftp://h", Model: "m"}, {BaseURL: "http://h"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v accepted", c)
		}
	}
	c, err := New(Config{BaseURL: "https://user:pass@host/v1?key=k", Model: "m"})
	if err != nil || c.Endpoint() != "https://host/v1" {
		t.Errorf("endpoint %q %v", c.Endpoint(), err)
	}
}

func FuzzInterpret(f *testing.F) {
	f.Add(cellsJSON(`{"attribute":"size","state":"stated","value":"12","quote":"12 mm"}`), "A 12 mm mass.")
	f.Add("```json\n{}\n```", "")
	english := engine(f)
	f.Fuzz(func(t *testing.T, answer, text string) {
		r := one(text)
		cells, _, err := interpret(english, &findings, r, answer)
		if err != nil {
			return
		}
		for i, c := range cells {
			if c.State != schema.Unmentioned && (!r.Holds(c.Evidence) || c.Value >= len(findings.Attributes[i].Values)) {
				t.Fatalf("%+v", c)
			}
		}
	})
}

func FuzzInterpretSchema(f *testing.F) {
	f.Add(`{"attributes":[{"name":"size","kind":"numeric","values":[],"edges":[10,20]}]}`)
	f.Fuzz(func(t *testing.T, answer string) {
		if s, err := interpretSchema(answer); err == nil {
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
