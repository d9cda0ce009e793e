package study

import (
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/plughost"
)

// The demo's methods run at the same time: each opens its own cells, and together they are
// the whole study.
func TestDemoDividesTheStudyByMethod(t *testing.T) {
	o := DemoOptions{Dir: t.TempDir(), Plugins: plughost.Options{Threads: 1}}
	names := func(only string) (out []string) {
		s, err := o.study("deeplesion:/x", "/base", only, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.cells {
			out = append(out, c.Name())
		}
		return out
	}
	var parts []string
	for _, m := range demoMethods {
		parts = append(parts, names(m+"_*")...)
	}
	whole := names("*")
	slices.Sort(whole)
	slices.Sort(parts)
	if !slices.Equal(whole, parts) {
		t.Errorf("parts are %v, the study %v", parts, whole)
	}
}

func TestLinesOfSeveralWritersCarryTheirNames(t *testing.T) {
	var out strings.Builder
	lock := &sync.Mutex{}
	a, b := &namedLines{lock, &out, "a"}, &namedLines{lock, &out, "b"}
	for w, text := range map[io.Writer]string{a: "one\ntwo\n", b: "three\n"} {
		if n, err := io.WriteString(w, text); n != len(text) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if got := out.String(); !strings.Contains(got, "a: one\na: two\n") || !strings.Contains(got, "b: three\n") || len(got) != len("one\ntwo\nthree\n")+9 {
		t.Errorf("written: %q", got)
	}
}
