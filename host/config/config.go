// Package config holds the resolved configuration of a run: what `train` was told on
// the command line or in a YAML file, with every default filled in.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// Version is the schema_version of config.yaml.
const Version = 1

// Tasks.
const (
	Detect   = "detect"
	Classify = "classify"
)

// None is the fusion that passes tokens straight to the head, and the encoder of a
// pipeline that sees reports alone.
const None = "none"

// Values are settings as text. In YAML numbers and booleans need no quotes.
type Values map[string]string

// UnmarshalYAML takes scalars of any kind as their text.
func (v *Values) UnmarshalYAML(data []byte) error {
	var raw map[string]any
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return err
	}
	*v = Values{}
	for key, value := range raw {
		switch x := value.(type) {
		case string:
			(*v)[key] = x
		case bool:
			(*v)[key] = strconv.FormatBool(x)
		case float64:
			(*v)[key] = strconv.FormatFloat(x, 'g', -1, 64)
		case int64, uint64, int:
			(*v)[key] = fmt.Sprint(x)
		case nil:
			(*v)[key] = ""
		default:
			return fmt.Errorf("value of %q is a %T, want a number, text, true or false (lists: \"1,2,3\")", key, value)
		}
	}
	return nil
}

// Stage is a role's plugin with its settings.
type Stage struct {
	// Plugin is a name, a path, or none (fusion or encoder); NAME:STAGE picks one of
	// several stages of a kind.
	Plugin   string `yaml:"plugin"`
	Stage    string `yaml:"stage,omitempty"`
	Settings Values `yaml:"settings,omitempty"`
}

// Ref is the stage as the command line writes it, for messages.
func (s Stage) Ref() string {
	if s.Stage == "" {
		return s.Plugin
	}
	return s.Plugin + ":" + s.Stage
}

// ParseRef reads NAME, PATH, NAME:STAGE or PATH:STAGE.
func ParseRef(text string) (plugin, stage string, err error) {
	plugin, stage = text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.Contains(text[i:], "/") {
		plugin, stage = text[:i], text[i+1:]
		if stage == "" {
			return "", "", fmt.Errorf("plugin %q: nothing behind the colon, want NAME:STAGE", text)
		}
	}
	if plugin == "" {
		return "", "", fmt.Errorf("plugin %q: want NAME, PATH or NAME:STAGE", text)
	}
	return plugin, stage, nil
}

// Config is config.yaml.
type Config struct {
	SchemaVersion int    `yaml:"schema_version"`
	Task          string `yaml:"task"`
	// Data is the data spec.
	Data string `yaml:"data"`
	// Attributes are the attribute columns; null takes the data's default, [] none.
	Attributes *[]string `yaml:"attributes"`
	Seed       uint64    `yaml:"seed"`
	// Threads per plugin; 0 means all CPUs that the process may use, and is resolved.
	Threads int    `yaml:"threads"`
	Device  string `yaml:"device"`
	// Init is a run whose best weights training starts from: those of every role that
	// the same plugin plays in both.
	Init string `yaml:"init,omitempty"`

	Encoder Stage `yaml:"encoder"`
	Fusion  Stage `yaml:"fusion"`
	Head    Stage `yaml:"head"`
	// TextEncoder embeds the reports' attributes; nil is the built-in one, hashed n-grams.
	TextEncoder *Stage `yaml:"text_encoder,omitempty"`
	// Train, DataSettings and Text are checked against TrainSettings, DataSettings and
	// TextSettings.
	Train        Values `yaml:"train"`
	DataSettings Values `yaml:"data_settings"`
	Text         Values `yaml:"text"`
	// Loss weighs losses by name; others count once.
	Loss Values `yaml:"loss,omitempty"`
}

// New returns the defaults of a task. It fails for an unknown one.
func New(task string) (*Config, error) {
	c := &Config{
		SchemaVersion: Version, Task: task, Device: "cpu",
		Fusion: Stage{Plugin: None},
		Train:  Values{}, DataSettings: Values{}, Text: Values{}, Loss: Values{},
	}
	switch task {
	case Detect:
		c.Encoder, c.Head = Stage{Plugin: "a3d"}, Stage{Plugin: "a3d"}
	case Classify:
		c.Encoder, c.Head = Stage{Plugin: "classifier"}, Stage{Plugin: "classifier"}
	default:
		return nil, fmt.Errorf("task is %q, want %s or %s", task, Detect, Classify)
	}
	return c, nil
}

// Parse reads YAML strictly: an unknown key, a wrong type or a second document is an
// error with line and column. What the file leaves out has its default.
func Parse(data []byte) (*Config, error) {
	var head struct {
		SchemaVersion int    `yaml:"schema_version"`
		Task          string `yaml:"task"`
	}
	if err := yaml.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("configuration: %s", yaml.FormatError(err, false, true))
	}
	if head.SchemaVersion != Version {
		return nil, fmt.Errorf("configuration: schema_version is %d; this program reads %d", head.SchemaVersion, Version)
	}
	c, err := New(head.Task)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict(), yaml.DisallowUnknownField())
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("configuration: %s", yaml.FormatError(err, false, true))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("configuration: there is more than one YAML document")
	}
	for _, v := range []*Values{&c.Train, &c.DataSettings, &c.Text, &c.Loss} {
		if *v == nil {
			*v = Values{}
		}
	}
	return c, nil
}

// YAML writes the configuration; Parse reads it back.
func (c *Config) YAML() ([]byte, error) {
	return yaml.MarshalWithOptions(c, yaml.Indent(2))
}

