package llm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

var lesions = schema.Schema{Attributes: []schema.Attribute{
	{Name: "lesion", Kind: schema.Binary, Values: []string{"no", "yes"}},
	{Name: "calcification", Kind: schema.Binary, Values: []string{"no", "yes"}},
	{Name: "margin", Kind: schema.Categorical, Values: []string{"smooth", "spiculated"}},
	{Name: "size_mm", Kind: schema.Numeric, Values: []string{"under 10", "10 or more"}, Edges: []float64{10}, Ordinal: true},
}}

// row reads an answer about text, as NAME=CELL of what is not unmentioned.
func row(t *testing.T, text, answer string) (string, error) {
	t.Helper()
	cells, _, err := interpret(engine(t), &lesions, one(text), answer)
	var said []string
	for i, c := range cells {
		if c.State != schema.Unmentioned {
			said = append(said, lesions.Attributes[i].Name+"="+schema.FormatCell(lesions.Attributes[i], c))
		}
	}
	return strings.Join(said, " "), err
}

func TestJSONIsFoundAmongThoughtsAndProse(t *testing.T) {
	good := cellsJSON(`{"attribute":"lesion","state":"stated","value":"yes","quote":"nodule"}`)
	other := cellsJSON(`{"attribute":"lesion","state":"negated","value":"","quote":"nodule"}`)
	for name, answer := range map[string]string{
		"fence":                  "```json\n" + good + "\n```",
		"fence and prose":        "Here it is {as asked}:\n```\n" + good + "\n```\nAnything else?",
		"thoughts":               "<think>Perhaps " + other + "?</think>\n\n" + good,
		"thoughts without start": "Perhaps " + other + "?</think>" + good,
		"said twice":             good + "\n" + good,
		"wrapped":                `{"result": ` + good + `}`,
		"an empty object before": "{}" + good,
		"further keys":           `{"note": "x", ` + good[1:],
	} {
		if got, err := row(t, "A nodule.", answer); err != nil || got != "lesion=1" {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	for name, answer := range map[string]string{
		"two that differ": good + other, "a bare list": "[" + good[10:], "cut off": good[:40], "thoughts alone": "<think>" + good + "</think>",
		"a nested value": cellsJSON(`{"attribute":["lesion"]}`),
	} {
		if got, err := row(t, "A nodule.", answer); err == nil {
			t.Errorf("%s: read as %q", name, got)
		}
	}
}

func TestNumbersAreCheckedAgainstTheQuoteInItsUnit(t *testing.T) {
	const text = "A 1.2 cm nodule, another of 0,8cm, a third of 3 x 1.5 cm and 14 follicles; 7-mm cyst."
	for _, c := range []struct{ value, quote, want string }{
		{`"12"`, "1.2 cm nodule", "12"},
		{`12`, "1.2 cm nodule", "12"},
		{`12.0`, "1.2 CM", "12"},
		{`"1.2"`, "1.2 cm nodule", "12"},
		{`"1.2 cm"`, "1.2 cm nodule", "12"},
		{`"12 mm"`, "1.2 cm nodule", "12"},
		{`"0,8 cm"`, "another of 0,8cm", "8"},
		{`8`, "0,8 cm", "8"},
		{`30`, "3 x 1.5 cm", "30"},
		{`3`, "3 x 1.5 cm", "30"},
		{`7`, "7-mm cyst", "7"},
		{`14`, "14 follicles", "14"},
		{`"12 cm"`, "1.2 cm nodule", ""},
		{`120`, "1.2 cm nodule", ""},
		{`2`, "1.2 cm nodule", ""},
		{`true`, "1.2 cm nodule", ""},
		{`null`, "1.2 cm nodule", ""},
		{`"3 x 1.5 cm"`, "3 x 1.5 cm", ""},
	} {
		got, err := row(t, text, cellsJSON(fmt.Sprintf(`{"attribute":"size_mm","state":"stated","value":%s,"quote":%q}`, c.value, c.quote)))
		want := c.want
		if want != "" {
			want = "size_mm=" + want
		}
		if err != nil || got != want {
			t.Errorf("%s from %q: %q %v, want %q", c.value, c.quote, got, err, want)
		}
	}
}

func TestQuotesAreEqualUpToCaseAndBlanks(t *testing.T) {
	const text = "Impression:\n  A  12 mm\nnodule — it’s “new” (3 mm\u00a0before). ATYPICAL mass; 1 2 mm."
	for quote, want := range map[string]string{
		"a 12 mm nodule":      "A  12 mm\nnodule",
		"12mm Nodule - it's":  "12 mm\nnodule — it’s",
		"\"new\"(3mm before)": "“new” (3 mm\u00a0before)",
		"nodule…":             "nodule",
		"atypical mass":       "ATYPICAL mass",
		"a typical mass":      "",
		"nodu le":             "",
		"1 2 mm":              "1 2 mm",
		"2 mm nodule":         "",
		"no":                  "",
	} {
		e, ok := locate(one(text), quote)
		if ok != (want != "") || e.Quote != want || ok && !one(text).Holds(e) {
			t.Errorf("%q: %q %v, want %q", quote, e.Quote, ok, want)
		}
	}
}

func TestAStateThatItsQuoteContradictsIsRefused(t *testing.T) {
	for _, c := range []struct{ text, attribute, state, value, quote, want string }{
		{"A lesion with no calcification.", "calcification", "stated", "yes", "no calcification", ""},
		{"A lesion with no calcification.", "calcification", "stated", "yes", "calcification", ""},
		{"A lesion with no calcification.", "calcification", "stated", "yes", "A lesion with no calcification", ""},
		{"A lesion with no calcification.", "calcification", "negated", "", "no calcification", "calcification=0"},
		{"A lesion with no calcification.", "calcification", "stated", "no", "no calcification", "calcification=0"},
		{"A lesion with no calcification.", "lesion", "stated", "yes", "A lesion with no calcification", "lesion=1"},
		{"Possible calcification.", "calcification", "stated", "yes", "Possible calcification", ""},
		{"Possible calcification.", "calcification", "uncertain", "yes", "Possible calcification", "calcification=-1"},
		{"There is a calcified focus.", "calcification", "negated", "", "calcified focus", ""},
		{"A noncalcified focus is seen.", "calcification", "negated", "", "noncalcified focus", "calcification=0"},
		{"The lungs are clear.", "lesion", "negated", "", "lungs are clear", "lesion=0"},
		{"The margin is not smooth.", "margin", "stated", "smooth", "margin is not smooth", ""},
		{"Kein Hinweis auf Verkalkung, der Herd ist rund.", "calcification", "negated", "", "Kein Hinweis auf Verkalkung", "calcification=0"},
	} {
		got, err := row(t, c.text, cellsJSON(fmt.Sprintf(`{"attribute":%q,"state":%q,"value":%q,"quote":%q}`, c.attribute, c.state, c.value, c.quote)))
		if err != nil || got != c.want {
			t.Errorf("%s %s by %q: %q %v, want %q", c.attribute, c.state, c.quote, got, err, c.want)
		}
	}
}

// served is a server that answers a request's JSON with a status and a body; it returns a
// client of it and the number of requests.
func served(t *testing.T, change func(*Config), answer func(n int, doc map[string]any, w http.ResponseWriter)) (*Client, *atomic.Int32) {
	t.Helper()
	s, calls := endpoint(t, func(n int, w http.ResponseWriter, r *http.Request) string {
		var doc map[string]any
		if err := json.NewDecoder(r.Body).Decode(&doc); err != nil {
			t.Error(err)
		}
		answer(n, doc, w)
		return ""
	})
	return client(t, s, change), calls
}

const noduleAnswer = `{\"cells\":[{\"attribute\":\"lesion\",\"state\":\"stated\",\"value\":\"yes\",\"quote\":\"nodule\"}]}`

func ask(t *testing.T, c *Client, text string) (schema.Cell, Audit, error) {
	t.Helper()
	rows, audit, err := c.Extract(context.Background(), &lesions, []report.Report{one(text)})
	if err != nil {
		return schema.Cell{}, audit, err
	}
	return rows[0][0], audit, nil
}

// The bodies follow what llama.cpp's server, vLLM and Ollama document for
// /v1/chat/completions.
func TestAnswersOfEachKindOfServer(t *testing.T) {
	for name, body := range map[string]string{
		"llama.cpp":                           `{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"%s"}}],"created":1,"model":"m","object":"chat.completion","usage":{"completion_tokens":9,"prompt_tokens":400,"total_tokens":409},"timings":{"prompt_n":400}}`,
		"llama.cpp, deepseek thoughts":        `{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","reasoning_content":"Let me see {.","content":"%s"}}]}`,
		"vLLM":                                `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","reasoning_content":null,"content":"%s","tool_calls":[]},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":400,"total_tokens":409},"prompt_logprobs":null}`,
		"vLLM, parser took all for reasoning": `{"choices":[{"index":0,"message":{"role":"assistant","reasoning_content":"%s","content":null},"finish_reason":"stop"}]}`,
		"vLLM, newer name":                    `{"choices":[{"index":0,"message":{"role":"assistant","reasoning":"%s","content":null},"finish_reason":"stop"}]}`,
		"Ollama":                              `{"id":"chatcmpl-1","object":"chat.completion","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":400,"completion_tokens":9}}`,
		"Ollama, thoughts":                    `{"choices":[{"index":0,"message":{"role":"assistant","content":"%s","reasoning":"Let me see."},"finish_reason":"stop"}]}`,
		"content in parts":                    `{"choices":[{"message":{"role":"assistant","content":[{"type":"text","text":"%s"}]}}]}`,
	} {
		c, _ := served(t, nil, func(_ int, _ map[string]any, w http.ResponseWriter) { fmt.Fprintf(w, body, noduleAnswer) })
		if cell, audit, err := ask(t, c, "A nodule."); err != nil || cell.State != schema.Stated || len(audit.PromptsCut) != 0 {
			t.Errorf("%s: %v %+v %v", name, cell.State, audit, err)
		}
	}
}

func TestWhatAnEndpointRefusesIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		name    string
		refuses func(map[string]any) (status int, words string)
		calls   int32
	}{
		{"knows json_object only", func(d map[string]any) (int, string) {
			return refuseIf(strings.Contains(fmt.Sprint(d["response_format"]), "json_schema"), 400, "'response_format.type' must be 'json_object'")
		}, 2},
		{"knows no response_format", func(d map[string]any) (int, string) {
			return refuseIf(d["response_format"] != nil, 422, "extra fields not permitted")
		}, 3},
		{"no grammar for the schema", func(d map[string]any) (int, string) {
			return refuseIf(strings.Contains(fmt.Sprint(d["response_format"]), "json_schema"), 500, "failed to parse grammar")
		}, 2},
		{"no seed", func(d map[string]any) (int, string) {
			return refuseIf(d["seed"] != nil, 400, "Unrecognized request argument supplied: seed")
		}, 2},
		{"other name for max_tokens", func(d map[string]any) (int, string) {
			return refuseIf(d["max_tokens"] != nil, 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
		}, 2},
		{"no temperature", func(d map[string]any) (int, string) {
			return refuseIf(d["temperature"] != nil, 400, "'temperature' does not support 0 with this model")
		}, 2},
		{"bare messages only, without a word why", func(d map[string]any) (int, string) {
			return refuseIf(len(d) > 3, 400, "")
		}, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl, calls := served(t, nil, func(_ int, d map[string]any, w http.ResponseWriter) {
				if code, words := c.refuses(d); code != 0 {
					w.WriteHeader(code)
					fmt.Fprintf(w, `{"error":{"message":%q}}`, words)
					return
				}
				if d["response_format"] == nil && !strings.Contains(fmt.Sprint(d["messages"]), `"additionalProperties"`) {
					t.Error("neither the format nor the prompt says what JSON is wanted")
				}
				fmt.Fprintf(w, `{"choices":[{"message":{"content":"%s"}}]}`, noduleAnswer)
			})
			if cell, _, err := ask(t, cl, "A nodule."); err != nil || cell.State != schema.Stated || calls.Load() != c.calls {
				t.Fatalf("%v %v after %d calls, want %d", cell.State, err, calls.Load(), c.calls)
			}
			if _, _, err := ask(t, cl, "Another nodule."); err != nil || calls.Load() != c.calls+1 {
				t.Errorf("the endpoint's refusal was forgotten: %d calls, %v", calls.Load(), err)
			}
		})
	}
}

