// Package llm selects and extracts attributes with a language model behind any
// OpenAI-compatible endpoint (llama.cpp, vLLM, Ollama, hosted ones). Nothing the model
// says is taken on trust: states and values come from closed lists, and every statement
// needs a quote that is in the report, case and blanks aside, and that does not say the
// opposite; otherwise the attribute counts as unmentioned. Errors and logs carry no report
// text.
package llm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/digest"
)

// ProxyFromEnvironment is the Config.Proxy that takes HTTP_PROXY and its like.
const ProxyFromEnvironment = "env"

// Config says where the model is and how patiently to ask.
type Config struct {
	// BaseURL is the API's root, such as http://localhost:11434/v1.
	BaseURL string
	// Model is the name the endpoint knows the model by.
	Model string
	// Key is sent as a bearer token; "" sends none.
	Key string
	// Proxy is the URL of a proxy that reports may pass through, or
	// ProxyFromEnvironment; "" connects directly, whatever the environment says.
	Proxy string
	// Timeout bounds one request; 0 means two minutes.
	Timeout time.Duration
	// Retries is how often a request is repeated after the first failure; negative
	// means never, 0 means 4.
	Retries int
	// Backoff is the wait before the first repetition, doubled for each further
	// one, with up to 50 % added at random; 0 means one second. A server's
	// Retry-After is obeyed besides.
	Backoff time.Duration
	// MaxTokens bounds one answer; 0 means 100 for every attribute and 1024 more. An
	// answer that is cut off there is asked for again with four times as many.
	MaxTokens int
	// CacheDir keeps answers, which quote reports: its files are readable by their
	// owner only. "" keeps none.
	CacheDir string
	// Parallel is the number of requests under way at once; 0 means 4.
	Parallel int
}

// Client asks one model.
type Client struct {
	config Config
	url    *url.URL
	http   *http.Client
	// dialect is what the endpoint was last seen to take.
	dialect atomic.Pointer[dialect]
}

// Endpoint is the base URL without credentials and query, for records and errors.
func (c *Client) Endpoint() string {
	return (&url.URL{Scheme: c.url.Scheme, Host: c.url.Host, Path: strings.TrimSuffix(c.url.Path, "/")}).String()
}

// Model is the model's name.
func (c *Client) Model() string { return c.config.Model }

// New checks the configuration; it sends nothing.
func New(config Config) (*Client, error) {
	u, err := url.Parse(config.BaseURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("language model: the base URL is no http or https URL with a host")
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/chat/completions")
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
	config.Key = strings.TrimSpace(config.Key)
	proxy, err := proxyOf(config.Proxy)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = proxy
	c := &Client{config: config, url: u, http: &http.Client{Transport: transport, CheckRedirect: refuseRedirect}}
	c.dialect.Store(&dialect{format: schemaFormat, seed: true, temperature: true, limit: "max_tokens"})
	return c, nil
}

func proxyOf(given string) (func(*http.Request) (*url.URL, error), error) {
	switch given {
	case "":
		return nil, nil
	case ProxyFromEnvironment:
		return http.ProxyFromEnvironment, nil
	}
	u, err := url.Parse(given)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("language model: the proxy is no URL with a host, nor %q", ProxyFromEnvironment)
	}
	return http.ProxyURL(u), nil
}

// errRedirect is returned when the endpoint sends a report on to somewhere else.
type errRedirect struct{ to string }

func (e errRedirect) Error() string { return "it redirects to " + e.to }

func refuseRedirect(req *http.Request, _ []*http.Request) error {
	return errRedirect{req.URL.Scheme + "://" + req.URL.Host}
}

// Route says how reports travel to the endpoint where that may surprise; "" is nothing to
// tell.
func (c *Client) Route() string {
	var notes []string
	if ip := net.ParseIP(c.url.Hostname()); c.url.Scheme == "http" && c.url.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		notes = append(notes, "not encrypted")
	}
	req := &http.Request{URL: c.url}
	transport := c.http.Transport.(*http.Transport)
	if transport.Proxy != nil {
		if p, err := transport.Proxy(req); err == nil && p != nil {
			notes = append(notes, "through the proxy "+p.Host)
		}
	} else if p, err := http.ProxyFromEnvironment(req); err == nil && p != nil {
		notes = append(notes, "directly, not through the proxy "+p.Host+" that the environment names (--llm-proxy env)")
	}
	return strings.Join(notes, "; ")
}

// request is one question with the form its answer must have.
type request struct {
	Endpoint, Model, System, User, SchemaName string
	Schema                                    json.RawMessage
	// maxTokens bounds the answer; it does not change what is asked.
	maxTokens int
}

func (r request) key() string {
	data, _ := json.Marshal(r) // strings and raw JSON that was marshalled before
	return digest.Of(data)
}

// errUnreadable is returned when the model answered and the answer is not what
// was asked for, however often it was asked.
var errUnreadable = errors.New("the answer is not the JSON that was asked for")

// cached is a cache file: the answer under the hash of the question and its own.
type cached struct {
	Key    string `json:"key"`
	Answer string `json:"answer"`
	// PromptCut says that the endpoint did not read the whole prompt.
	PromptCut bool   `json:"prompt_cut,omitempty"`
	Sum       string `json:"sha256"`
}

