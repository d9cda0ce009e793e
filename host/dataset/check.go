package dataset

import (
	"context"
	"errors"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// SplitCounts is what a split holds.
type SplitCounts struct {
	Cases       int `json:"cases"`
	Patients    int `json:"patients"`
	WithTargets int `json:"with_targets"`
	// Lesions and Ignored count boxes and regions to ignore (detection).
	Lesions int `json:"lesions,omitempty"`
	Ignored int `json:"ignored_regions,omitempty"`
	// Labels counts classes by task (classification), boxes by class (detection).
	Labels map[string]map[string]int `json:"labels,omitempty"`
	// Missing is the share of cases without a value, by attribute column.
	Missing map[string]float64 `json:"missing_rates,omitempty"`
}

// Report is what `data check` prints.
type Report struct {
	SchemaVersion    int                     `json:"schema_version"`
	Spec             string                  `json:"spec"`
	Task             Task                    `json:"task,omitempty"`
	Hash             string                  `json:"hash,omitempty"`
	Modalities       []string                `json:"modalities,omitempty"`
	AttributeColumns []string                `json:"attribute_columns,omitempty"`
	Cases            int                     `json:"cases"`
	Patients         int                     `json:"patients"`
	Splits           map[string]*SplitCounts `json:"splits,omitempty"`
	ImagesDecoded    int                     `json:"images_decoded"`
	Warnings         []string                `json:"warnings,omitempty"`
	Problems         Problems                `json:"problems"`
}

// Check opens a data set, decodes every image of it (every slice of every stack) and
// counts what is there. Problems with the data are in the report; the error is for
// everything else (the context ending). decode false leaves the pixels alone.
func Check(ctx context.Context, spec string, opt Options, decode bool) (*Report, error) {
	r := &Report{SchemaVersion: 1, Spec: spec, Problems: Problems{}}
	d, err := Open(spec, opt)
	if err != nil {
		var problems Problems
		switch {
		case errors.As(err, &problems):
			r.Problems = problems
		case errors.Is(err, ErrData):
			r.Problems.Add(spec, 0, "", "%s", strings.TrimPrefix(err.Error(), ErrData.Error()+": "))
		default:
			return nil, err
		}
		return r, nil
	}
	r.count(d)
	if !decode {
		return r, nil
	}
	return r, r.decode(ctx, d)
}

func (r *Report) count(d *Dataset) {
	r.Task, r.Hash, r.Modalities, r.AttributeColumns, r.Warnings = d.Task, d.Hash, d.Modalities, d.AttributeColumns, d.Warnings
	r.Cases = len(d.Cases)
	r.Splits = map[string]*SplitCounts{}
	patients := map[string]map[string]bool{}
	everyone := map[string]bool{}
	for i := range d.Cases {
		c := &d.Cases[i]
		s := r.Splits[c.Split]
		if s == nil {
			s = &SplitCounts{Labels: map[string]map[string]int{}, Missing: map[string]float64{}}
			r.Splits[c.Split] = s
			patients[c.Split] = map[string]bool{}
			for _, set := range d.Labels {
				s.Labels[set.Name] = map[string]int{}
			}
		}
		s.Cases++
		s.Lesions += len(c.Boxes)
		s.Ignored += len(c.Ignore)
		if c.HasTargets {
			s.WithTargets++
		}
		if c.Patient != "" {
			patients[c.Split][c.Patient], everyone[c.Patient] = true, true
		}
		for _, set := range d.Labels {
			if k, ok := c.Labels[set.Name]; ok && k >= 0 {
				s.Labels[set.Name][set.Classes[k]]++
			}
			for _, b := range c.Boxes {
				s.Labels[set.Name][set.Classes[b.Class]]++
			}
		}
		for _, a := range d.AttributeColumns {
			if c.Attributes[a].State == schema.Unmentioned {
				s.Missing[a]++
			}
		}
	}
	r.Patients = len(everyone)
	for split, s := range r.Splits {
		s.Patients = len(patients[split])
		for a := range s.Missing {
			s.Missing[a] /= float64(s.Cases)
		}
	}
}

// decode reads the pixels of every image, in parallel, problems in the order of files.
func (r *Report) decode(ctx context.Context, d *Dataset) error {
	type job struct {
		path   string
		decode func(string) (*plane, error)
		size   [2]int
	}
	jobs := map[string]job{}
	for i := range d.Cases {
		c := &d.Cases[i]
		for modality, path := range c.Images {
			j := job{path: path, decode: decodePicture}
			if modality == Volume {
				j.decode = decodeSlice
				if d.huOnly {
					j.decode = decodeHU
				}
				j.size = c.Size
			}
			s := d.stacks[c.Stack]
			if s != nil && s.nifti != "" {
				j.size = [2]int{}
				j.decode = func(path string) (*plane, error) {
					_, err := nifti.Read(path)
					return nil, err
				}
			}
			jobs[path] = j
			if s != nil {
				for _, slice := range s.files {
					j.path = slice
					jobs[slice] = j
				}
			}
		}
	}
	paths := slices.SortedFunc(maps.Keys(jobs), strings.Compare)
	errs := make([]error, len(paths))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			j := jobs[path]
			p, err := j.decode(path)
			if err == nil && p != nil && j.size != [2]int{} && j.size != [2]int{p.h, p.w} {
				err = problem.At(path, 0, "", "is %d x %d pixels, its key slice %d x %d", p.w, p.h, j.size[1], j.size[0])
			}
			errs[i] = err
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, err := range errs {
		switch {
		case err == nil:
			r.ImagesDecoded++
		case errors.Is(err, os.ErrNotExist):
			r.Problems.AddError(paths[i], 0, "", problem.File(paths[i], err))
		default:
			r.Problems.AddError(paths[i], 0, "", err)
		}
	}
	return nil
}
