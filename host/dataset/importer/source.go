package importer

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// sourceFile of an imported data set says where its scans lie.
const sourceFile = "import.json"

type sourceJSON struct {
	SchemaVersion int `json:"schema_version"`
	// Source is the absolute path of the folder that was imported.
	Source string `json:"source"`
}

func recordSource(o Options) error {
	source, err := filepath.Abs(o.Source)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(sourceJSON{1, filepath.ToSlash(source)}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(filepath.Join(o.Out, sourceFile), append(data, '\n'))
}

// Source is the folder that a data set was imported from, "" for one that does not say so.
func Source(dir string) (string, error) {
	path := filepath.Join(dir, sourceFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", problem.File(path, err)
	}
	var s sourceJSON
	if err := json.Unmarshal(data, &s); err != nil || s.SchemaVersion != 1 || s.Source == "" {
		return "", problem.At(path, 0, "", "want the JSON that data import writes, with schema_version 1 and a source")
	}
	return s.Source, nil
}

// Series is a DICOM series as the importer makes a volume of it, for objects that refer
// to its images.
type Series struct {
	UID, Study string
	// Dim is columns, rows, slices. Affine maps their indices to mm towards right,
	// anterior, superior, as the volume's header does.
	Dim    [3]int
	Affine [12]float64
	// Images are the slices in the order of the volume.
	Images []Image
}

// Image is a slice of a Series.
type Image struct {
	File, SOPInstance, SOPClass string
	// Frame counts from 1 in a multi-frame image; 0 in others.
	Frame int
	// PositionLPS is the centre of its first pixel, Row and Column the directions in which
	// column and row index rise (PS3.3 C.7.6.2), SpacingMM the distance of rows and of columns.
	PositionLPS, Row, Column [3]float64
	SpacingMM                [2]float64
}

// FindSeries reads the headers below a folder and returns the series of it that are wanted, by
// their UIDs. One that is not there or cannot be a volume is an error that names it.
func FindSeries(ctx context.Context, root string, wanted []string) (map[string]*Series, error) {
	files, _, err := walk(ctx, root)
	if err != nil {
		return nil, err
	}
	var damaged, problems problem.List
	bySeries, _, err := groupSeries(ctx, files, &damaged)
	if err != nil {
		return nil, err
	}
	out := map[string]*Series{}
	for _, uid := range wanted {
		list := bySeries[uid]
		if list == nil {
			problems.Add(root, 0, "", "holds no images of the series %s, in %d files (%d of them damaged)", problem.Clip(uid, 64), len(files), len(damaged))
			continue
		}
		s, err := newSeries(list)
		if err != nil {
			problems.AddError(list[0].path, 0, "", err)
			continue
		}
		out[uid] = s.export(list)
	}
	return out, problems.Err()
}

func (s *series) export(instances []*instance) *Series {
	byFile := map[string]*instance{}
	for _, in := range instances {
		byFile[in.path] = in
	}
	out := &Series{UID: s.first.series, Study: s.first.study, Dim: [3]int{s.first.columns, s.first.rows, len(s.slices)}, Affine: s.affine()}
	for _, one := range s.slices {
		in, p := byFile[one.file], one.plane
		image := Image{File: one.file, SOPInstance: one.sop, SOPClass: in.class, PositionLPS: p.position, Row: p.row, Column: p.column, SpacingMM: p.spacing}
		if len(in.planes) > 1 {
			image.Frame = one.frame + 1
		}
		out.Images = append(out.Images, image)
	}
	return out
}
