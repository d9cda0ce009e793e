package study

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
)

// Method is one way of using images and reports: plugins and settings.
type Method struct {
	Name string
	// About says in a few words what it is.
	About string
	// Encoder is empty for the study's own, or config.None: reports alone.
	Encoder string
	// Fusion is a plugin reference; empty for methods that the host computes.
	Fusion string
	// Set are settings as `--set` takes them.
	Set []string
	// host computes the method without plugins.
	host hostMethod
}

// attributes reports whether the method reads attributes at all.
func (m Method) attributes() bool { return m.Fusion != config.None }

// methods is the table of all known methods.
var methods = []Method{
	{Name: "none", About: "image only", Fusion: config.None},
	{Name: "attributes", About: "attributes only: self-attention over report tokens, and the head", Encoder: config.None, Fusion: "selfattn"},
	{Name: "pattern", About: "only which attributes are missing", Encoder: config.None, Fusion: "selfattn", Set: []string{"data.impute=pattern"}},
	{Name: "sum", About: "element-wise sum", Fusion: "sum"},
	{Name: "selfattn", About: "self-attention over all tokens", Fusion: "selfattn"},
	{Name: "bottleneck4", About: "bottleneck attention: 4 intermediate tokens from the second of three layers on, no reconstruction", Fusion: "itfusion",
		Set: []string{"fusion.tokens_per_pair=4", "fusion.layers=3", "fusion.start_layer=1", "fusion.reconstruct=false", "fusion.mask_probability=0"}},
	{Name: "itfusion", About: "the method", Fusion: "itfusion"},
	{Name: "itfusion-noit", About: "the method without intermediate token", Fusion: "itfusion", Set: []string{"fusion.intermediate=false"}},
	{Name: "itfusion-norec", About: "the method without masking and reconstruction", Fusion: "itfusion",
		Set: []string{"fusion.reconstruct=false", "fusion.mask_probability=0"}},
	{Name: "itfusion-twopass", About: "the method, reconstructed tokens attended to again", Fusion: "itfusion", Set: []string{"fusion.two_pass=true"}},
	{Name: "naive-bayes", About: "naive Bayes on attributes; missing ones drop out", host: naiveBayes},
	{Name: "logistic", About: "logistic regression on mean tokens of the frozen encoder and one-hot attributes", host: logistic},
	{Name: "logistic-attributes", About: "logistic regression on one-hot attributes", host: logisticAttributes},
}

// variants are what a + behind a method's name does with missing attributes, or with the report.
var variants = map[string]string{
	"zero": "fusion.unmentioned=zero", "mode": "data.impute=mode", "category": "data.impute=category",
	"sentence": "report.tokens=sentence", "whole": "report.tokens=whole",
}

// shelf are the fusions of the plugin fusions.
var shelf = []string{"concat", "gated", "film", "crossattn", "lowrank", "late", "mbt", "hyper"}

// Names lists the methods for help texts, one line each.
func Names() string {
	var b strings.Builder
	for _, m := range methods {
		fmt.Fprintf(&b, "  %-20s %s\n", m.Name, m.About)
	}
	b.WriteString("  " + strings.Join(shelf, ", ") + ": the shelf's fusions\n")
	b.WriteString("  itfusion-pX          the method with mask probability X, 0 to 1\n")
	b.WriteString("  NAME+zero, NAME+mode, NAME+category: a method with plugins whose missing attributes are a zero\n" +
		"                       token, the training data's most frequent value, or a value of their own\n")
	b.WriteString("  NAME+sentence, NAME+whole: the report's words in the place of attributes, a token each sentence,\n" +
		"                       or one\n")
	b.WriteString("  NAME=FUSION          your own fusion plugin under a name; its settings: --set NAME/fusion.KEY=VALUE\n")
	return b.String()
}

// ParseMethod finds a method by its name.
func ParseMethod(text string) (Method, error) {
	if name, fusion, own := strings.Cut(text, "="); own {
		if name == "" || fusion == "" || strings.ContainsAny(name, "/_+*? ") {
			return Method{}, fmt.Errorf("method %q: want NAME=FUSION, NAME without blanks and / _ + * ?", text)
		}
		return Method{Name: name, About: "fusion " + fusion, Fusion: fusion}, nil
	}
	base, variant, varies := strings.Cut(text, "+")
	m, err := findMethod(base)
	if err != nil || !varies {
		return m, err
	}
	set, known := variants[variant]
	if !known || !m.attributes() || m.host != nil {
		return Method{}, fmt.Errorf("method %q: +zero, +mode, +category, +sentence and +whole go with methods that give the report to a fusion plugin", text)
	}
	m.Name, m.About = text, m.About+"; "+set
	m.Set = append(slices.Clone(m.Set), set)
	return m, nil
}

func findMethod(name string) (Method, error) {
	var known []string
	for _, m := range methods {
		if m.Name == name {
			return m, nil
		}
		known = append(known, m.Name)
	}
	if slices.Contains(shelf, name) {
		return Method{Name: name, About: "fusion " + name, Fusion: name}, nil
	}
	known = append(known, shelf...)
	if text, ok := strings.CutPrefix(name, "itfusion-p"); ok {
		if p, err := strconv.ParseFloat(text, 64); err == nil && p >= 0 && p <= 1 {
			return Method{Name: name, About: "the method with mask probability " + text, Fusion: "itfusion",
				Set: []string{"fusion.mask_probability=" + text}}, nil
		}
	}
	return Method{}, fmt.Errorf("method %q is unknown%s; there are %s, itfusion-pX and NAME=FUSION", name, nearest.Meant(name, known), strings.Join(known, ", "))
}
