package workflow

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
)

// foldsSplit stands for the split of systems with folds: each run's own validation split.
const foldsSplit = "folds"

// runs are the system's run directories, one per fold.
func (s System) runs() []string { return append([]string{s.Path}, s.Folds...) }

// warnings are those that the system's predictions were saved with.
func (s System) warnings(split string) ([]string, error) {
	if len(s.Folds) == 0 {
		return predictions.Warnings(s.Path, split)
	}
	var out []string
	for _, run := range s.runs() {
		r, err := ReadRun(run)
		if err != nil {
			return nil, err
		}
		saved, err := predictions.Warnings(run, r.Config.DataSettings.ValidationSplit)
		if err != nil {
			return nil, err
		}
		if r.Config.Train.BestBy != config.Last {
			saved = append(saved, "its folds are those that each run's best checkpoint was chosen on (train.best_by=last chooses none): figures on them are somewhat too good")
		}
		out = append(out, saved...)
	}
	return unique(out), nil
}

// poolFolds joins what the folds of every system predict in a folder of its own below dir.
// One system has folds at least.
func (o *CompareOptions) poolFolds(dir string) error {
	with := slices.IndexFunc(o.Systems, func(s System) bool { return len(s.Folds) > 0 })
	if o.Split != "" {
		return usage("--split %s: %s has folds, and each is compared on its own validation split", o.Split, o.Systems[with].Name)
	}
	o.Split = foldsSplit
	for i := range o.Systems {
		s := &o.Systems[i]
		if len(s.Folds) == 0 {
			return usage("%s is one run, %s has %d folds; name the folds of every system alike: NAME=RUN NAME=RUN …", s.Name, o.Systems[with].Name, len(o.Systems[with].runs()))
		}
		s.pooled = filepath.Join(dir, strconv.Itoa(i))
		if err := s.pool(); err != nil {
			return err
		}
	}
	return nil
}

// pool writes the system's predictions of all folds, with what is true of them, ordered so
// that the order of the folds does not matter. A case may be in one fold alone.
func (s System) pool() error {
	if err := os.MkdirAll(s.pooled, 0o777); err != nil {
		return err
	}
	runOf := map[string]string{}
	for _, name := range []string{predictions.ImagesFile, predictions.TruthFile, predictions.File, predictions.MetricsFile} {
		var header []string
		var rows [][]string
		for _, run := range s.runs() {
			path, err := s.foldFile(run, name)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if name == predictions.MetricsFile && errors.Is(err, fs.ErrNotExist) {
				return nil // the heads of some folds have no metrics of their own
			}
			if err != nil {
				return fmt.Errorf("%w: %w", runs.ErrDamaged, err)
			}
			one, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
			if err != nil || len(one) == 0 {
				return fmt.Errorf("%w: %s: no table: %v", runs.ErrDamaged, path, err)
			}
			if header != nil && !slices.Equal(header, one[0]) {
				return fmt.Errorf("%w: %s has the columns %s, that of %s %s: the folds have other classes", dataset.ErrData, path, strings.Join(one[0], ","), s.Path, strings.Join(header, ","))
			}
			header, rows = one[0], append(rows, one[1:]...)
			for _, row := range one[1:] {
				if other, twice := runOf[row[0]]; twice && name == predictions.ImagesFile {
					return fmt.Errorf("%w: %s: case %q is in the validation splits of %s and of %s; folds share no case", dataset.ErrData, s.Name, row[0], other, run)
				}
				runOf[row[0]] = run
			}
		}
		slices.SortStableFunc(rows, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
		var b bytes.Buffer
		if err := csv.NewWriter(&b).WriteAll(append([][]string{header}, rows...)); err != nil {
			return err
		}
		if err := runs.WriteFile(filepath.Join(s.pooled, name), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// foldFile is a file of what a fold's run predicts for its validation split.
func (s System) foldFile(run, name string) (string, error) {
	r, err := ReadRun(run)
	if err != nil {
		return "", err
	}
	split := r.Config.DataSettings.ValidationSplit
	if _, err := os.Stat(filepath.Join(s.dirOf(run, split), predictions.File)); err != nil || split == "" {
		return "", s.noPredictions(run, split)
	}
	return filepath.Join(s.dirOf(run, split), name), nil
}

// noPredictions says how a run's predictions of a split are made.
func (s System) noPredictions(run, split string) error {
	if s.perVolume && slices.Contains(predictions.Splits(run), split) {
		return usage("%s has no findings of volumes of split %q: its cases are no slices of volumes (layout volumes:), or an older version predicted them; predict them again", run, split)
	}
	return usage("%s has no predictions of split %q (it has %s); make them with `alignedfusion predict --run %s --split %s --out FILE`",
		run, split, strings.Join(append(predictions.Splits(run), "none else"), ", "), run, split)
}
