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

	"github.com/alignedfusion/alignedfusion/eval/classify"
	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
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

// Wiring is what config.yaml says besides the groups of settings.
type Wiring struct {
	SchemaVersion int    `yaml:"schema_version"`
	Task          string `yaml:"task"`
	// Data is the data spec.
	Data string `yaml:"data"`
	// Attributes are the attribute columns; null takes the data's default, [] none.
	Attributes *[]string `yaml:"attributes"`
	// Reports is a file of reports or of a table of what they say, joined to the cases by
	// their ids; Schema a file that fixes the attributes.
	Reports string `yaml:"reports,omitempty"`
	Schema  string `yaml:"schema,omitempty"`
	Seed    uint64 `yaml:"seed"`
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
}

// Config is config.yaml. New and Parse make it: every setting has a value from then on.
type Config struct {
	Wiring       `yaml:",inline"`
	Train        Train  `yaml:"train"`
	DataSettings Data   `yaml:"data_settings"`
	Report       Report `yaml:"report"`
	Text         Text   `yaml:"text"`
	// Loss weighs losses by name; others count once.
	Loss map[string]float64 `yaml:"loss,omitempty"`

	// given are the settings that Set has set, GROUP.KEY.
	given map[string]bool
	// notes say what became of a plan.
	notes []string
}

// New returns the defaults of a task. It fails for an unknown one.
func New(task string) (*Config, error) {
	c := &Config{
		Wiring: Wiring{SchemaVersion: Version, Task: task, Device: "cpu", Fusion: Stage{Plugin: None}},
		Loss:   map[string]float64{}, given: map[string]bool{},
	}
	switch task {
	case Detect:
		c.Encoder, c.Head = Stage{Plugin: "a3d"}, Stage{Plugin: "a3d"}
	case Classify:
		c.Encoder, c.Head = Stage{Plugin: "classifier"}, Stage{Plugin: "classifier"}
	default:
		return nil, fmt.Errorf("task is %q, want %s or %s", task, Detect, Classify)
	}
	return c, c.overlay(groupValues{})
}

// groupValues are the groups of settings as YAML holds them.
type groupValues struct {
	Train        Values `yaml:"train"`
	DataSettings Values `yaml:"data_settings"`
	Report       Values `yaml:"report"`
	Text         Values `yaml:"text"`
	Loss         Values `yaml:"loss"`
}

// overlay decodes the groups; what they do not hold has the task's default.
func (c *Config) overlay(v groupValues) (err error) {
	if c.Train, err = sdk.DecodeSettings[Train](v.Train, c.Task); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if c.DataSettings, err = sdk.DecodeSettings[Data](v.DataSettings, c.Task); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	if c.Report, err = sdk.DecodeSettings[Report](v.Report, c.Task); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if c.Text, err = sdk.DecodeSettings[Text](v.Text, c.Task); err != nil {
		return fmt.Errorf("text: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Loss)) {
		if err := c.setLoss(name, v.Loss[name]); err != nil {
			return err
		}
	}
	return nil
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
	file := struct {
		Wiring `yaml:",inline"`
		Groups groupValues `yaml:",inline"`
	}{Wiring: c.Wiring}
	d := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict(), yaml.DisallowUnknownField())
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("configuration: %s", yaml.FormatError(err, false, true))
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("configuration: there is more than one YAML document")
	}
	c.Wiring = file.Wiring
	for _, old := range zeros {
		if v := file.Groups.DataSettings; v[old.name] != "" && strings.Trim(v[old.name], "0.") == "" {
			v[old.name] = old.meant
		}
	}
	if err := c.overlay(file.Groups); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return c, nil
}

// groupMeant names the group.key that a key without a group is; "" where it is none.
func groupMeant(key string) string {
	for _, g := range Groups(Detect) {
		for _, s := range g.Settings {
			if s.Name == key {
				return nearest.Question(g.Name + "." + key + "=…")
			}
		}
	}
	return ""
}

// zeros are the data settings of version 0.1 whose 0 stood for another value.
var zeros = []struct{ name, meant string }{{"slice_spacing_mm", "2"}, {"zoom", "1"}}

// YAML writes the configuration; Parse reads it back.
func (c *Config) YAML() ([]byte, error) {
	return yaml.MarshalWithOptions(c, yaml.Indent(2))
}

// Set applies one `--set group.key=value`. The groups are encoder, fusion, head
// (checked later against the plugin's manifest), train, data, report, text and loss.
func (c *Config) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	group, key, dotted := strings.Cut(name, ".")
	if !ok || !dotted || key == "" {
		return fmt.Errorf("--set %q: want GROUP.KEY=VALUE with one of the groups %s%s", text, strings.Join(groups, ", "), groupMeant(name))
	}
	c.given[name] = true
	put := func(v *Values) {
		if *v == nil {
			*v = Values{}
		}
		(*v)[key] = value
	}
	var err error
	switch group {
	case "encoder":
		put(&c.Encoder.Settings)
	case "fusion":
		if c.Fusion.Plugin == None {
			err = errors.New("there is no fusion; choose one with --fusion")
		}
		put(&c.Fusion.Settings)
	case "head":
		put(&c.Head.Settings)
	case "train":
		c.Train, err = changed(c.Train, key, value, c.Task)
	case "data":
		c.DataSettings, err = changed(c.DataSettings, key, value, c.Task)
	case "report":
		c.Report, err = changed(c.Report, key, value, c.Task)
	case "text":
		err = c.setText(key, value)
	case "loss":
		err = c.setLoss(key, value)
	default:
		err = fmt.Errorf("there is no group %q%s; there are %s", group, nearest.Meant(group, groups), strings.Join(groups, ", "))
	}
	if err != nil {
		return fmt.Errorf("--set %s: %w", text, err)
	}
	return nil
}

