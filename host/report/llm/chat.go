package llm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxAnswerBytes bounds what is read of one HTTP response.
const maxAnswerBytes = 8 << 20

// format is the form in which JSON is asked for, the strictest first. Every server that
// speaks the protocol takes the last; older ones refuse the first or the first two.
type format uint8

const (
	schemaFormat format = iota // response_format json_schema
	objectFormat               // response_format json_object
	plainFormat                // words in the prompt alone
)

// dialect is what an endpoint takes of a request. limit is the name of the setting that
// bounds the answer, "" for none.
type dialect struct {
	format            format
	seed, temperature bool
	limit             string
}

// simpler is the dialect to try after the endpoint refused d with the words given; false
// when there is none. What the words name goes first, then the format.
func (d dialect) simpler(words string) (dialect, bool) {
	words = strings.ToLower(words)
	named := func(s string) bool { return strings.Contains(words, s) }
	switch {
	case d.limit == "max_tokens" && named("max_tokens"):
		d.limit = "max_completion_tokens"
	case d.limit != "" && named("max_completion_tokens"):
		d.limit = ""
	case d.seed && named("seed"):
		d.seed = false
	case d.temperature && named("temperature"):
		d.temperature = false
	case d.format != plainFormat:
		d.format++
	case d.seed || d.temperature || d.limit != "":
		d = dialect{format: plainFormat}
	default:
		return d, false
	}
	return d, true
}

// body is the JSON of a request in this dialect. seed makes repetitions differ.
func (d dialect) body(r request, seed int) []byte {
	system := r.System
	if d.format != schemaFormat {
		system += "\nAnswer with one JSON object and nothing else. It follows this JSON schema:\n" + string(r.Schema) + "\n"
	}
	doc := map[string]any{
		"model": r.Model,
		"messages": []map[string]string{
			{"role": "system", "content": system},
			{"role": "user", "content": r.User},
		},
		"stream": false,
	}
	switch d.format {
	case schemaFormat:
		doc["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{
			"name": r.SchemaName, "schema": r.Schema, "strict": true}}
	case objectFormat:
		doc["response_format"] = map[string]any{"type": "json_object"}
	}
	if d.seed {
		doc["seed"] = seed
	}
	if d.temperature {
		doc["temperature"] = 0
	}
	if d.limit != "" {
		doc[d.limit] = r.maxTokens
	}
	data, _ := json.Marshal(doc) // strings, numbers and JSON that was marshalled before
	return data
}

// statusError is an answer that is a failure. words are the server's: they may repeat the
// report and are never shown.
type statusError struct {
	code       int
	retryAfter time.Duration
	words      string
}

func (e *statusError) Error() string { return fmt.Sprintf("HTTP status %d", e.code) }

// errTooLong is returned when the endpoint says that the report does not fit its context.
var errTooLong = errors.New("the report is longer than the model's context")

// errHuge is returned for a response that is longer than what is read of one.
var errHuge = fmt.Errorf("the answer is longer than %d MiB", maxAnswerBytes>>20)

// errNoCompletion is returned for a response that is no chat completion.
var errNoCompletion = errors.New("no chat completion")

// send asks once, in the strictest dialect that the endpoint takes; what it was seen to
// take is what later requests begin with.
func (c *Client) send(ctx context.Context, r request, attempt int) (reply, error) {
	first := c.dialect.Load()
	for d := *first; ; {
		answer, err := c.post(ctx, r, d.body(r, attempt))
		var failed *statusError
		if !errors.As(err, &failed) {
			if err == nil && d != *first {
				c.dialect.CompareAndSwap(first, &d)
			}
			return answer, err
		}
		if !failed.refusesForm() {
			return reply{}, err
		}
		if failed.aboutContext() {
			return reply{}, errTooLong
		}
		var ok bool
		if d, ok = d.simpler(failed.words); !ok {
			return reply{}, err
		}
	}
}

// refusesForm reports whether the endpoint objects to the request rather than to who asks
// or when: by the status, or, as some do, by a 500 that names the answer's form.
func (e *statusError) refusesForm() bool {
	switch e.code {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType, http.StatusNotImplemented, http.StatusRequestEntityTooLarge:
		return true
	case http.StatusInternalServerError:
		words := strings.ToLower(e.words)
		return strings.Contains(words, "response_format") || strings.Contains(words, "schema") || strings.Contains(words, "grammar")
	}
	return false
}

// aboutContext recognises how vLLM ("maximum context length"), llama.cpp
// ("exceed_context_size_error") and others say that a prompt is too long.
func (e *statusError) aboutContext() bool {
	words := strings.ToLower(e.words)
	return e.code == http.StatusRequestEntityTooLarge || strings.Contains(words, "context") &&
		(strings.Contains(words, "length") || strings.Contains(words, "size") || strings.Contains(words, "window") || strings.Contains(words, "exceed"))
}

// completion is what is read of a chat completion.
type completion struct {
	Choices []struct {
		FinishReason string `json:"finish_reason"`
		Message      struct {
			Content          json.RawMessage `json:"content"`
			ReasoningContent string          `json:"reasoning_content"`
			Reasoning        string          `json:"reasoning"`
		} `json:"message"`
	} `json:"choices"`
	Usage struct {
		PromptTokens int `json:"prompt_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

func (c *Client) post(ctx context.Context, r request, body []byte) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.JoinPath("chat/completions").String(), bytes.NewReader(body))
	if err != nil {
		return reply{}, &url.Error{Op: "Post", Err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	if c.config.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.config.Key)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return reply{}, &url.Error{Op: "Post", Err: err}
	}
	if resp.StatusCode != http.StatusOK {
		return reply{}, &statusError{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now()), string(data)}
	}
	if len(data) > maxAnswerBytes {
		return reply{}, errHuge
	}
	var doc completion
	if json.Unmarshal(data, &doc) != nil || len(doc.Choices) == 0 && len(doc.Error) > 0 {
		return reply{}, errNoCompletion
	}
	if len(doc.Choices) == 0 {
		return reply{}, nil // no JSON either: accept refuses it
	}
	first := doc.Choices[0]
	answer := reply{text: contentText(first.Message.Content), cut: first.FinishReason == "length"}
	for _, other := range []string{first.Message.ReasoningContent, first.Message.Reasoning} {
		if strings.TrimSpace(answer.text) == "" {
			answer.text = other // some servers take a whole answer for thoughts
		}
	}
	read := doc.Usage.PromptTokens
	answer.promptCut = read > 0 && read < leastTokens(r.System+r.User)
	return answer, nil
}

// contentText is a message's content: a string, or a list of parts with text.
func contentText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var parts []struct{ Text string }
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	for _, p := range parts {
		text += p.Text
	}
	return text
}

// retryAfter reads the header of that name: seconds or a date; 0 when it says nothing.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseFloat(strings.TrimSpace(header), 64); err == nil && seconds > 0 && seconds < 1e6 {
		return time.Duration(seconds * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// leastTokens is fewer tokens than any tokenizer makes of a text: one to a word or number,
// less a tenth.
func leastTokens(text string) int {
	n := 0
	before := false
	for _, r := range text {
		word := unicode.IsLetter(r) || unicode.IsDigit(r)
		if word && !before {
			n++
		}
		before = word
	}
	return n - n/10
}
