package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/internal/nifti"
)

// Every command of the page's part "From the tool you come from" works as it stands, on files
// as that tool writes them: one image with a lesion that is found at a score of 0.9, and one
// without a lesion and with a mark of 0.4.
func TestCommandsForOtherToolsWorkAsTheyStand(t *testing.T) {
	page, err := os.ReadFile("../../docs/explanation/froc.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, ok := strings.Cut(string(page), "\n## From the tool you come from\n")
	if !ok {
		t.Fatal("docs/explanation/froc.md has no such part")
	}
	part, _, _ = strings.Cut(part, "\n## ")
	blocks := regexp.MustCompile("(?s)\\*\\*(.+?)\\*\\*.*?```sh\n(.*?)```").FindAllStringSubmatch(part, -1)
	seen := map[string]bool{}
	for _, block := range blocks {
		tool, text := block[1], block[2]
		seen[tool] = true
		t.Run(tool, func(t *testing.T) {
			files, ok := asToolsWriteThem[tool]
			if !ok {
				t.Fatalf("no files as %s writes them", tool)
			}
			dir := t.TempDir()
			for name, content := range files.text {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for name, value := range files.volumes {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := nifti.Write(filepath.Join(dir, name), cube(value)); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(dir)
			for _, line := range strings.Split(strings.TrimSpace(strings.ReplaceAll(text, "\\\n", " ")), "\n") {
				var stdout, stderr bytes.Buffer
				code := Main(strings.Fields(strings.ReplaceAll(line, `"`, "")), &stdout, &stderr)
				said := strings.Count(stderr.String(), "warning:") - strings.Count(stderr.String(), "warning: only 2 patients")
				if code != 0 || said > 0 {
					t.Fatalf("%s\nexit code %d\n%s", line, code, stderr.String())
				}
				for _, want := range files.want {
					if !strings.Contains(stdout.String(), want) {
						t.Errorf("%s\nlacks %q:\n%s", line, want, stdout.String())
					}
				}
			}
		})
	}
	for tool := range asToolsWriteThem {
		if !seen[tool] {
			t.Errorf("docs/explanation/froc.md says nothing to those who come from %s", tool)
		}
	}
}

// cube is a volume of 8 x 8 x 8 voxels of which 3 x 3 x 3 have the value.
func cube(value float32) *nifti.Image {
	v := &nifti.Image{Dim: [3]int{8, 8, 8}, Affine: [12]float64{1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0}, Float32: make([]float32, 512)}
	for k := 2; k < 5; k++ {
		for j := 2; j < 5; j++ {
			for i := 2; i < 5; i++ {
				v.Float32[i+8*j+64*k] = value
			}
		}
	}
	return v
}

// asToolsWriteThem are small files of each tool, and what is said of them.
var asToolsWriteThem = map[string]struct {
	text    map[string]string
	volumes map[string]float32 // value of the cube, see cube
	want    []string
}{
	"COCO": {
		text: map[string]string{
			"instances_val.json": `{"images":[{"id":1,"width":64,"height":64},{"id":2,"width":64,"height":64}],
				"categories":[{"id":1,"name":"nodule"}],
				"annotations":[{"id":1,"image_id":1,"category_id":1,"bbox":[10,10,12,12],"area":144,"iscrowd":0}]}`,
			"results.json": `[{"image_id":1,"category_id":1,"bbox":[10,10,12,12],"score":0.9},{"image_id":2,"category_id":1,"bbox":[1,1,9,9],"score":0.4}]`,
		},
		want: []string{"1 lesions, 1 found", "1 true positives, 1 false positives", "COCO AP"},
	},
	"DeepLesion": {
		text: map[string]string{
			"DL_info.csv": "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test\n" +
				"000001_01_01_109.png,1,1,1,109,\"20, 20, 30, 30, 20, 30, 30, 20\",\"15, 15, 35, 35\",\"14.1, 14.1\",\"0.5, 0.5, 0.5\",3,0,\"103, 115\",\"0.488, 0.488, 5\",\"512, 512\",\"-175, 275\",F,62,3\n" +
				"000002_01_01_050.png,2,1,1,50,\"20, 20, 30, 30, 20, 30, 30, 20\",\"15, 15, 35, 35\",\"14.1, 14.1\",\"0.5, 0.5, 0.5\",3,0,\"44, 56\",\"0.488, 0.488, 5\",\"512, 512\",\"-175, 275\",M,60,3\n",
			"boxes.csv": "image,x1,y1,x2,y2,score\n000001_01_01_109.png,14,14,34,34,0.9\n000002_01_01_050.png,200,200,220,220,0.4\n",
		},
		want: []string{"2 lesions, 1 found", "1 true positives, 1 false positives"},
	},
	"LUNA16": {
		text: map[string]string{
			"annotations.csv":          "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,-10,-20,-30,8\n",
			"annotations_excluded.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,50,50,50,5\n",
			"seriesuids.csv":           "1.2.3\n1.2.4\n",
			"submission.csv":           "seriesuid,coordX,coordY,coordZ,probability\n1.2.3,-10,-21,-30,0.9\n1.2.4,0,0,0,0.4\n1.2.3,50,50,51,0.3\n",
		},
		want: []string{"2 images (1 without lesions", "1 lesions, 1 found; 1 ignored lesions", "1 true positives, 1 false positives"},
	},
	"MONAI": {
		text: map[string]string{
			"dataset_fold0.json": `{"training":[],"validation":[{"image":"a.nii.gz","box":[[10,10,10,5,5,5]],"label":[0]},{"image":"b.nii.gz","box":[],"label":[]}]}`,
			"result_fold0.json":  `{"validation":[{"image":"a.nii.gz","box":[[10,10,10.5,5,5,5]],"label":[0],"label_scores":[0.9]},{"image":"b.nii.gz","box":[[30,30,30,5,5,5]],"label":[0],"label_scores":[0.4]}]}`,
		},
		want: []string{"2 images (1 without lesions", "1 lesions, 1 found", "1 true positives, 1 false positives"},
	},
	"nnDetection": {
		text: map[string]string{
			"boxes/case_0_boxes.json": `{"pred_boxes":[[2,2,5,5,2,5]],"pred_scores":[0.9],"pred_labels":[0]}`,
			"boxes/case_1_boxes.json": `{"pred_boxes":[[0,0,2,2,0,2]],"pred_scores":[0.4],"pred_labels":[0]}`,
		},
		volumes: map[string]float32{"labelsTs/case_0.nii": 1, "labelsTs/case_1.nii": 0},
		want:    []string{"2 images (1 without lesions", "1 lesions, 1 found", "1 true positives, 1 false positives"},
	},
	"PI-CAI": {
		volumes: map[string]float32{"labels/10000_1000000.nii": 1, "labels/10001_1000001.nii": 0, "detection_maps/10000_1000000.nii": 0.9, "detection_maps/10001_1000001.nii": 0.4},
		want:    []string{"2 images (1 without lesions", "1 lesions, 1 found", "1 true positives, 1 false positives"},
	},
	"RSNA": {
		text: map[string]string{
			"stage_2_train_labels.csv": "patientId,x,y,width,height,Target\na,264.0,152.0,213.0,379.0,1\nb,,,,,0\n",
			"submission.csv":           "patientId,PredictionString\na,0.9 264 152 213 379\nb,0.4 10 10 50 50\n",
		},
		want: []string{"2 images (1 without lesions", "1 lesions, 1 found", "1 true positives, 1 false positives"},
	},
}
