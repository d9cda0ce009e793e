package card

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/goccy/go-yaml"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/sdk"
)

//go:embed assets/model-card.md
var modelCard string

var modelCardTemplate = template.Must(template.New("model card").Funcs(template.FuncMap{
	"join": func(list []string) string { return strings.Join(list, ", ") },
}).Parse(modelCard))

// frontMatter is what model hubs read of a card: https://huggingface.co/docs/hub/model-cards.
type frontMatter struct {
	License string   `yaml:"license,omitempty"`
	Library string   `yaml:"library_name"`
	Task    string   `yaml:"pipeline_tag"`
	Tags    []string `yaml:"tags"`
	Metrics []string `yaml:"metrics"`
	Index   []index  `yaml:"model-index"`
}

type index struct {
	Name    string   `yaml:"name"`
	Results []result `yaml:"results"`
}

type result struct {
	Task    named    `yaml:"task"`
	Dataset named    `yaml:"dataset"`
	Metrics []metric `yaml:"metrics"`
}

type named struct {
	Type  string `yaml:"type"`
	Name  string `yaml:"name"`
	Split string `yaml:"split,omitempty"`
}

type metric struct {
	Type  string  `yaml:"type"`
	Name  string  `yaml:"name"`
	Value float64 `yaml:"value"`
}

// WriteModelCard writes DIR/README.md and returns its path. Figures that are not defined are
// in its table and not in its model-index, which holds numbers alone.
func (c *Card) WriteModelCard(dir string) (string, error) {
	task := map[bool]string{true: "object-detection", false: "image-classification"}[c.Detects()]
	front := frontMatter{License: c.License, Library: "alignedfusion", Task: task, Tags: []string{"medical-imaging", "multimodal", "reports"}}
	if c.Detects() {
		front.Tags = append(front.Tags, "lesion-detection")
	}
	var results []result
	for _, r := range c.Results {
		one := result{Task: named{Type: task, Name: r.Name}, Dataset: named{Type: c.Data, Name: c.Data, Split: c.Split}}
		if one.Task.Name == "" {
			one.Task.Name = strings.ReplaceAll(task, "-", " ")
		}
		for _, f := range r.Figures {
			if !f.Known() {
				continue
			}
			name := f.Name
			if interval := f.Interval(); interval != "–" {
				name += fmt.Sprintf(" (95 %% interval %s)", interval)
			}
			one.Metrics = append(one.Metrics, metric{f.Type, name, f.Value})
			if !slices.Contains(front.Metrics, f.Type) {
				front.Metrics = append(front.Metrics, f.Type)
			}
		}
		if one.Metrics != nil {
			results = append(results, one)
		}
	}
	front.Index = []index{{c.Name, results}}
	head, err := yaml.Marshal(front)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "---\n%s---\n\n", head)
	if err := modelCardTemplate.Execute(&b, c); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "README.md")
	return path, atomicfile.WriteBytes(path, b.Bytes())
}

// tensorFormat is a port of the network in a bundle's metadata, as the MONAI bundle
// specification describes it.
type tensorFormat struct {
	Type         string            `json:"type"`
	Format       string            `json:"format"`
	Modality     string            `json:"modality,omitempty"`
	Channels     int               `json:"num_channels"`
	SpatialShape []any             `json:"spatial_shape"`
	DType        string            `json:"dtype"`
	ValueRange   []float64         `json:"value_range"`
	IsPatch      bool              `json:"is_patch_data"`
	ChannelDef   map[string]string `json:"channel_def"`
}

type bundle struct {
	Version          string             `json:"version"`
	Changelog        map[string]string  `json:"changelog"`
	MONAI            string             `json:"monai_version"`
	PyTorch          string             `json:"pytorch_version"`
	NumPy            string             `json:"numpy_version"`
	RequiredPackages map[string]string  `json:"required_packages_version"`
	Name             string             `json:"name"`
	Task             string             `json:"task"`
	Description      string             `json:"description"`
	Authors          string             `json:"authors"`
	Copyright        string             `json:"copyright"`
	DataSource       string             `json:"data_source"`
	DataType         string             `json:"data_type"`
	PredClasses      string             `json:"pred_classes"`
	Metrics          map[string]float64 `json:"eval_metrics"`
	IntendedUse      string             `json:"intended_use"`
	Format           networkFormat      `json:"network_data_format"`
}

