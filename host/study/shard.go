package study

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/shard"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
)

// byModel groups cells, those of one model behind each other, by their models.
func byModel(cells []Cell) (models [][]Cell) {
	first := 0
	for i := range cells {
		if i+1 == len(cells) || cells[i+1].Model.Name() != cells[i].Model.Name() {
			models, first = append(models, cells[first:i+1]), i+1
		}
	}
	return models
}

// ofShard keeps the cells of a shard's models: two shards never train one model.
func ofShard(cells []Cell, s shard.Spec) []Cell {
	models := byModel(cells)
	first, end := s.Range(len(models))
	return slices.Concat(models[first:end]...)
}

// Part is what a shard of a study made: the hashes of its cells' files below the study.
type Part struct {
	Cells map[string]string `json:"cells"`
	// Runs are the folders of its models.
	Runs []string `json:"runs"`
}

func cellFile(cell string) string { return "cells/" + cell + "/cell.json" }

// openData opens the study's data without their attributes.
func (s *Study) openData() (*dataset.Dataset, error) {
	cfg, err := s.config(s.planned[0].Model)
	if err != nil {
		return nil, err
	}
	return feed.OpenData(cfg.Data, cfg, nil, feed.Sources{Columns: []string{}})
}

// Part says what the shard made, and what that depends on.
func (s *Study) Part() (*Part, map[string]string, error) {
	part := &Part{Cells: map[string]string{}}
	names := make([]string, len(s.planned))
	for i, c := range s.planned {
		names[i] = c.Name()
	}
	inputs := map[string]string{"the study": shard.Sum(s.Identity), "the cells": shard.Sum(names)}
	data, err := s.openData()
	if err != nil {
		return nil, nil, err
	}
	inputs["the data "+data.Spec] = data.Hash
	for _, c := range s.cells {
		if part.Cells[c.Name()], err = shard.SumFile(s.path(cellFile(c.Name()))); err != nil {
			return nil, nil, err
		}
		if c.Method.host != nil {
			continue
		}
		run := "runs/" + c.Model.Name()
		if n := len(part.Runs); n == 0 || part.Runs[n-1] != run {
			part.Runs = append(part.Runs, run)
		}
		m, err := runs.ReadManifest(s.runDir(c.Model))
		if err != nil {
			return nil, nil, err
		}
		for _, p := range m.Plugins {
			inputs[strings.Join([]string{"plugin", p.Role, p.Name, p.Stage}, " ")] = p.SHA256
		}
	}
	return part, inputs, nil
}

// Gather brings what shards made together in the folder dir, from the folders they were told
// to write, and refuses a cell that is not what its shard made.
func Gather(dir string, records []*shard.Record, parts []Part) error {
	var wrong []error
	for i, part := range parts {
		from := records[i].Out()
		folders := append([]string{}, part.Runs...)
		for cell := range part.Cells {
			folders = append(folders, "cells/"+cell)
		}
		for _, folder := range folders {
			if !filepath.IsLocal(folder) {
				return fault.Errorf(fault.Data, "%s names %q, which lies outside the study", records[i].Path, folder)
			}
		}
		if filepath.Clean(from) != filepath.Clean(dir) {
			for _, folder := range folders {
				to := filepath.Join(dir, filepath.FromSlash(folder))
				if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
					continue // of an earlier merge
				}
				if err := os.CopyFS(to, os.DirFS(filepath.Join(from, filepath.FromSlash(folder)))); err != nil {
					return fmt.Errorf("%s: %w", records[i].Path, err)
				}
			}
		}
		for _, cell := range slices.Sorted(maps.Keys(part.Cells)) {
			path := filepath.Join(dir, filepath.FromSlash(cellFile(cell)))
			switch sum, err := shard.SumFile(path); {
			case err != nil:
				wrong = append(wrong, err)
			case sum != part.Cells[cell]:
				wrong = append(wrong, fault.Errorf(fault.Data, "%s is not the cell that %s made: run that shard again", path, records[i].Path))
			}
		}
	}
	return errors.Join(wrong...)
}