func refuseIf(refused bool, status int, words string) (int, string) {
	if !refused {
		return 0, ""
	}
	return status, words
}

func TestReportsTooLongForTheContextAreNamed(t *testing.T) {
	for name, words := range map[string]string{
		"vLLM":      "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens",
		"llama.cpp": "the request exceeds the available context size, try increasing it",
	} {
		c, _ := served(t, nil, func(_ int, d map[string]any, w http.ResponseWriter) {
			if strings.Contains(fmt.Sprint(d["messages"]), "story") {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"error":{"code":400,"message":%q,"type":"exceed_context_size_error"}}`, words)
				return
			}
			fmt.Fprintf(w, `{"choices":[{"message":{"content":"%s"}}]}`, noduleAnswer)
		})
		rows, audit, err := c.Extract(context.Background(), &lesions, []report.Report{one("A nodule."), {ID: "r2", Sections: one("A story.").Sections}})
		if err != nil || rows[0][0].State != schema.Stated || rows[1][0].State != schema.Unmentioned || len(audit.TooLong) != 1 || audit.TooLong[0] != "r2" {
			t.Errorf("%s: %v %+v %v", name, rows, audit, err)
		}
	}
}

func TestAPromptThatWasNotReadWholeIsNamedAlsoFromTheCache(t *testing.T) {
	dir := t.TempDir()
	c, calls := served(t, func(c *Config) { c.CacheDir = dir }, func(_ int, _ map[string]any, w http.ResponseWriter) {
		fmt.Fprintf(w, `{"choices":[{"message":{"content":"%s"}}],"usage":{"prompt_tokens":512}}`, noduleAnswer)
	})
	for range 2 {
		cell, audit, err := ask(t, c, "A nodule. "+strings.Repeat("It was seen before and after. ", 200))
		if err != nil || cell.State != schema.Stated || len(audit.PromptsCut) != 1 || calls.Load() != 1 {
			t.Errorf("%v %+v %v after %d calls", cell.State, audit, err, calls.Load())
		}
	}
}

func TestAnAnswerCutAtItsLimitIsAskedForWithALargerOne(t *testing.T) {
	var limits []float64
	c, _ := served(t, func(c *Config) { c.MaxTokens = 50 }, func(n int, d map[string]any, w http.ResponseWriter) {
		limits = append(limits, d["max_tokens"].(float64))
		if n == 1 {
			fmt.Fprintf(w, `{"choices":[{"message":{"content":"%s"},"finish_reason":"length"}]}`, `{\"cells\":[{`)
			return
		}
		fmt.Fprintf(w, `{"choices":[{"message":{"content":"%s"},"finish_reason":"stop"}]}`, noduleAnswer)
	})
	if _, _, err := ask(t, c, "A nodule."); err != nil || fmt.Sprint(limits) != "[50 200]" {
		t.Errorf("limits %v, %v", limits, err)
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0.5": 500 * time.Millisecond, "Fri, 01 May 2026 12:00:09 GMT": 9 * time.Second,
		"Fri, 01 May 2026 11:00:00 GMT": 0, "": 0, "soon": 0, "-3": 0, "NaN": 0,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := pause(ctx, 0, &statusError{retryAfter: time.Hour}); err == nil {
		t.Error("an hour's wait ended")
	}
}

func TestNoReportFollowsARedirectOrAnUnnamedProxy(t *testing.T) {
	var stolen atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen.Add(1)
		io.WriteString(w, "{}")
	}))
	defer thief.Close()
	for _, status := range []int{301, 302, 307, 308} {
		c, calls := served(t, nil, func(_ int, _ map[string]any, w http.ResponseWriter) {
			w.Header().Set("Location", thief.URL+"/steal?nodule")
			w.WriteHeader(status)
		})
		_, _, err := ask(t, c, "A nodule.")
		if err == nil || !strings.Contains(err.Error(), "redirects to "+thief.URL+";") || calls.Load() != 1 {
			t.Errorf("%d: %v after %d calls", status, err, calls.Load())
		}
	}
	config := Config{BaseURL: "http://model.invalid/v1", Model: "m", Retries: -1, Timeout: 5 * time.Second}
	t.Setenv("HTTP_PROXY", thief.URL)
	direct, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(t, direct, "A nodule."); err == nil || stolen.Load() != 0 {
		t.Errorf("%v; %d requests went elsewhere", err, stolen.Load())
	}
	if r := direct.Route(); !strings.Contains(r, "not encrypted") {
		t.Errorf("route %q", r)
	}
	config.Proxy = thief.URL
	named, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(t, named, "A nodule."); err == nil || stolen.Load() == 0 || !strings.Contains(named.Route(), "through the proxy") {
		t.Errorf("%v; %d requests through the proxy; route %q", err, stolen.Load(), named.Route())
	}
}

func TestTheCacheBelongsToOneEndpoint(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		c, calls := served(t, func(c *Config) { c.CacheDir = dir }, func(_ int, _ map[string]any, w http.ResponseWriter) {
			fmt.Fprintf(w, `{"choices":[{"message":{"content":"%s"}}]}`, noduleAnswer)
		})
		if _, _, err := ask(t, c, "A nodule."); err != nil || calls.Load() != 1 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("%v %v", files, err)
	}
}

func FuzzLocate(f *testing.F) {
	f.Add("A  12 mm\nnodule", "a 12mm nodule")
	f.Fuzz(func(t *testing.T, text, quote string) {
		if e, ok := locate(one(text), quote); ok && !one(text).Holds(e) {
			t.Fatalf("%+v", e)
		}
	})
}
