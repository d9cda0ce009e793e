package sdk

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type shade string

func (shade) Choices() []string { return []string{"light", "dark"} }

type common struct {
	Width int64 `setting:"width" default:"8" min:"1" max:"64" help:"size of a token"`
}

type example struct {
	common
	Count  int       `setting:"count" default:"3" default.large:"30"`
	Rate   float64   `setting:"rate" default:"0.1" above:"0" below:"1"`
	On     bool      `setting:"on" default:"true"`
	Norm   string    `setting:"norm" default:"layer" choices:"layer,batch" choices.large:"batch" default.large:"batch"`
	Shade  shade     `setting:"shade" default:"dark"`
	File   Path      `setting:"file"`
	Sides  []int     `setting:"sides" default:"4,8" min:"1"`
	Window []float64 `setting:"window" default:"-1,2.5" rising:"true"`
}

func TestSettingsOfAStructAreItsTags(t *testing.T) {
	at := func(v float64) *float64 { return &v }
	want := []Setting{
		{Name: "width", Type: "int", Default: "8", Min: at(1), Max: at(64), Help: "size of a token"},
		{Name: "count", Type: "int", Default: "3"},
		{Name: "rate", Type: "float", Default: "0.1", Above: at(0), Below: at(1)},
		{Name: "on", Type: "bool", Default: "true"},
		{Name: "norm", Type: "string", Default: "layer", Choices: []string{"layer", "batch"}},
		{Name: "shade", Type: "string", Default: "dark", Choices: []string{"light", "dark"}},
		{Name: "file", Type: "path"},
		{Name: "sides", Type: "ints", Default: "4,8", Min: at(1)},
		{Name: "window", Type: "floats", Default: "-1,2.5", Rising: true},
	}
	if diff := cmp.Diff(want, SettingsOf(example{})); diff != "" {
		t.Error(diff)
	}
	large := SettingsOf(example{}, "large")
	if large[1].Default != "30" || large[4].Default != "batch" || len(large[4].Choices) != 1 || large[0].Default != "8" {
		t.Errorf("the variant's tags are not preferred: %+v", large)
	}
}

func TestDecodedSettingsAreEncodedToTheSame(t *testing.T) {
	want := example{common: common{Width: 8}, Count: 3, Rate: 0.1, On: true, Norm: "layer", Shade: "dark", Sides: []int{4, 8}, Window: []float64{-1, 2.5}}
	got, err := DecodeSettings[example](nil)
	if err != nil {
		t.Fatal(err)
	}
	options := cmp.AllowUnexported(example{})
	if diff := cmp.Diff(want, got, options); diff != "" {
		t.Errorf("defaults: %s", diff)
	}
	given := Settings{"width": "64", "count": " -2 ", "rate": "1e-3", "on": "F", "norm": "batch", "shade": "light", "file": " a b ", "sides": "7", "window": ""}
	want = example{common: common{Width: 64}, Count: -2, Rate: 1e-3, Norm: "batch", Shade: "light", File: " a b ", Sides: []int{7}, Window: []float64{}}
	if got, err = DecodeSettings[example](given); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, options); diff != "" {
		t.Errorf("given: %s", diff)
	}
	again, err := DecodeSettings[example](EncodeSettings(got))
	if diff := cmp.Diff(got, again, options); err != nil || diff != "" {
		t.Errorf("encoded and decoded: %v %s", err, diff)
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"width", "0", "setting width: 0 given, want at least 1"},
		{"width", "65", "65 given, want at most 64"},
		{"width", "1.5", `"1.5" given, want a whole number`},
		{"rate", "0", "0 given, want more than 0"},
		{"rate", "1", "1 given, want less than 1"},
		{"rate", "nan", `"nan" given, want a number`},
		{"rate", "-Inf", `"-Inf" given, want a number`},
		{"rate", "", `"" given, want a number`},
		{"on", "yes", "want true or false"},
		{"norm", "group", `"group" given, want one of layer, batch`},
		{"shade", "grey", "want one of light, dark"},
		{"sides", "4,x", `"4,x" given, want whole numbers with commas between`},
		{"sides", "4,0", "0 given, want at least 1"},
		{"window", "2,2", "numbers that rise"},
		{"window", "1,inf", `"1,inf" given, want numbers with commas between`},
		{"widht", "1", `unknown setting "widht", did you mean "width"?`},
	} {
		_, err := DecodeSettings[example](Settings{c.name: c.value})
		var refused *Error
		if !errors.As(err, &refused) || refused.Code != InvalidArgument || refused.Setting != c.name || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: error %v, want InvalidArgument of that setting with %q", c.name, c.value, err, c.want)
		}
	}
	for _, c := range [][2]string{{"width", "1"}, {"width", "64"}, {"rate", "0.999"}, {"window", "1,2,3"}, {"sides", ""}} {
		if _, err := DecodeSettings[example](Settings{c[0]: c[1]}); err != nil {
			t.Errorf("%s=%s: %v", c[0], c[1], err)
		}
	}
}

func TestFieldsThatCannotBeSettingsPanic(t *testing.T) {
	for name, v := range map[string]any{
		"type": struct {
			A map[string]int `setting:"a"`
		}{},
		"bound": struct {
			A int `setting:"a" min:"low"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			SettingsOf(v)
		}()
	}
}
