//go:build linux

package plughost

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// A plugin under a debugger serves several hosts one after the other and is not ended
// by them.
func TestReattachToARunningPlugin(t *testing.T) {
	cmd := exec.Command(filepath.Join(testBinaries, "linear"), serve.DebugFlag)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	setting, ok := strings.CutPrefix(strings.TrimSpace(line), "export "+serve.EnvReattach+"=")
	if !ok {
		t.Fatalf("it printed %q", line)
	}
	t.Setenv(serve.EnvReattach, strings.Trim(setting, "'"))
	for range 2 {
		h := newHost(t, Options{CallTimeout: time.Nanosecond}) // no call of a debugged plugin is late
		p, err := h.Start(t.Context(), "linear")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := h.Start(t.Context(), "linear"); err != nil || again != p || p.PID() != cmd.Process.Pid {
			t.Errorf("a second start gave another plugin (error %v)", err)
		}
		i := openLinear(t, p, nil)
		if _, err := i.Forward(t.Context(), &sdk.ForwardRequest{Inputs: row(1000)}); err != nil {
			t.Fatal(err)
		}
		if err := i.Close(); err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if gone(cmd.Process.Pid, 100*time.Millisecond) {
			t.Fatal("the host has ended a plugin it did not start")
		}
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

// What the variable holds is understood or refused by its name: a process 0 or -1 would be
// a whole group of them, and a relative address that of another folder's socket.
func TestReattachVariableIsUnderstoodOrRefused(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense":      "invalid character",
		"[]":            "cannot unmarshal array",
		`{"linear":{}}`: "linear: pid is 0",
		`{"linear":{"protocol":1,"pid":-1,"address":"/s"}}`:           "linear: pid is -1",
		`{"linear":{"protocol":1,"pid":7,"address":"s"}}`:             `linear: address is "s", want the absolute path`,
		`{"linear":{"protocol":1,"pid":7,"adress":"/s"}}`:             `unknown field "adress"`,
		`{"":{"protocol":1,"pid":7,"address":"/s"}}`:                  "without a name",
		`{"linear":{"protocol":1,"pid":7,"address":"/s"}} {"bert":0}`: "something follows",
	} {
		t.Setenv(serve.EnvReattach, text)
		_, err := newHost(t, Options{}).Start(t.Context(), "linear")
		if err == nil || !strings.Contains(err.Error(), serve.EnvReattach) || !strings.Contains(err.Error(), want) || fault.Of(err) != fault.Usage {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// An entry that passes can be signalled and dialled, and is the one that was written.
func FuzzParseReattachments(f *testing.F) {
	f.Add(`{"linear":{"protocol":1,"pid":7,"address":"/run/s"}}`)
	f.Add(`{"linear":{"protocol":1,"pid":7,"address":"/run/s"},"bert":null}`)
	f.Add(`null`)
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parseReattachments(text)
		if err != nil {
			if entries != nil || !strings.Contains(err.Error(), serve.EnvReattach) {
				t.Errorf("%q: %v with %v", text, err, entries)
			}
			return
		}
		for name, r := range entries {
			if name == "" || r.PID < 1 || !filepath.IsAbs(r.Address) {
				t.Errorf("%q: %q is %+v", text, name, r)
			}
		}
		written, err := json.Marshal(entries)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseReattachments(string(written)); err != nil || !maps.Equal(again, entries) {
			t.Errorf("%q: %v, then %v (%v)", text, entries, again, err)
		}
	})
}
