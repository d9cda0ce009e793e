// Package docs tests what others add to the documentation.
package docs

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// listed is a plugin of plugins.yaml, see publish-a-plugin.md.
type listed struct {
	Name     string   `yaml:"name"`
	Kinds    []string `yaml:"kinds"`
	Summary  string   `yaml:"summary"`
	Source   string   `yaml:"source"`
	Package  string   `yaml:"package"`
	SHA256   string   `yaml:"sha256"`
	Paper    string   `yaml:"paper"`
	Licence  string   `yaml:"licence"`
	Protocol int      `yaml:"protocol"`
}

// wrong says what is wrong with an entry, "" for nothing.
func (p listed) wrong() string {
	https := func(text string) bool { return strings.HasPrefix(text, "https://") }
	switch {
	case !regexp.MustCompile(`^[a-z][a-z0-9-]*$`).MatchString(p.Name):
		return "the name: want lower case, digits and dashes"
	case len(p.Kinds) == 0 || slices.ContainsFunc(p.Kinds, func(k string) bool { return !slices.Contains([]string{"encoder", "text", "fusion", "head"}, k) }):
		return "kinds: want encoder, text, fusion or head"
	case p.Summary == "" || len([]rune(p.Summary)) > 120 || strings.Contains(p.Summary, "\n"):
		return "the summary: want one line of at most 120 characters"
	case !https(p.Source):
		return "the source: want https://"
	case (p.Package == "") != (p.SHA256 == ""):
		return "package and sha256: both or none"
	case p.Package != "" && (!https(p.Package) || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(p.SHA256)):
		return "the package: want https:// and 64 hexadecimal digits"
	case p.Licence == "" || p.Protocol < 1:
		return "want a licence and the protocol's major version"
	}
	return ""
}

func TestPluginsOfOthersAreListedRightly(t *testing.T) {
	text, err := os.ReadFile("plugins.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Plugins []listed `yaml:"plugins"`
	}
	if err := yaml.UnmarshalWithOptions(text, &list, yaml.Strict()); err != nil {
		t.Fatalf("plugins.yaml: %v", err)
	}
	names := map[string]bool{}
	for _, p := range list.Plugins {
		if names[p.Name] {
			t.Errorf("plugins.yaml: %q is there twice", p.Name)
		}
		names[p.Name] = true
		if what := p.wrong(); what != "" {
			t.Errorf("plugins.yaml: %q: %s", p.Name, what)
		}
	}
	for _, own := range []string{"a3d", "bert", "classifier", "fusions", "itfusion", "selfattn", "sum"} {
		if !names[own] {
			t.Errorf("plugins.yaml lacks %s", own)
		}
	}
}

func TestAWrongEntryIsNamed(t *testing.T) {
	good := listed{"x", []string{"head"}, "a head", "https://example.org", "", "", "", "MIT", 1}
	if what := good.wrong(); what != "" {
		t.Fatal(what)
	}
	for want, change := range map[string]func(*listed){
		"the name": func(p *listed) { p.Name = "My head" }, "kinds": func(p *listed) { p.Kinds = []string{"tail"} },
		"the summary": func(p *listed) { p.Summary = strings.Repeat("a", 121) }, "the source": func(p *listed) { p.Source = "http://example.org" },
		"package and sha256": func(p *listed) { p.Package = "https://example.org/x.afp" }, "want a licence": func(p *listed) { p.Licence = "" },
		"the package": func(p *listed) { p.Package, p.SHA256 = "https://example.org/x.afp", "00" },
	} {
		bad := good
		change(&bad)
		if got := bad.wrong(); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
