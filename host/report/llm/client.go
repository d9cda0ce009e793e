// Package llm selects and extracts attributes with a language model behind any
// OpenAI-compatible endpoint. Nothing the model says is taken on trust: states
// and values come from closed lists, and every statement needs a quote that is
// in the report word for word; otherwise the attribute counts as unmentioned.
// Errors and logs carry no report text.
package llm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sashabaranov/go-openai"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// maxAnswerBytes bounds what is read of one HTTP response.
const maxAnswerBytes = 8 << 20

// Config says where the model is and how patiently to ask.
type Config struct {
	// BaseURL is the API's root, such as http://localhost:11434/v1.
	BaseURL string
	// Model is the name the endpoint knows the model by.
	Model string
	// Key is sent as a bearer token; "" sends none that means anything.
	Key string
	// Timeout bounds one request; 0 means two minutes.
	Timeout time.Duration
	// Retries is how often a request is repeated after the first failure; negative
	// means never, 0 means 4.
	Retries int
	// Backoff is the wait before the first repetition, doubled for each further
	// one, with up to 50 % added at random; 0 means one second.
	Backoff time.Duration
	// CacheDir keeps answers, which quote reports: its files are readable by their
	// owner only. "" keeps none.
	CacheDir string
	// Parallel is the number of requests under way at once; 0 means 4.
	Parallel int
}

// Client asks one model.
type Client struct {
	config Config
	api    *openai.Client
}

// Endpoint is the base URL without credentials and query, for records and errors.
func (c *Client) Endpoint() string {
	u, err := url.Parse(c.config.BaseURL)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Model is the model's name.
func (c *Client) Model() string { return c.config.Model }

// New checks the configuration; it sends nothing.
func New(config Config) (*Client, error) {
	u, err := url.Parse(config.BaseURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("language model: the base URL is no http or https URL with a host")
	}
	if config.Model == "" {
		return nil, errors.New("language model: no model named")
	}
	if config.Timeout <= 0 {
		config.Timeout = 2 * time.Minute
	}
	if config.Retries == 0 {
		config.Retries = 4
	}
	if config.Backoff <= 0 {
		config.Backoff = time.Second
	}
	if config.Parallel <= 0 {
		config.Parallel = 4
	}
	api := openai.DefaultConfig(config.Key)
	api.BaseURL = strings.TrimSuffix(config.BaseURL, "/")
	api.HTTPClient = &http.Client{Transport: bounded{http.DefaultTransport}}
	return &Client{config, openai.NewClientWithConfig(api)}, nil
}

// bounded cuts response bodies at maxAnswerBytes.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswerBytes), resp.Body}
	}
	return resp, err
}

// request is one question with the form its answer must have.
type request struct {
	Model, System, User, SchemaName string
	Schema                          json.RawMessage
}