// Set applies one `--set group.key=value`. The groups are encoder, fusion, head
// (checked later against the plugin's manifest), train, data, text and loss.
func (c *Config) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	group, key, dotted := strings.Cut(name, ".")
	if !ok || !dotted || key == "" {
		return fmt.Errorf("--set %q: want GROUP.KEY=VALUE with one of the groups %s", text, strings.Join(groups, ", "))
	}
	put := func(v *Values) {
		if *v == nil {
			*v = Values{}
		}
		(*v)[key] = value
	}
	switch group {
	case "encoder":
		put(&c.Encoder.Settings)
	case "fusion":
		if c.Fusion.Plugin == None {
			return fmt.Errorf("--set %s: there is no fusion; choose one with --fusion", text)
		}
		put(&c.Fusion.Settings)
	case "head":
		put(&c.Head.Settings)
	case "train":
		put(&c.Train)
	case "data":
		put(&c.DataSettings)
	case "text":
		return c.setText(key, value)
	case "loss":
		put(&c.Loss)
	default:
		var known []sdk.Setting
		for _, g := range groups {
			known = append(known, sdk.Setting{Name: g})
		}
		_, err := sdk.ResolveSettings(known, map[string]string{group: ""})
		return fmt.Errorf("--set %s: group: %w", text, err)
	}
	return nil
}

// setText sets one of the host's own text settings, the text encoder's plugin, or a
// setting of that plugin.
func (c *Config) setText(key, value string) error {
	if slices.ContainsFunc(TextSettings(), func(s sdk.Setting) bool { return s.Name == key }) {
		if c.Text == nil {
			c.Text = Values{}
		}
		c.Text[key] = value
		return nil
	}
	if c.TextEncoder == nil {
		c.TextEncoder = &Stage{Settings: Values{}}
	}
	if key != "plugin" {
		if c.TextEncoder.Settings == nil {
			c.TextEncoder.Settings = Values{}
		}
		c.TextEncoder.Settings[key] = value
		return nil
	}
	if value == None {
		c.TextEncoder = nil
		return nil
	}
	plugin, stage, err := ParseRef(value)
	if err != nil {
		return fmt.Errorf("text encoder: %w", err)
	}
	if t := c.TextEncoder; t.Plugin != "" && t.Plugin != plugin {
		t.Settings = Values{} // they were another plugin's
	}
	c.TextEncoder.Plugin, c.TextEncoder.Stage = plugin, stage
	return nil
}

var groups = []string{"encoder", "fusion", "head", "train", "data", "text", "loss"}

// Resolve checks every setting of the host's own groups and fills in defaults, so
// that the configuration says all and YAML of it gives the same run.
func (c *Config) Resolve() error {
	if c.Task != Detect && c.Task != Classify {
		return fmt.Errorf("task is %q, want %s or %s", c.Task, Detect, Classify)
	}
	if c.Data == "" {
		return errors.New("no data: give --data LAYOUT:PATH")
	}
	if c.Threads < 0 {
		return fmt.Errorf("threads is %d, want 0 (all) or more", c.Threads)
	}
	for _, s := range []struct {
		role  string
		stage Stage
	}{{"encoder", c.Encoder}, {"head", c.Head}, {"fusion", c.Fusion}} {
		if s.stage.Plugin == "" {
			return fmt.Errorf("%s: no plugin named", s.role)
		}
		if s.stage.Plugin == None && s.role == "head" {
			return fmt.Errorf("head: %q is possible for the fusion or the encoder only", None)
		}
	}
	if t := c.TextEncoder; t != nil && t.Plugin == "" {
		_, err := sdk.ResolveSettings(TextSettings(), t.Settings)
		return fmt.Errorf("text: %w; the settings of a plugin that embeds text need text.plugin=NAME", err)
	}
	if c.Encoder.Plugin == None && c.Fusion.Plugin == None {
		return fmt.Errorf("encoder and fusion are both %q: nothing would reach the head", None)
	}
	for _, g := range []struct {
		name     string
		declared []sdk.Setting
		values   *Values
	}{
		{"train", TrainSettings(c.Task), &c.Train},
		{"data", DataSettings(c.Task), &c.DataSettings},
		{"text", TextSettings(), &c.Text},
	} {
		resolved, err := sdk.ResolveSettings(g.declared, *g.values)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		*g.values = Values(resolved)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Loss)) {
		if w, err := strconv.ParseFloat(c.Loss[name], 64); err != nil || !(w >= 0 && w <= maxLossWeight) {
			return fmt.Errorf("loss: weight of %q is %q, want a number from 0 to %g", name, c.Loss[name], float64(maxLossWeight))
		}
	}
	return nil
}

// maxLossWeight is far above any use and far below where a gradient in single precision
// overflows by the weight alone.
const maxLossWeight = 1e6

// LossWeights are the parsed weights, checked against the losses the stages have.
func (c *Config) LossWeights(known []string) (map[string]float64, error) {
	var declared []sdk.Setting
	for _, name := range known {
		declared = append(declared, sdk.Setting{Name: name, Type: "float", Default: "1"})
	}
	resolved, err := sdk.ResolveSettings(declared, c.Loss)
	if err != nil {
		return nil, fmt.Errorf("loss: %w", err)
	}
	weights := map[string]float64{}
	for name := range resolved {
		weights[name] = resolved.Float(name)
	}
	return weights, nil
}