// changed returns a group with one other value.
func changed[T any](group T, key, value, task string) (T, error) {
	all := sdk.EncodeSettings(group)
	all[key] = value
	out, err := sdk.DecodeSettings[T](all, task)
	if err != nil {
		return group, err
	}
	return out, nil
}

// maxLossWeight is far above any use and far below where a gradient in single precision
// overflows by the weight alone.
const maxLossWeight = 1e6

func (c *Config) setLoss(name, value string) error {
	w, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || !(w >= 0 && w <= maxLossWeight) {
		return fmt.Errorf("loss: weight of %q is %q, want a number from 0 to %g", name, value, float64(maxLossWeight))
	}
	c.Loss[name] = w
	return nil
}

// setText sets one of the host's own text settings, the text encoder's plugin, or a
// setting of that plugin.
func (c *Config) setText(key, value string) (err error) {
	if slices.ContainsFunc(sdk.SettingsOf(c.Text), func(s sdk.Setting) bool { return s.Name == key }) {
		c.Text, err = changed(c.Text, key, value, c.Task)
		return err
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

var groups = []string{"encoder", "fusion", "head", "train", "data", "report", "text", "loss"}

// Resolve checks what no single setting can say: that the parts of a configuration go
// together, and that what was set has an effect.
func (c *Config) Resolve() error {
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
		_, err := sdk.ResolveSettings(sdk.SettingsOf(c.Text), t.Settings)
		return fmt.Errorf("text: %w; the settings of a plugin that embeds text need text.plugin=NAME", err)
	}
	if c.Encoder.Plugin == None && c.Fusion.Plugin == None {
		return fmt.Errorf("encoder and fusion are both %q: nothing would reach the head", None)
	}
	if c.DataSettings.TrainSplit == "" {
		return errors.New("data: train_split is empty, want the split to train on")
	}
	if v := c.DataSettings.MissingValidation; v < 0 && v != -1 {
		return fmt.Errorf("data: missing_validation is %g, want 0 to 1, or -1 for what the training split has", v)
	}
	if c.Schema != "" && c.Report.Tokens != PerAttribute {
		return fmt.Errorf("report.tokens=%s and a schema are given; the schema names attributes", c.Report.Tokens)
	}
	if by := string(c.Train.BestBy); c.Task == Classify && by != string(Last) && !ports.Metrics.Has(by) {
		if err := classify.CheckBest(by); err != nil {
			return fmt.Errorf("train.best_by: %w; or metric.NAME, or %s", err, Last)
		}
	}
	if by := c.Train.ThresholdBy; by != NoThreshold {
		if _, err := classify.ParseThresholdRule(by); err != nil {
			return fmt.Errorf("train.threshold_by: %w, or %s", err, NoThreshold)
		}
	}
	return c.refuseIdle()
}

// Given reports whether Set has set GROUP.KEY.
func (c *Config) Given(name string) bool { return c.given[name] }

// Notes say what of a plan was left out, and why, one line each.
func (c *Config) Notes() []string { return c.notes }

// refuseIdle refuses a setting that Set was told and that changes nothing.
func (c *Config) refuseIdle() error {
	for _, i := range c.idleSettings() {
		if c.given[i.key] && !i.harmless && !c.isDefault(i.key) {
			return fmt.Errorf("%s has no effect: %s", i.key, i.why)
		}
	}
	return nil
}

// Idle says which settings are not the default and yet change nothing.
func (c *Config) Idle() []string {
	var out []string
	for _, i := range c.idleSettings() {
		if !c.isDefault(i.key) {
			out = append(out, fmt.Sprintf("the setting %s has no effect: %s", i.key, i.why))
		}
	}
	if c.Fusion.Plugin == None && (c.Attributes != nil && len(*c.Attributes) > 0 || c.TextEncoder != nil) {
		out = append(out, "attributes or a text encoder are named, and there is no fusion that reads them")
	}
	return out
}

// isDefault reports whether GROUP.KEY has the task's default.
func (c *Config) isDefault(name string) bool {
	plain, err := New(c.Task)
	if err != nil {
		return false
	}
	group, key, _ := strings.Cut(name, ".")
	text := func(c *Config) string {
		switch group {
		case "train":
			return sdk.EncodeSettings(c.Train)[key]
		case "data":
			return sdk.EncodeSettings(c.DataSettings)[key]
		case "report":
			return sdk.EncodeSettings(c.Report)[key]
		}
		return sdk.EncodeSettings(c.Text)[key]
	}
	return text(c) == text(plain)
}

// LossWeights are the weights of all losses the stages have; a weight for another one is
// an error.
func (c *Config) LossWeights(known []string) (map[string]float64, error) {
	weights := map[string]float64{}
	var declared []sdk.Setting
	for _, name := range known {
		weights[name] = 1
		declared = append(declared, sdk.Setting{Name: name})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Loss)) {
		if _, err := sdk.ResolveSettings(declared, map[string]string{name: ""}); err != nil {
			return nil, fmt.Errorf("loss: %w", err)
		}
		weights[name] = c.Loss[name]
	}
	counts := slices.ContainsFunc(known, func(name string) bool { return weights[name] != 0 })
	if len(known) > 0 && !counts {
		return nil, fmt.Errorf("loss: every loss (%s) has the weight 0: there is nothing to learn from", strings.Join(known, ", "))
	}
	return weights, nil
}