func (r request) key() string {
	data, _ := json.Marshal(r) // strings and raw JSON that was marshalled before
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// errUnreadable is returned when the model answered and the answer is not what
// was asked for, however often it was asked.
var errUnreadable = errors.New("the answer is not the JSON that was asked for")

// cached is a cache file: the answer under the hash of the question and its own.
type cached struct {
	Key    string `json:"key"`
	Answer string `json:"answer"`
	Sum    string `json:"sha256"`
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func (c *Client) cachePath(r request) string {
	return filepath.Join(c.config.CacheDir, r.key()+".json")
}

// recall returns a kept answer; a file that fails its check is ignored.
func (c *Client) recall(r request) (string, bool) {
	if c.config.CacheDir == "" {
		return "", false
	}
	data, err := os.ReadFile(c.cachePath(r))
	if err != nil {
		return "", false
	}
	var k cached
	if json.Unmarshal(data, &k) != nil || k.Key != r.key() || k.Sum != sum(k.Answer) {
		return "", false
	}
	return k.Answer, true
}

func (c *Client) keep(r request, answer string) error {
	if c.config.CacheDir == "" {
		return nil
	}
	if err := os.MkdirAll(c.config.CacheDir, 0o700); err != nil {
		return fmt.Errorf("language model cache: %w", err)
	}
	data, err := json.Marshal(cached{r.key(), answer, sum(answer)})
	if err != nil {
		return fmt.Errorf("language model cache: %w", err)
	}
	if err := atomicfile.WritePrivate(c.cachePath(r), data); err != nil {
		return fmt.Errorf("language model cache: %w", err)
	}
	return nil
}

// ask sends r until accept takes the answer, or the retries are used up. Answers
// that accept refuses are asked for anew and end in errUnreadable.
func (c *Client) ask(ctx context.Context, r request, accept func(answer string) error) error {
	if answer, ok := c.recall(r); ok && accept(answer) == nil {
		return nil
	}
	wait := c.config.Backoff
	var last error
	for attempt := 0; attempt == 0 || attempt <= c.config.Retries; attempt++ {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait + time.Duration(rand.Int64N(int64(wait)/2+1))):
			}
			wait *= 2
		}
		answer, err := c.send(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			last = c.describe(err)
			if !worthRetrying(err) {
				return last
			}
			continue
		}
		if accept(answer) != nil {
			last = errUnreadable
			continue
		}
		return c.keep(r, answer)
	}
	return last
}

func (c *Client) send(ctx context.Context, r request) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	seed := 0
	resp, err := c.api.CreateChatCompletion(ctx, openai.ChatCompletionRequest{
		Model: r.Model,
		Messages: []openai.ChatCompletionMessage{
			{Role: openai.ChatMessageRoleSystem, Content: r.System},
			{Role: openai.ChatMessageRoleUser, Content: r.User},
		},
		Seed: &seed,
		ResponseFormat: &openai.ChatCompletionResponseFormat{
			Type: openai.ChatCompletionResponseFormatTypeJSONSchema,
			JSONSchema: &openai.ChatCompletionResponseFormatJSONSchema{
				Name: r.SchemaName, Schema: r.Schema, Strict: true,
			},
		},
	})
	if err != nil {
		return "", err
	}
	if len(resp.Choices) == 0 {
		return "", nil // no JSON either: accept refuses it
	}
	return resp.Choices[0].Message.Content, nil
}

// status is the HTTP status an error came with, 0 if none.
func status(err error) int {
	var api *openai.APIError
	var req *openai.RequestError
	switch {
	case errors.As(err, &api):
		return api.HTTPStatusCode
	case errors.As(err, &req):
		return req.HTTPStatusCode
	}
	return 0
}

func worthRetrying(err error) bool {
	code := status(err)
	return code == 0 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500 || code == http.StatusOK
}

// describe says what went wrong without the server's words, which may repeat the
// report.
func (c *Client) describe(err error) error {
	if code := status(err); code != 0 && code != http.StatusOK {
		hint := ""
		switch code {
		case http.StatusUnauthorized, http.StatusForbidden:
			hint = "; check the key in the environment"
		case http.StatusNotFound:
			hint = "; check base URL and model"
		case http.StatusBadRequest:
			hint = "; the endpoint may not know JSON-schema answers"
		}
		return fmt.Errorf("language model at %s: HTTP status %d%s", c.Endpoint(), code, hint)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("language model at %s: no answer within %s", c.Endpoint(), c.config.Timeout)
	}
	var op *url.Error
	if errors.As(err, &op) {
		return fmt.Errorf("language model at %s: %w", c.Endpoint(), op.Err)
	}
	return fmt.Errorf("language model at %s: the response is not that of a chat completion", c.Endpoint())
}

// jsonOf strips the code fence that some models put around JSON.
func jsonOf(answer string) string {
	s := strings.TrimSpace(answer)
	if rest, ok := strings.CutPrefix(s, "```"); ok {
		rest = strings.TrimPrefix(rest, "json")
		s = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "```"))
	}
	return s
}
