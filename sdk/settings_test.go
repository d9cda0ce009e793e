package sdk

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func ptr(v float64) *float64 { return &v }

func TestSettingsAreCheckedAgainstTheirDeclaration(t *testing.T) {
	for _, test := range []struct {
		declared Setting
		value    string
		want     string // of the error, "" for none
	}{
		{Setting{Type: "int"}, "12", ""},
		{Setting{Type: "int"}, " 12 ", ""},
		{Setting{Type: "int"}, "1.5", `"1.5" given, want a whole number`},
		{Setting{Type: "int"}, "1e3", `"1e3" given, want a whole number`},
		{Setting{Type: "float"}, "1e-3", ""},
		{Setting{Type: "float"}, "much", `"much" given, want a number`},
		{Setting{Type: "float"}, "inf", `"inf" given, want a number`},
		{Setting{Type: "float"}, "nan", `"nan" given, want a number`},
		{Setting{Type: "bool"}, "true", ""},
		{Setting{Type: "bool"}, "yes", `"yes" given, want true or false`},
		{Setting{Type: "string"}, "anything", ""},
		{Setting{Type: "path"}, " with spaces ", ""},
		{Setting{Type: "string", Choices: []string{"a", "b"}}, "b", ""},
		{Setting{Type: "string", Choices: []string{"a", "b"}}, " b", ""},
		{Setting{Type: "string", Choices: []string{"a", "b"}}, "c", `"c" given, want one of a, b`},
		{Setting{Type: "ints"}, "1, 2,3", ""},
		{Setting{Type: "ints"}, "", ""},
		{Setting{Type: "ints"}, "1,2.5", `"1,2.5" given, want whole numbers with commas between`},
		{Setting{Type: "floats"}, "1,x", `"1,x" given, want numbers with commas between`},
		{Setting{Type: "floats"}, "1,,2", `"1,,2" given, want numbers with commas between`},
		{Setting{Type: "float", Min: ptr(1)}, "1", ""},
		{Setting{Type: "float", Min: ptr(1)}, "0.5", "0.5 given, want at least 1"},
		{Setting{Type: "float", Max: ptr(2)}, "2", ""},
		{Setting{Type: "float", Max: ptr(2)}, "2.5", "2.5 given, want at most 2"},
		{Setting{Type: "float", Above: ptr(0)}, "0.1", ""},
		{Setting{Type: "float", Above: ptr(0)}, "0", "0 given, want more than 0"},
		{Setting{Type: "float", Below: ptr(1)}, "0.9", ""},
		{Setting{Type: "float", Below: ptr(1)}, "1", "1 given, want less than 1"},
		{Setting{Type: "ints", Min: ptr(1)}, "3,0", "0 given, want at least 1"},
		{Setting{Type: "floats", Rising: true}, "-1,0,2", ""},
		{Setting{Type: "floats", Rising: true}, "1,1", `"1,1" given, want numbers that rise`},
		{Setting{Type: "floats", Rising: true}, "2,1", `"2,1" given, want numbers that rise`},
	} {
		test.declared.Name = "k"
		_, err := ResolveSettings([]Setting{test.declared}, map[string]string{"k": test.value})
		if test.want == "" {
			if err != nil {
				t.Errorf("%s %q: %v", test.declared.Type, test.value, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "setting k: "+test.want) || CodeOf(err) != InvalidArgument {
			t.Errorf("%s %q: %v, want %q", test.declared.Type, test.value, err, test.want)
		}
	}
}

func TestResolvedSettingsAreCompleteAndTrimmed(t *testing.T) {
	declared := []Setting{
		{Name: "n", Type: "int", Default: "3"}, {Name: "x", Type: "float", Default: "0.5"}, {Name: "on", Type: "bool", Default: "true"},
		{Name: "name", Type: "string"}, {Name: "file", Type: "path"}, {Name: "pick", Type: "string", Default: "a", Choices: []string{"a", "b"}},
		{Name: "ns", Type: "ints", Default: "1,2"}, {Name: "xs", Type: "floats"},
	}
	got, err := ResolveSettings(declared, map[string]string{"n": " 7 ", "name": " a b ", "file": " f ", "pick": " b", "xs": "0.5, 1.5"})
	if err != nil {
		t.Fatal(err)
	}
	want := Settings{"n": "7", "x": "0.5", "on": "true", "name": " a b ", "file": " f ", "pick": "b", "ns": "1,2", "xs": "0.5, 1.5"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for want, test := range map[string]struct {
		declared []Setting
		name     string
	}{
		`unknown setting "nam", did you mean "name"? known: file, n, name`: {declared, "nam"},
		`unknown setting "zebra"; known: file, n, name`:                    {declared, "zebra"},
		`unknown setting "n": the stage has no settings`:                   {nil, "n"},
	} {
		if _, err := ResolveSettings(test.declared, map[string]string{test.name: "1"}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

type mode string

func (mode) Choices() []string { return []string{"slow", "fast"} }

type inner struct {
	Depth int64 `setting:"depth" default:"2" min:"1" max:"9"`
}

type typed struct {
	Width int     `setting:"width" default:"4" above:"0" below:"1000" help:"of a token"`
	Rate  float64 `setting:"rate" default:"0.5" default.detect:"0.25"`
	On    bool    `setting:"on" default:"true"`
	Mode  mode    `setting:"mode" default:"slow"`
	Norm  string  `setting:"norm" default:"a" choices:"a,b" choices.detect:"a,c"`
	File  Path    `setting:"file"`
	inner
	Sizes  []int     `setting:"sizes" default:"1,2"`
	Window []float64 `setting:"window" rising:"true"`
}

func TestStructsDeclareSettings(t *testing.T) {
	want := []Setting{
		{Name: "width", Type: "int", Default: "4", Above: ptr(0), Below: ptr(1000), Help: "of a token"},
		{Name: "rate", Type: "float", Default: "0.5"},
		{Name: "on", Type: "bool", Default: "true"},
		{Name: "mode", Type: "string", Default: "slow", Choices: []string{"slow", "fast"}},
		{Name: "norm", Type: "string", Default: "a", Choices: []string{"a", "b"}},
		{Name: "file", Type: "path"},
		{Name: "depth", Type: "int", Default: "2", Min: ptr(1), Max: ptr(9)},
		{Name: "sizes", Type: "ints", Default: "1,2"},
		{Name: "window", Type: "floats", Rising: true},
	}
	if diff := cmp.Diff(want, SettingsOf(typed{})); diff != "" {
		t.Error(diff)
	}
	want[1].Default, want[4].Choices = "0.25", []string{"a", "c"}
	if diff := cmp.Diff(want, SettingsOf(typed{}, "detect")); diff != "" {
		t.Errorf("for detect: %s", diff)
	}
	for name, v := range map[string]any{"a type": struct {
		C complex128 `setting:"c"`
	}{}, "a bound": struct {
		N int `setting:"n" min:"few"`
	}{}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s that cannot be read is accepted", name)
				}
			}()
			SettingsOf(v)
		}()
	}
}

func TestDecodedSettingsEncodeToTheSame(t *testing.T) {
	got, err := DecodeSettings[typed](map[string]string{"width": "8", "mode": "fast", "file": "f", "depth": "3", "sizes": "5, 6", "window": "-0.5,1e3", "on": "false"}, "detect")
	if err != nil {
		t.Fatal(err)
	}
	want := typed{Width: 8, Rate: 0.25, Mode: "fast", Norm: "a", File: "f", inner: inner{Depth: 3}, Sizes: []int{5, 6}, Window: []float64{-0.5, 1000}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(typed{})); diff != "" {
		t.Error(diff)
	}
	text := EncodeSettings(got)
	if diff := cmp.Diff(Settings{"width": "8", "rate": "0.25", "on": "false", "mode": "fast", "norm": "a", "file": "f", "depth": "3", "sizes": "5,6", "window": "-0.5,1000"}, text); diff != "" {
		t.Errorf("as text: %s", diff)
	}
	if again, err := DecodeSettings[typed](text, "detect"); err != nil || !cmp.Equal(again, got, cmp.AllowUnexported(typed{})) {
		t.Errorf("%+v, %v; want %+v", again, err, got)
	}
	if _, err := DecodeSettings[typed](map[string]string{"depth": "10"}); err == nil || !strings.Contains(err.Error(), "setting depth: 10 given, want at most 9") {
		t.Error(err)
	}
}

type oneNumber struct {
	K float64 `setting:"k"`
}

type numberList struct {
	K []float64 `setting:"k"`
}

// A value that was accepted is accepted again, and reads as numbers within its bounds.
func FuzzResolveSettings(f *testing.F) {
	for _, value := range []string{"3", " 1.5,2", "inf", "1e400", "0x1p-2", "1_000", ",", ""} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, kind := range []string{"int", "float", "bool", "ints", "floats", "string", "path"} {
			declared := []Setting{{Name: "k", Type: kind, Min: ptr(0), Below: ptr(1e6)}}
			got, err := ResolveSettings(declared, map[string]string{"k": value})
			if err != nil {
				continue
			}
			if again, err := ResolveSettings(declared, got); err != nil || again["k"] != got["k"] {
				t.Errorf("%s %q became %q, then %q, %v", kind, value, got["k"], again["k"], err)
			}
			var numbers []float64
			switch kind {
			case "float":
				read, err := DecodeSettings[oneNumber](got)
				if err != nil {
					t.Error(err)
				}
				numbers = []float64{read.K}
			case "floats":
				read, err := DecodeSettings[numberList](got)
				if err != nil {
					t.Error(err)
				}
				numbers = read.K
			}
			for _, v := range numbers {
				if !(v >= 0 && v < 1e6) {
					t.Errorf("%s %q reads as %g", kind, value, v)
				}
			}
		}
	})
}
