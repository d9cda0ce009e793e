package frocio

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// beside are files that tools write into folders of results besides the results.
var beside = []string{"classes.txt", "labels.txt", "summary.json", "dataset.json", "plans.json", "predict_from_raw_data_args.json", "plan_inference.pkl",
	"postprocessing.json", "args.yaml", "data.yaml", "progress.png"}

// filesOf lists the files of a folder, one an image, by name: volumes if there are any, so
// that the probabilities that nnU-Net writes beside them are passed over.
func filesOf(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var volumes, others []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case e.IsDir() || strings.HasPrefix(name, ".") || slices.Contains(beside, name):
		case nifti.IsVolume(name):
			volumes = append(volumes, filepath.Join(folder, name))
		case slices.Contains([]string{".txt", ".csv", ".json", ".npz", ".pkl"}, extension(name)):
			others = append(others, filepath.Join(folder, name))
		}
	}
	if len(volumes) > 0 {
		return volumes, nil
	}
	if len(others) == 0 {
		return nil, fmt.Errorf("%s: no volumes (.nii.gz, .mha, .nrrd) and no .txt, .csv, .json or .npz of single images in the folder", folder)
	}
	return others, nil
}

// classNamesOf reads the names of a YOLO folder's classes from classes.txt, if it is there.
func classNamesOf(path string) []string {
	data, err := os.ReadFile(filepath.Join(filepath.Dir(path), "classes.txt"))
	if err != nil {
		return nil
	}
	return strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(data)), " ", "_"))
}

// yoloBox is one line of a YOLO file: a class and a box in shares of the image's sides.
type yoloBox struct {
	class  string
	region froc.Region
	score  float64
	line   int
}

// aroundPolygon makes the numbers of a segmentation (class x y x y x y … [score]) those of the box
// around it; others stay as they are.
func aroundPolygon(v []float64, scored bool) []float64 {
	end := len(v)
	if scored {
		end--
	}
	if end < 7 || end%2 == 0 {
		return v
	}
	low, high := [2]float64{v[1], v[2]}, [2]float64{v[1], v[2]}
	for i, x := range v[1:end] {
		low[i%2], high[i%2] = min(low[i%2], x), max(high[i%2], x)
	}
	box := []float64{v[0], (low[0] + high[0]) / 2, (low[1] + high[1]) / 2, high[0] - low[0], high[1] - low[1]}
	return append(box, v[end:]...)
}

// readYOLOFile reads the lines of one image's file: class cx cy w h, of predictions with a score.
func (t *Truth) readYOLOFile(in *input, id string, scored bool, problems *problems) ([]yoloBox, error) {
	names := classNamesOf(in.name)
	size, known := t.sizes[id]
	known = known && size[0] > 0 && size[1] > 0
	if !known {
		size = [2]float64{1, 1}
	}
	want := 5
	if scored {
		want = 6
	}
	var out []yoloBox
	scanner := bufio.NewScanner(in)
	for line := 1; scanner.Scan(); line++ {
		fields := strings.Fields(scanner.Text())
		if len(fields) == 0 {
			continue
		}
		where := fmt.Sprintf("%s:%d", in.name, line)
		v := aroundPolygon(numbersOf(fields), scored)
		t.polygons = t.polygons || len(v) > 0 && len(v) < len(fields)
		if len(v) != want {
			problems.row(where, "bad line", "%q, want %s", clip(scanner.Text()), map[bool]string{false: "class cx cy w h",
				true: "class cx cy w h score (Ultralytics writes the score with save_conf=True)"}[scored])
			continue
		}
		if slices.Max(v[1:5]) > 1.5 {
			problems.row(where, "bad coordinates", "%q: YOLO's boxes are shares of the image's sides, 0 to 1", clip(scanner.Text()))
			continue
		}
		region, err := boxOf(box2D, centres, [6]float64{v[1] * size[0], v[2] * size[1], v[3] * size[0], v[4] * size[1]})
		if err != nil {
			problems.row(where, "bad coordinates", "%v", err)
			continue
		}
		const over = 0.05 // of the image's side: more than rounding
		t.yolo++
		dx, dy := float64(v[3]/2), float64(v[4]/2)
		if min(v[1]-dx, v[2]-dy) < -over || max(v[1]+dx, v[2]+dy) > 1+over {
			t.yoloOut++
		}
		b := yoloBox{class: strconv.FormatFloat(v[0], 'g', -1, 64), region: region, line: line}
		if k := int(v[0]); k >= 0 && k < len(names) {
			b.class = names[k]
		}
		if scored {
			b.score = v[5]
		}
		out = append(out, b)
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", in.name, err)
	}
	if len(out) > 0 && !known {
		if !scored {
			t.normal = true
		} else if !t.normal && len(t.Lesions) > 0 {
			return nil, fmt.Errorf("%s: boxes are shares of the image's sides, the lesions are not; give the sides of image %q in the list of images (image,width,height)",
				in.name, clip(id))
		}
	}
	return out, nil
}

// readYOLO reads the lesions of one image.
func (t *Truth) readYOLO(in *input, id string) error {
	i, ok := t.image(id, in.name)
	if !ok {
		return nil
	}
	boxes, err := t.readYOLOFile(in, id, false, t.problems)
	for _, b := range boxes {
		t.Lesions = append(t.Lesions, froc.Lesion{Image: i, Region: b.region, Class: t.class(b.class)})
	}
	return err
}

// once refuses a second file of an image: what it holds would count twice.
func once(read map[string]string, id, path string) error {
	if other := read[id]; other != "" {
		return fmt.Errorf("%s and %s: two files of the image %q in the folder, want one", other, path, clip(id))
	}
	read[id] = path
	return nil
}

// readFolder reads a ground truth with one file an image: label masks, or YOLO's labels, of
// which an empty one says that the image has no lesion.
func (t *Truth) readFolder(folder string) error {
	files, err := filesOf(folder)
	if err != nil {
		return err
	}
	idOf, read := withoutPostfix(files), map[string]string{}
	for _, path := range files {
		id := t.fileID(filepath.Base(path))
		if _, known := t.index[id]; !known && !t.left[id] {
			id = idOf(path)
		}
		if err := once(read, id, path); err != nil {
			return err
		}
		if nifti.IsVolume(path) {
			i, ok := t.image(id, path)
			if !ok {
				continue
			}
			if name := stem(path); name != t.Images[i].ID {
				t.alias(name, i)
			}
			if err := t.addMaskFile(froc.Lesion{Image: i, Class: froc.AnyClass}, path, nil, path); err != nil {
				return err
			}
			continue
		}
		if extension(path) != ".txt" {
			return fmt.Errorf("%s: a folder as ground truth holds label masks (.nii.gz, .mha, .nrrd) or YOLO's .txt", path)
		}
		in, err := open(t.ctx, path)
		if err != nil {
			return err
		}
		err = t.readYOLO(in, id)
		in.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
