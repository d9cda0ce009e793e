package frocio

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/deeplesion"
)

// isDLInfo recognises DeepLesion's DL_info.csv by its header.
func isDLInfo(header []string) bool {
	for _, name := range []string{"File_name", "Patient_index", "Bounding_boxes", "Train_Val_Test"} {
		if !slices.Contains(header, name) {
			return false
		}
	}
	return true
}

// readDLInfo reads DL_info.csv: one row per lesion on its key slice, boxes in
// 1-based pixels.
func (t *Truth) readDLInfo(tab *rowFile) error {
	column := map[string]int{}
	for i, name := range tab.header {
		column[name] = i
	}
	for _, name := range append([]string{"Patient_index", "Study_index", "Series_ID", "Patient_gender"}, deeplesion.Needed...) {
		if _, there := column[name]; !there {
			return fmt.Errorf("%s:1: no column %q", tab.file, name)
		}
	}
	t.dlInfo, t.uses.split = true, true
	want := t.options.Split
	if want == "" {
		want = "test"
	}
	t.Strata = []string{"organ", "size_mm", "thickness_mm", "gender"}
	noisy := 0
	err := rows(tab, t.problems, func(row []string) error {
		get := func(name string) string { return strings.TrimSpace(row[column[name]]) }
		id := get("File_name")
		split, err := deeplesion.Split(get("Train_Val_Test"))
		if err == nil && want != "all" && split != want {
			t.leave(id)
			return nil
		}
		listed, err := deeplesion.Parse(get)
		var cell *deeplesion.CellError
		if errors.As(err, &cell) {
			t.problems.row(tab.where(), "bad "+cell.Column, "%v", cell)
			return nil
		}
		if listed.Noisy {
			noisy++
			if t.options.Noisy == NoisyDrop {
				t.leave(id)
				return nil
			}
		}
		lesion := froc.Lesion{
			Region: froc.Box(listed.Box.X1, listed.Box.Y1, listed.Box.X2, listed.Box.Y2), Ignore: listed.Noisy && t.options.Noisy == NoisyIgnore,
			Class:  froc.AnyClass,
			Strata: []string{cmp.Or(listed.Type, "unknown"), millimetres(listed.DiameterMM()), millimetres(listed.SpacingMM[0]), get("Patient_gender")},
		}
		var ok bool
		if lesion.Image, ok = t.image(id, tab.where()); !ok && !t.left[id] {
			return nil
		} else if !ok {
			delete(t.left, id) // only another lesion of the slice was left out
			lesion.Image = t.addImage(froc.Image{ID: id})
		}
		im := &t.Images[lesion.Image]
		im.Patient = get("Patient_index")
		im.Volume = fmt.Sprintf("%s_%s_%s", get("Patient_index"), get("Study_index"), get("Series_ID"))
		t.Lesions = append(t.Lesions, lesion)
		return nil
	})
	if noisy > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("%s: %d possibly noisy lesions: %s", tab.file, noisy, t.options.Noisy))
	}
	t.Notes = append(t.Notes, fmt.Sprintf("%s: split %s; boxes moved from 1-based to 0-based pixels", tab.file, want))
	if err == nil && len(t.Images) == 0 && t.problems.total == 0 {
		return fmt.Errorf("%s: no lesion of split %q", tab.file, want)
	}
	return err
}

// leave notes that an image was left out, unless a lesion of it counts.
func (t *Truth) leave(id string) {
	if _, used := t.index[id]; !used {
		t.left[id] = true
	}
}

// millimetres writes a length for a stratum; "" where it is unknown.
func millimetres(v float64) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}