func (c *Client) cachePath(r request) string {
	return filepath.Join(c.config.CacheDir, r.key()+".json")
}

// recall returns a kept answer; a file that fails its check is ignored.
func (c *Client) recall(r request) (reply, bool) {
	if c.config.CacheDir == "" {
		return reply{}, false
	}
	data, err := os.ReadFile(c.cachePath(r))
	if err != nil {
		return reply{}, false
	}
	var k cached
	if json.Unmarshal(data, &k) != nil || k.Key != r.key() || k.Sum != digest.Of(k.Answer) {
		return reply{}, false
	}
	return reply{text: k.Answer, promptCut: k.PromptCut}, true
}

func (c *Client) keep(r request, answer reply) error {
	if c.config.CacheDir == "" {
		return nil
	}
	if err := os.MkdirAll(c.config.CacheDir, 0o700); err != nil {
		return fmt.Errorf("language model cache: %w", err)
	}
	data, err := json.Marshal(cached{r.key(), answer.text, answer.promptCut, digest.Of(answer.text)})
	if err != nil {
		return fmt.Errorf("language model cache: %w", err)
	}
	if err := atomicfile.WritePrivateBytes(c.cachePath(r), data); err != nil {
		return fmt.Errorf("language model cache: %w", err)
	}
	return nil
}

// reply is an answer and what is true of it.
type reply struct {
	text string
	// cut says that the answer ended at the limit of tokens.
	cut bool
	// promptCut says that by its own count the endpoint did not read the whole prompt.
	promptCut bool
}

// ask sends r until accept takes the answer, or the retries are used up. Answers
// that accept refuses are asked for anew and end in errUnreadable.
func (c *Client) ask(ctx context.Context, r request, accept func(reply) error) error {
	if answer, ok := c.recall(r); ok && accept(answer) == nil {
		return nil
	}
	wait := c.config.Backoff
	var last error
	for attempt := 0; attempt == 0 || attempt <= c.config.Retries; attempt++ {
		if attempt > 0 {
			if err := pause(ctx, wait+time.Duration(rand.Int64N(int64(wait)/2+1)), last); err != nil {
				return err
			}
			wait *= 2
		}
		answer, err := c.send(ctx, r, attempt)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			last = err
			if !worthRetrying(err) {
				break
			}
			continue
		}
		if accept(answer) != nil {
			last = errUnreadable
			if answer.cut {
				r.maxTokens *= 4
			}
			continue
		}
		return c.keep(r, answer)
	}
	return c.describe(last)
}

// maxPause is the longest Retry-After that is waited for.
const maxPause = 10 * time.Minute

// pause waits, at least as long as the endpoint asked for with its last failure.
func pause(ctx context.Context, wait time.Duration, last error) error {
	var failed *statusError
	if errors.As(last, &failed) {
		wait = max(wait, min(failed.retryAfter, maxPause))
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

func worthRetrying(err error) bool {
	var redirect errRedirect
	if errors.As(err, &redirect) || errors.Is(err, errTooLong) || errors.Is(err, errHuge) {
		return false
	}
	var failed *statusError
	if !errors.As(err, &failed) {
		return true
	}
	return failed.code == http.StatusTooManyRequests || failed.code == http.StatusRequestTimeout || failed.code >= 500
}

// describe says what went wrong without the server's words, which may repeat the
// report.
func (c *Client) describe(err error) error {
	var failed *statusError
	var redirect errRedirect
	var op *url.Error
	switch {
	case errors.Is(err, errUnreadable), errors.Is(err, errTooLong):
		return err
	case errors.As(err, &failed):
		return fmt.Errorf("language model at %s: HTTP status %d%s", c.Endpoint(), failed.code, hints[failed.code])
	case errors.As(err, &redirect):
		return fmt.Errorf("language model at %s: %w; reports go nowhere but to the address that is named: name that one if it is right", c.Endpoint(), redirect)
	case errors.Is(err, errHuge):
		return fmt.Errorf("language model at %s: %w; is it a chat completion's?", c.Endpoint(), err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("language model at %s: no answer within %s", c.Endpoint(), c.config.Timeout)
	case errors.As(err, &op):
		return fmt.Errorf("language model at %s: %w", c.Endpoint(), op.Err)
	}
	return fmt.Errorf("language model at %s: the response is not that of a chat completion", c.Endpoint())
}

// hints say how to mend what a status means.
var hints = map[int]string{
	http.StatusUnauthorized:        "; check the key in the environment",
	http.StatusForbidden:           "; check the key in the environment",
	http.StatusNotFound:            "; check base URL (it ends in /v1, mostly) and model (has the server loaded it?)",
	http.StatusMethodNotAllowed:    "; check the base URL: it ends in /v1, mostly",
	http.StatusBadRequest:          "; the endpoint takes the request with a JSON schema no more than without",
	http.StatusUnprocessableEntity: "; the endpoint takes the request with a JSON schema no more than without",
	http.StatusTooManyRequests:     "; lower --llm-parallel or go on later: answers so far are in the cache",
	http.StatusProxyAuthRequired:   "; the proxy wants credentials: --llm-proxy http://USER:PASSWORD@HOST:PORT",
}