type networkFormat struct {
	Inputs  map[string]tensorFormat `json:"inputs"`
	Outputs map[string]tensorFormat `json:"outputs"`
}

// needsAuthor stands where the program cannot know.
const needsAuthor = "needs the author"

// noneUsed is the version of a package that had no part in the run.
const noneUsed = "none"

// WriteMONAI writes DIR/configs/metadata.json of a MONAI bundle and returns its path. It
// describes the run; the bundle's other files, which would run it in MONAI, there are none of.
func (c *Card) WriteMONAI(dir string) (string, error) {
	m := c.Run.Manifest
	task := map[bool]string{true: "lesion detection", false: "classification"}[c.Detects()]
	b := bundle{
		Version: "0.1.0", Changelog: map[string]string{"0.1.0": "as trained"}, MONAI: noneUsed, PyTorch: c.Torch(), NumPy: noneUsed,
		RequiredPackages: map[string]string{"alignedfusion": m.Version}, Name: c.Name, Task: task,
		Description: fmt.Sprintf("%s trained with alignedfusion %s on %s; figures of the split %s", task, m.Version, c.Data, c.Split),
		Authors:     needsAuthor, Copyright: needsAuthor, DataSource: c.Data + ", SHA-256 " + m.DataSHA256, DataType: c.Run.Config.Encoder.Plugin + " input",
		PredClasses: strings.Join(c.answers(), ", "), Metrics: map[string]float64{}, IntendedUse: "not a medical device; " + needsAuthor,
	}
	for _, r := range c.Results {
		for _, f := range r.Figures {
			if f.Known() {
				b.Metrics[strings.TrimSpace(r.Name+" "+f.Name)] = f.Value
			}
		}
	}
	b.Format.Inputs = map[string]tensorFormat{"image": {Type: "image", Format: "magnitude", Channels: 1, SpatialShape: []any{"*", "*", "*"},
		DType: "float32", ValueRange: []float64{}, ChannelDef: map[string]string{"0": "image"}}}
	if n := len(m.Attributes); n > 0 {
		b.Format.Inputs["report"] = tensorFormat{Type: "raw", Format: "attribute embeddings", Channels: n, SpatialShape: []any{"*"},
			DType: "float32", ValueRange: []float64{}, ChannelDef: numbered(m.Attributes)}
	}
	b.Format.Outputs = map[string]tensorFormat{"pred": c.output()}
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "configs", "metadata.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return "", fault.Wrap(fault.Resource, err)
	}
	return path, atomicfile.WriteBytes(path, append(data, '\n'))
}

func (c *Card) output() tensorFormat {
	if c.Detects() {
		return tensorFormat{Type: "object", Format: "boxes x1, y1, x2, y2 in pixels with scores and classes", Channels: 1, SpatialShape: []any{"n", 6},
			DType: "float32", ValueRange: []float64{}, ChannelDef: map[string]string{"0": "box, score, class"}}
	}
	answers, kind, valueRange := c.answers(), "probabilities", []float64{0, 1}
	if slices.ContainsFunc(c.Run.Labels, func(set sdk.LabelSet) bool { return len(set.Classes) == 0 }) {
		kind, valueRange = "raw", []float64{}
	}
	return tensorFormat{Type: kind, Format: "classes", Channels: len(answers), SpatialShape: []any{1, len(answers)},
		DType: "float32", ValueRange: valueRange, ChannelDef: numbered(answers)}
}

// answers are the columns of a classifier's predictions: each question's classes, or the
// question itself with its unit where it is answered by a number.
func (c *Card) answers() (names []string) {
	for _, set := range c.Run.Labels {
		for _, class := range set.Classes {
			names = append(names, strings.TrimPrefix(set.Name+": "+class, ": "))
		}
		if len(set.Classes) == 0 {
			names = append(names, strings.TrimSuffix(set.Name+" ("+set.Unit+")", " ()"))
		}
	}
	return names
}

func numbered(names []string) map[string]string {
	out := map[string]string{}
	for i, name := range names {
		out[fmt.Sprint(i)] = name
	}
	return out
}
