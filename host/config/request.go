package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Request is what somebody asks of a new run. A nil field stays as the file or the task's
// defaults say.
type Request struct {
	// File is a configuration to start from.
	File string
	// Task is needed without a File; Data is a data spec.
	Task, Data *string
	// Encoder, Fusion and Head are references as ParseRef reads them.
	Encoder, Fusion, Head *string
	Attributes            *[]string
	Reports, Schema, Init *string
	Epochs, Threads       *int
	// Fold is the fold of `data split --folds` that is validated on; all others are trained on.
	Fold   *int
	Seed   *uint64
	Device *string
	// Plan, unless nil, is what stands for defaults.
	Plan *Plan
	// Set are settings as GROUP.KEY=VALUE; they come last.
	Set []string
}

// Plan are settings that were derived from data.
type Plan struct {
	// Task and Data stand where a request has none.
	Task, Data string
	// Plugin is the encoder and head whose settings are among Settings, GROUP.KEY and value.
	Plugin   string
	Settings [][2]string
}

// apply sets what no set (GROUP.KEY=VALUE) names, and notes what it leaves out.
func (p *Plan) apply(c *Config, set []string) error {
	for _, s := range p.Settings {
		group, _, _ := strings.Cut(s[0], ".")
		stage := map[string]*Stage{"encoder": &c.Encoder, "head": &c.Head}[group]
		if k := slices.IndexFunc(set, func(given string) bool { return strings.HasPrefix(given, s[0]+"=") }); k >= 0 {
			if given := strings.TrimPrefix(set[k], s[0]+"="); given != s[1] {
				c.notes = append(c.notes, fmt.Sprintf("the plan says %s=%s; %s is given and used", s[0], s[1], given))
			}
			continue
		}
		if stage != nil && stage.Plugin != p.Plugin {
			c.notes = append(c.notes, fmt.Sprintf("the plan's %s=%s is for the plugin %s, the %s is %s: it is not used", s[0], s[1], p.Plugin, group, stage.Plugin))
			continue
		}
		if err := c.Set(s[0] + "=" + s[1]); err != nil {
			return fmt.Errorf("the plan's %w", err)
		}
		delete(c.given, s[0]) // nobody has asked for it
	}
	return nil
}

// Config is the configuration that was asked for, resolved. Its errors are of type *Error
// and name the flags of `train`.
func (r Request) Config() (*Config, error) {
	c, err := r.base()
	if err == nil {
		err = r.apply(c)
	}
	if err == nil {
		err = c.Resolve()
	}
	if err != nil {
		return nil, &Error{Err: err}
	}
	return c, nil
}

// base is the file's configuration, or the task's.
func (r Request) base() (*Config, error) {
	if r.File == "" {
		if r.Task == nil && r.Plan != nil {
			r.Task = &r.Plan.Task
		}
		if r.Task == nil {
			return nil, errors.New("train needs --task detect or --task classify (or --config FILE)")
		}
		c, err := New(*r.Task)
		if err != nil {
			return nil, fmt.Errorf("--task: %w", err)
		}
		return c, nil
	}
	data, err := os.ReadFile(r.File)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.File, err)
	}
	if r.Task != nil && *r.Task != c.Task {
		return nil, fmt.Errorf("--task %s: %s is for the task %s", *r.Task, r.File, c.Task)
	}
	return c, nil
}

func (r Request) apply(c *Config) error {
	if r.Data == nil && r.Plan != nil {
		r.Data = &r.Plan.Data
	}
	put(&c.Data, r.Data)
	if c.Data == "" {
		return errors.New("train needs --data LAYOUT:PATH")
	}
	for _, s := range []struct {
		flag  string
		ref   *string
		stage *Stage
	}{{"encoder", r.Encoder, &c.Encoder}, {"fusion", r.Fusion, &c.Fusion}, {"head", r.Head, &c.Head}} {
		if s.ref == nil {
			continue
		}
		if err := s.stage.Use(*s.ref); err != nil {
			return fmt.Errorf("--%s: %w", s.flag, err)
		}
	}
	if r.Attributes != nil {
		c.Attributes = r.Attributes
	}
	put(&c.Seed, r.Seed)
	put(&c.Threads, r.Threads)
	put(&c.Device, r.Device)
	put(&c.Init, r.Init)
	put(&c.Reports, r.Reports)
	put(&c.Schema, r.Schema)
	set := r.Set
	if r.Fold != nil {
		if *r.Fold < 0 {
			return fmt.Errorf("--fold %d, want 0 or more: data split --folds K makes fold0 to foldK-1", *r.Fold)
		}
		set = append([]string{fmt.Sprintf("data.train_split=!fold%d", *r.Fold), fmt.Sprintf("data.validation_split=fold%d", *r.Fold)}, set...)
	}
	if r.Epochs != nil {
		set = append([]string{fmt.Sprintf("train.epochs=%d", *r.Epochs)}, set...)
	}
	if r.Plan != nil {
		if r.Plan.Task != c.Task {
			return fmt.Errorf("--plan: it is for the task %s, this is %s", r.Plan.Task, c.Task)
		}
		if err := r.Plan.apply(c, set); err != nil {
			return fmt.Errorf("--plan: %w", err)
		}
	}
	for _, s := range set {
		if err := c.Set(s); err != nil {
			return err
		}
	}
	return nil
}

// Use makes a stage that of a reference; the settings of another plugin go.
func (s *Stage) Use(ref string) error {
	plugin, stage, err := ParseRef(ref)
	if err != nil {
		return err
	}
	if plugin != s.Plugin {
		s.Settings = nil
	}
	s.Plugin, s.Stage = plugin, stage
	return nil
}

// put sets what was given.
func put[T any](into, given *T) {
	if given != nil {
		*into = *given
	}
}

// List splits at commas; blanks and empty places do not count.
func List(text string) []string {
	var out []string
	for s := range strings.SplitSeq(text, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}
