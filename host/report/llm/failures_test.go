package llm

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

// kinds are servers by how they word answers and failures: llama.cpp's server, vLLM (its newer
// and its older form) and Ollama, as each documents it. %s is the answer's content, %d a status.
var kinds = map[string]struct{ answer, busy, broken string }{
	"llama.cpp": {
		`{"choices":[{"finish_reason":"stop","index":0,"message":{"role":"assistant","content":"%s"}}],"object":"chat.completion","usage":{"completion_tokens":9,"prompt_tokens":400,"total_tokens":409},"timings":{"prompt_n":400}}`,
		`{"error":{"code":429,"message":"too many requests: A nodule.","type":"unavailable_error"}}`,
		`{"error":{"code":500,"message":"Loading model: A nodule.","type":"server_error"}}`,
	},
	"vLLM": {
		`{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","reasoning_content":null,"content":"%s","tool_calls":[]},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":400,"total_tokens":409},"prompt_logprobs":null}`,
		`{"error":{"message":"Too many requests: A nodule.","type":"TooManyRequestsError","param":null,"code":429}}`,
		`{"object":"error","message":"EngineCore encountered an issue: A nodule.","type":"InternalServerError","param":null,"code":500}`,
	},
	"Ollama": {
		`{"id":"chatcmpl-1","object":"chat.completion","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":400,"completion_tokens":9}}`,
		`{"error":{"message":"server busy, please try again. maximum pending requests exceeded: A nodule.","type":"api_error","param":null,"code":null}}`,
		`{"error":{"message":"llama runner process has terminated: A nodule.","type":"api_error","param":null,"code":null}}`,
	},
}

// eachKind runs f as a test for every kind of server.
func eachKind(t *testing.T, f func(t *testing.T, answer, busy, broken string)) {
	for name, k := range kinds {
		t.Run(name, func(t *testing.T) { f(t, fmt.Sprintf(k.answer, noduleAnswer), k.busy, k.broken) })
	}
}

func TestServersThatAreBusyOrBrokenTwiceAreAskedAThirdTime(t *testing.T) {
	eachKind(t, func(t *testing.T, answer, busy, broken string) {
		for status, words := range map[int]string{http.StatusTooManyRequests: busy, http.StatusInternalServerError: broken} {
			var times []time.Time
			c, calls := served(t, nil, func(n int, _ map[string]any, w http.ResponseWriter) {
				if times = append(times, time.Now()); n > 2 {
					fmt.Fprint(w, answer)
					return
				}
				if status == http.StatusTooManyRequests {
					w.Header().Set("Retry-After", "0.05")
				}
				w.WriteHeader(status)
				fmt.Fprint(w, words)
			})
			cell, _, err := ask(t, c, "A nodule.")
			if err != nil || cell.State != schema.Stated || calls.Load() != 3 {
				t.Fatalf("%d: %v %v after %d calls", status, cell.State, err, calls.Load())
			}
			if status == http.StatusTooManyRequests && times[2].Sub(times[0]) < 100*time.Millisecond {
				t.Errorf("Retry-After of twice 50 ms: asked again after %v", times[2].Sub(times[0]))
			}
		}
	})
}

func TestServersThatStayBrokenAreNamedWithoutTheirWords(t *testing.T) {
	eachKind(t, func(t *testing.T, _, busy, broken string) {
		for status, words := range map[int]string{http.StatusTooManyRequests: busy, http.StatusInternalServerError: broken} {
			c, calls := served(t, nil, func(_ int, _ map[string]any, w http.ResponseWriter) {
				w.WriteHeader(status)
				fmt.Fprint(w, words)
			})
			_, _, err := ask(t, c, "A nodule.")
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("HTTP status %d", status)) || strings.Contains(err.Error(), "nodule") || calls.Load() != 3 {
				t.Errorf("%d: %v after %d calls", status, err, calls.Load())
			}
		}
	})
}

func TestAServerThatHangsIsLeftAfterTheTimeout(t *testing.T) {
	eachKind(t, func(t *testing.T, answer, _, _ string) {
		release := make(chan struct{})
		defer close(release)
		c, calls := served(t, func(c *Config) { c.Timeout = 200 * time.Millisecond }, func(n int, _ map[string]any, w http.ResponseWriter) {
			if n > 1 {
				fmt.Fprint(w, answer)
				return
			}
			<-release
		})
		if cell, _, err := ask(t, c, "A nodule."); err != nil || cell.State != schema.Stated || calls.Load() != 2 {
			t.Errorf("%v %v after %d calls", cell.State, err, calls.Load())
		}
	})
}

// trickle writes an answer in pieces with a wait after each.
func trickle(w http.ResponseWriter, answer string, wait time.Duration) {
	for len(answer) > 0 {
		n := min(40, len(answer))
		if _, err := io.WriteString(w, answer[:n]); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		answer = answer[n:]
		time.Sleep(wait)
	}
}

func TestAnAnswerThatTricklesIsReadWithinTheTimeoutAndNoLonger(t *testing.T) {
	eachKind(t, func(t *testing.T, answer, _, _ string) {
		c, _ := served(t, nil, func(_ int, _ map[string]any, w http.ResponseWriter) { trickle(w, answer, time.Millisecond) })
		if cell, _, err := ask(t, c, "A nodule."); err != nil || cell.State != schema.Stated {
			t.Errorf("%v %v", cell.State, err)
		}
		c, calls := served(t, func(c *Config) { c.Timeout = 20 * time.Millisecond; c.Retries = 1 }, func(_ int, _ map[string]any, w http.ResponseWriter) {
			trickle(w, answer, 20*time.Millisecond)
		})
		if _, _, err := ask(t, c, "A nodule."); err == nil || !strings.Contains(err.Error(), "no answer within 20ms") || calls.Load() != 2 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
	})
}

func TestAHugeAnswerIsReadToALimitAndNotAskedForAgain(t *testing.T) {
	eachKind(t, func(t *testing.T, answer, _, _ string) {
		c, calls := served(t, nil, func(_ int, _ map[string]any, w http.ResponseWriter) {
			before, after, _ := strings.Cut(answer, "stated")
			_, _ = io.WriteString(w, before)
			for range 2 * maxAnswerBytes >> 20 {
				if _, err := io.WriteString(w, strings.Repeat(" nodule ", 1<<17)); err != nil {
					return
				}
			}
			_, _ = io.WriteString(w, after)
		})
		_, _, err := ask(t, c, "A nodule.")
		if err == nil || !strings.Contains(err.Error(), "longer than 8 MiB") || strings.Contains(err.Error(), "nodule") || calls.Load() != 1 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
	})
}
