package workflow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// modesFile of a run holds what data.impute=mode fills in, by attribute.
const modesFile = "modes.json"

// priorsFile of a run holds the shares of the attributes' values in its training cases.
const priorsFile = "priors.json"

// RunFiles are what a run directory says about its pipeline.
type RunFiles struct {
	Config   *config.Config
	Manifest *runs.Manifest
	Schema   *schema.Schema
	Labels   []sdk.LabelSet
	// Modes are what data.impute=mode puts where an attribute is missing.
	Modes map[string]schema.Cell
	// trained are the cases the run has learned from; nil in runs of 0.1.
	trained trained
	// Calibration of the reconstruction; nil where none was fitted.
	Calibration *predictions.Calibration
	// Priors are the shares of the attributes' values in training; nil in older runs.
	Priors map[string][]float64
}

// ReadRun reads configuration, manifest, schema and labels of a run. It fails with
// runs.ErrNotARun or runs.ErrDamaged.
func ReadRun(dir string) (*RunFiles, error) {
	if !runs.IsRun(dir) {
		return nil, fmt.Errorf("%s: %w (no %s in it)%s", dir, runs.ErrNotARun, runs.ConfigFile, runsNear(dir))
	}
	r, err := readRun(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runs.ErrDamaged, err)
	}
	return r, nil
}

func readRun(dir string) (*RunFiles, error) {
	data, err := os.ReadFile(filepath.Join(dir, runs.ConfigFile))
	if err != nil {
		return nil, err
	}
	r := &RunFiles{}
	if r.Config, err = config.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, runs.ConfigFile), err)
	}
	if err := r.Config.Resolve(); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, runs.ConfigFile), err)
	}
	if r.Manifest, err = runs.ReadManifest(dir); err != nil {
		return nil, err
	}
	if err := readJSON(filepath.Join(dir, runs.LabelsFile), &r.Labels); err != nil {
		return nil, err
	}
	var s schema.Schema
	switch err := readJSON(filepath.Join(dir, runs.SchemaFile), &s); {
	case err == nil:
		r.Schema = &s
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if err := readJSON(filepath.Join(dir, calibrationFile), &r.Calibration); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if c := r.Calibration; c != nil && !(c.Temperature > 0) {
		return nil, fmt.Errorf("%s: the temperature is %v, want more than 0", filepath.Join(dir, calibrationFile), c.Temperature)
	}
	if err := readJSON(filepath.Join(dir, priorsFile), &r.Priors); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for name, shares := range r.Priors {
		if r.Schema == nil || r.Schema.Index(name) < 0 || len(shares) != len(r.Schema.Attributes[r.Schema.Index(name)].Values) {
			return nil, fmt.Errorf("%s: attribute %q: want one share for each value of the schema", filepath.Join(dir, priorsFile), name)
		}
	}
	if r.trained, err = readTrained(dir); err != nil {
		return nil, err
	}
	return r, r.readModes(filepath.Join(dir, modesFile))
}

// readModes reads what data.impute=mode fills in, as schema.FormatCell writes it.
func (r *RunFiles) readModes(path string) error {
	var texts map[string]string
	if err := readJSON(path, &texts); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r.Modes = map[string]schema.Cell{}
	for name, text := range texts {
		if r.Schema == nil || r.Schema.Index(name) < 0 {
			continue // a column that became no attribute
		}
		cell, err := schema.ParseCell(r.Schema.Attributes[r.Schema.Index(name)], text)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		r.Modes[name] = cell
	}
	return nil
}

// formatModes is how modes.json holds them.
func formatModes(s *schema.Schema, modes map[string]schema.Cell) map[string]string {
	texts := map[string]string{}
	for name, cell := range modes {
		texts[name] = schema.FormatCell(s.Attributes[s.Index(name)], cell)
	}
	return texts
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
