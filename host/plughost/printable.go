package plughost

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// printable is text of a plugin's as it may be shown: what would move a terminal's cursor,
// set its title or turn the direction of writing is spelt out.
func printable(text string) string {
	if !strings.ContainsFunc(text, unprintable) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case !unprintable(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// unprintable are controls but tab and newline, directions of writing, and bytes that are
// no UTF-8.
func unprintable(r rune) bool {
	return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == 0x2028 || r == 0x2029) || r == utf8.RuneError
}

// printableError is an error of a plugin's as it may be shown.
func printableError(e *sdk.Error) *sdk.Error {
	out := *e
	for _, text := range []*string{&out.Stage, &out.Call, &out.Port, &out.Setting, &out.Given, &out.Wanted, &out.Advice} {
		*text = printable(*text)
	}
	if e.Err != nil && printable(e.Err.Error()) != e.Err.Error() {
		out.Err = fmt.Errorf("%s", printable(e.Err.Error()))
	}
	return &out
}

// plainManifest refuses a manifest with text that may not be shown.
func plainManifest(m sdk.Manifest) error {
	var bad error
	check := func(what string, texts ...string) {
		for _, text := range texts {
			if bad == nil && printable(text) != text {
				bad = fmt.Errorf("its manifest has characters that are not for showing: %s is %q", what, text)
			}
		}
	}
	check("the plugin", m.Name, m.Version, m.License, m.ModelCard, m.Runtime)
	check("a capability", m.Capabilities...)
	for _, s := range m.Stages {
		check("a stage", s.Name, string(s.Kind), s.Summary)
		check("a loss", s.Losses...)
		check("a metric", s.Metrics...)
		check("a task", s.Tasks...)
		for _, p := range append(append([]sdk.Port(nil), s.Inputs...), s.Outputs...) {
			check("a port", append([]string{p.Name, string(p.DType), p.Help}, p.Shape...)...)
		}
		for _, d := range s.Settings {
			check("a setting", append([]string{d.Name, d.Type, d.Default, d.Help}, d.Choices...)...)
		}
	}
	return bad
}
