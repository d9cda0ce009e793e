package cli

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFlagsMayStandBehindArguments(t *testing.T) {
	for _, test := range []struct{ given, want []string }{
		{[]string{"plugin", "validate", "./x", "--json"}, []string{"plugin", "validate", "--json", "./x"}},
		{[]string{"plugin", "new", "head", "x", "--lang", "python"}, []string{"plugin", "new", "--lang", "python", "head", "x"}},
		{[]string{"plugin", "new", "head", "--lang=python", "x"}, []string{"plugin", "new", "--lang=python", "head", "x"}},
		{[]string{"plugin", "remove", "x", "--", "--json"}, []string{"plugin", "remove", "x", "--", "--json"}},
		{[]string{"plugin", "remove", "x", "--help"}, []string{"plugin", "remove", "--help", "x"}},
		{[]string{"plugin", "--help"}, []string{"plugin", "--help"}},
		{[]string{"--version"}, []string{"--version"}},
		{[]string{"nonsense", "--json"}, []string{"nonsense", "--json"}},
		{nil, nil},
	} {
		args := append([]string{"alignedfusion"}, test.given...)
		want := append([]string{"alignedfusion"}, test.want...)
		got, err := intersperse(newApp(io.Discard, io.Discard), args)
		if err != nil {
			t.Errorf("%v: %v", test.given, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v:\n%s", test.given, diff)
		}
	}
}
