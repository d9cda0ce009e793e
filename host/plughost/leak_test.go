//go:build linux

package plughost

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/alignedfusion/alignedfusion/sdk"
)

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Goroutines and files of a host end with it, whether its plugin ended in order, died,
// or never started.
func TestNothingIsLeftBehind(t *testing.T) {
	before := openFiles(t)
	ignore := goleak.IgnoreCurrent()
	for _, how := range []string{"in order", "dies", "does not start"} {
		h, err := New(Options{CallTimeout: 5 * time.Second, StartTimeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		switch how {
		case "in order":
			i := openLinear(t, start(t, h, "linear"), nil)
			if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row(100)}); err != nil {
				t.Fatal(err)
			}
		case "dies":
			_, i := openFaulty(t, h, "exit")
			_, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row4(1)})
			wantFailure(t, err)
		case "does not start":
			_, err := h.Start(t.Context(), "/bin/false")
			wantFailure(t, err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if err := goleak.Find(ignore); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if after := openFiles(t); after > before {
			t.Errorf("%s: %d files open before, %d after", how, before, after)
		}
	}
}
