package frocio

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
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

// organs names DeepLesion's Coarse_lesion_type 1 to 8; -1 (training split) is unknown.
var organs = []string{"bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis"}

var splitNames = map[string]string{"1": "train", "2": "val", "3": "test"}

// readDLInfo reads DL_info.csv: one row per lesion on its key slice, boxes in
// 1-based pixels.
func (t *Truth) readDLInfo(tab *rowFile) error {
	column := map[string]int{}
	for i, name := range tab.header {
		column[name] = i
	}
	for _, name := range []string{"Study_index", "Series_ID", "Coarse_lesion_type", "Possibly_noisy", "Spacing_mm_px_", "Lesion_diameters_Pixel_", "Patient_gender"} {
		if _, there := column[name]; !there {
			return fmt.Errorf("%s:1: no column %q", tab.file, name)
		}
	}
	want := t.options.Split
	if want == "" {
		want = "test"
	}
	t.Strata = []string{"organ", "size_mm", "thickness_mm", "gender"}
	noisy := 0
	err := rows(tab, t.problems, func(row []string) error {
		get := func(name string) string { return strings.TrimSpace(row[column[name]]) }
		id := get("File_name")
		split, known := splitNames[get("Train_Val_Test")]
		if !known {
			t.problems.row(tab.where(), "bad Train_Val_Test", "Train_Val_Test is %q, want 1, 2 or 3", get("Train_Val_Test"))
			return nil
		}
		if want != "all" && split != want {
			t.leave(id)
			return nil
		}
		isNoisy, err := flag(get("Possibly_noisy"))
		if err != nil {
			t.problems.row(tab.where(), "bad Possibly_noisy", "Possibly_noisy is %q, want 0 or 1", get("Possibly_noisy"))
			return nil
		}
		if isNoisy {
			noisy++
			if t.options.Noisy == NoisyDrop {
				t.leave(id)
				return nil
			}
		}
		lesion, err := dlInfoLesion(get)
		if err != nil {
			t.problems.row(tab.where(), "bad coordinates", "%v", err)
			return nil
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
		lesion.Ignore = isNoisy && t.options.Noisy == NoisyIgnore
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

func dlInfoLesion(get func(string) string) (froc.Lesion, error) {
	box, err := numbers(get("Bounding_boxes"), 4)
	if err != nil {
		return froc.Lesion{}, fmt.Errorf("Bounding_boxes %w", err)
	}
	spacing, err := numbers(get("Spacing_mm_px_"), 3)
	if err != nil {
		return froc.Lesion{}, fmt.Errorf("Spacing_mm_px_ %w", err)
	}
	diameters, err := numbers(get("Lesion_diameters_Pixel_"), 2)
	if err != nil {
		return froc.Lesion{}, fmt.Errorf("Lesion_diameters_Pixel_ %w", err)
	}
	organ := "unknown"
	kind := get("Coarse_lesion_type")
	if k, err := strconv.Atoi(kind); err == nil && k >= 1 && k <= len(organs) {
		organ = organs[k-1]
	} else if kind != "-1" {
		return froc.Lesion{}, fmt.Errorf("Coarse_lesion_type is %q, want 1 to 8 or -1", kind)
	}
	region := froc.Box(box[0]-1, box[1]-1, box[2]-1, box[3]-1)
	format := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
	return froc.Lesion{
		Region: region,
		Strata: []string{organ, format(diameters[0] * spacing[0]), format(spacing[2]), get("Patient_gender")},
	}, region.Check()
}

// numbers reads a list such as "1.5, 2, 3".
func numbers(text string, want int) ([]float64, error) {
	parts := strings.Split(text, ",")
	if len(parts) != want {
		return nil, fmt.Errorf("is %q, want %d numbers", text, want)
	}
	out := make([]float64, want)
	for i, part := range parts {
		v, err := number(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("is %q: %w", text, err)
		}
		out[i] = v
	}
	return out, nil
}
