package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAttributesByLanguageModel runs select and extract against a fake endpoint
// on loopback.
func TestAttributesByLanguageModel(t *testing.T) {
	const key = "sekret-key"
	t.Setenv("TEST_LLM_KEY", key)
	answers := []string{
		`{"attributes":[{"name":"mass","kind":"binary","values":[],"edges":[]},{"name":"side","kind":"categorical","values":["left","right"],"edges":[]}]}`,
		`{"cells":[{"attribute":"mass","state":"stated","value":"yes","quote":"left mass"},{"attribute":"side","state":"stated","value":"right","quote":"right mass"}]}`,
	}
	requests := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+key {
			t.Errorf("authorization %q", r.Header.Get("Authorization"))
		}
		answer := answers[min(requests, len(answers)-1)]
		requests++
		json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": map[string]any{"content": answer}}}})
	}))
	defer s.Close()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("r.csv"), []byte("id,text\n1,A left mass.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	run := func(want int, args ...string) {
		t.Helper()
		stdout.Reset()
		stderr.Reset()
		args = append([]string{"alignedfusion", "attributes"}, args...)
		args = append(args, "--data", path("r.csv"), "--llm-url", s.URL+"/v1", "--llm-model", "tiny", "--llm-key-env", "TEST_LLM_KEY", "--llm-cache", path("cache"), "--llm-retries", "0")
		if code := Main(args, &stdout, &stderr); code != want {
			t.Fatalf("exit code %d, want %d: %s", code, want, stderr.String())
		}
		if strings.Contains(stderr.String(), "left mass") || strings.Contains(stderr.String(), key) {
			t.Errorf("report text or key in %q", stderr.String())
		}
	}

	run(0, "select", "--by", "llm", "--out", path("schema.json"), "--dry-run", "--price-in", "1000000", "--price-out", "0")
	if requests != 0 || !strings.Contains(stderr.String(), "1 requests") || !strings.Contains(stderr.String(), "at the prices given") {
		t.Errorf("dry run sent %d requests: %s", requests, stderr.String())
	}
	if _, err := os.Stat(path("schema.json")); err == nil {
		t.Error("dry run wrote a schema")
	}
	run(0, "select", "--by", "llm", "--out", path("schema.json"))
	if !strings.Contains(stdout.String(), "side (categorical): left, right") {
		t.Errorf("select printed %q", stdout.String())
	}
	run(0, "extract", "--schema", path("schema.json"), "--out", path("t.csv"))
	table, err := os.ReadFile(path("t.csv"))
	if err != nil {
		t.Fatal(err)
	}
	// The quote "right mass" is not in the report: side stays unmentioned.
	want := "id,mass,side,mass.evidence,side.evidence\n1,1,,\"text[2:11] \"\"left mass\"\"\",\n"
	if string(table) != want {
		t.Errorf("table %q, want %q", table, want)
	}
	record, err := os.ReadFile(path("t.csv.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"model": "tiny"`, `"prompt": "You fill`, `"quote_not_found": 1`, `"endpoint": "http://127.0.0.1`} {
		if !strings.Contains(string(record), want) {
			t.Errorf("the record lacks %s: %s", want, record)
		}
	}
	if strings.Contains(string(record), key) {
		t.Error("the key is in the record")
	}

	s.Close()
	run(0, "extract", "--schema", path("schema.json"), "--out", path("t2.csv")) // from the cache
	if err := os.RemoveAll(path("cache")); err != nil {
		t.Fatal(err)
	}
	run(1, "extract", "--schema", path("schema.json"), "--out", path("t3.csv"))
	if !strings.Contains(stderr.String(), "refused") {
		t.Errorf("endpoint down: %s", stderr.String())
	}
	if _, err := os.Stat(path("t3.csv")); err == nil {
		t.Error("a failed run left a table")
	}
}
