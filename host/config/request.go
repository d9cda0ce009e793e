package config

import (
	"errors"
	"fmt"
	"os"
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
	// Set are settings as GROUP.KEY=VALUE; they come last.
	Set []string
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
