package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
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
	r.Problems = append(r.Problems, d.gate...)
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
	patients := d.patientNumbers()
	seen := map[string][]bool{} // patients, by split
	var splits table.Index
	splitOf := make([]int32, len(d.Cases))
	for i := range d.Cases {
		c := &d.Cases[i]
		number, _ := splits.Add(c.Split)
		splitOf[i] = int32(number)
		s := r.Splits[c.Split]
		if s == nil {
			s = &SplitCounts{Labels: map[string]map[string]int{}, Missing: map[string]float64{}}
			r.Splits[c.Split] = s
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
		if p := int(patients[i]); p >= 0 {
			r.Patients = max(r.Patients, p+1)
			seen[c.Split] = append(seen[c.Split], make([]bool, max(0, p+1-len(seen[c.Split])))...)
			if !seen[c.Split][p] {
				seen[c.Split][p] = true
				s.Patients++
			}
		}
		for _, set := range d.Labels {
			if k, ok := c.Labels[set.Name]; ok && k >= 0 {
				s.Labels[set.Name][set.Classes[k]]++
			}
			for _, b := range c.Boxes {
				s.Labels[set.Name][set.Classes[b.Class]]++
			}
		}
	}
	for _, a := range d.AttributeColumns {
		missing := make([]int, len(splits.Texts))
		eachCell(d.Cases, a, func(i int, column *cellColumn, code uint32) {
			if column.cells[code].State == schema.Unmentioned {
				missing[splitOf[i]]++
			}
		})
		for k, split := range splits.Texts {
			if s := r.Splits[split]; missing[k] > 0 {
				s.Missing[a] = float64(missing[k]) / float64(s.Cases)
			}
		}
	}
}

// ctWindow are the Hounsfield units that data in CT are checked against; what an encoder
// sees is checked when it is known (Look).
var ctWindow = &sdk.Intensity{Low: -1024, High: 3071}

// decodeJob is a file to be read completely.
type decodeJob struct {
	read func(string) (*plane, error)
	// size is the size that the image has to have, zero where any is right.
	size     [2]int
	unitless bool
	// split of the first case that shows it.
	split string
}

// decodeJobs are all the files of a data set's images, by path.
func (d *Dataset) decodeJobs() map[string]decodeJob {
	jobs := map[string]decodeJob{}
	for i := range d.Cases {
		c := &d.Cases[i]
		for modality, path := range c.Images {
			j := decodeJob{split: c.Split, read: d.decoder(c, modality), unitless: d.unitless(modality)}
			v := c.sight(modality)
			s := d.stacks[v.stack]
			if ports.Scan(modality) && (s == nil || s.nifti == "") {
				j.size = v.size
			}
			if _, known := jobs[path]; !known {
				jobs[path] = j
			}
			for _, patch := range c.Patches {
				jobs[patch.Path] = j
			}
			if s != nil {
				for _, slice := range s.files {
					if _, known := jobs[slice]; !known {
						jobs[slice] = j
					}
				}
			}
		}
	}
	return jobs
}

// decode reads the pixels of every image, in parallel, problems in the order of files.
// It warns of what shows nothing and of images that are there twice.
func (r *Report) decode(ctx context.Context, d *Dataset) error {
	jobs := d.decodeJobs()
	paths := slices.SortedFunc(maps.Keys(jobs), strings.Compare)
	errs := make([]error, len(paths))
	seen := make([]values, len(paths))
	sums := make([][sha256.Size]byte, len(paths))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			j := jobs[path]
			p, err := j.read(path)
			if err == nil && j.size != [2]int{} && j.size != [2]int{p.h, p.w} {
				err = problem.At(path, 0, "", "is %d x %d pixels, its key slice %d x %d", p.w, p.h, j.size[1], j.size[0])
			}
			if errs[i] = err; err == nil {
				seen[i] = p.extremes(path)
				seen[i].units = seen[i].units && !j.unitless
				sums[i] = p.sum()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var decoded []values
	for i, err := range errs {
		switch {
		case err == nil:
			r.ImagesDecoded++
			decoded = append(decoded, seen[i])
		case errors.Is(err, os.ErrNotExist):
			r.Problems.AddError(paths[i], 0, "", problem.File(paths[i], err))
		default:
			r.Problems.AddError(paths[i], 0, "", err)
		}
	}
	warnings, err := judge(decoded, ctWindow)
	if err != nil {
		r.Problems.AddError(d.Spec, 0, "", err)
	}
	r.Warnings = append(r.Warnings, warnings...)
	r.findTwins(d, paths, errs, sums, jobs)
	return nil
}

// sum is a hash of the pixels: it finds an image again under another name or in another
// file format.
func (p *plane) sum() [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintln(h, p.h, p.w)
	for _, part := range []any{p.hu16, p.hu32, p.grey8, p.rgb} {
		binary.Write(h, binary.LittleEndian, part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// findTwins warns of images that are there twice; when in two splits, one of them tells
// about the other.
func (r *Report) findTwins(d *Dataset, paths []string, errs []error, sums [][sha256.Size]byte, jobs map[string]decodeJob) {
	isKey := map[string]bool{}
	for i := range d.Cases {
		for _, path := range d.Cases[i].Images {
			isKey[path] = true
		}
	}
	first := map[[sha256.Size]byte]string{}
	var twins, across [][2]string
	for i, path := range paths {
		if errs[i] != nil || !isKey[path] {
			continue
		}
		other, twice := first[sums[i]]
		if !twice {
			first[sums[i]] = path
			continue
		}
		twins = append(twins, [2]string{other, path})
		if jobs[other].split != jobs[path].split {
			across = append(across, [2]string{other, path})
		}
	}
	if len(twins) > 0 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d images show the same pixels as another one, the first are %s and %s", len(twins), twins[0][0], twins[0][1]))
	}
	if len(across) > 0 {
		a, b := across[0][0], across[0][1]
		r.Warnings = append(r.Warnings, fmt.Sprintf("%d of them are in two splits, for example %s (%q) and %s (%q): results on such splits are too good", len(across), a, jobs[a].split, b, jobs[b].split))
	}
}
