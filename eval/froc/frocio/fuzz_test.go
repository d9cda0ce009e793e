package frocio

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// inMemory makes files that are put there those that are read until the test ends.
func inMemory(t testing.TB) (put func(name string, data []byte)) {
	files, before := fstest.MapFS{}, openFile
	openFile = func(path string) (fs.File, error) { return files.Open(path) }
	t.Cleanup(func() { openFile = before })
	return func(name string, data []byte) { files[name] = &fstest.MapFile{Data: data} }
}

// fuzzPair feeds one file as ground truth and as predictions: whatever is read
// without an error must be fit to be evaluated.
func fuzzPair(f *testing.F, extension string, truths, marks []string) {
	for _, truth := range truths {
		for _, m := range marks {
			f.Add([]byte(truth), []byte(m))
		}
	}
	names := [2]string{"t" + extension, "p" + extension}
	put := inMemory(f)
	if extension == ".npz" { // which is no stream
		dir := f.TempDir()
		names = [2]string{filepath.Join(dir, names[0]), filepath.Join(dir, names[1])}
		put = func(name string, data []byte) {
			if err := os.WriteFile(name, data, 0o644); err != nil {
				panic(err)
			}
		}
	}
	f.Fuzz(func(t *testing.T, truth, marks []byte) {
		put(names[0], truth)
		put(names[1], marks)
		for _, o := range []Options{{}, {Lenient: true}, {Lenient: true, IoUType: Segm}} {
			read, err := ReadTruth(Source{GroundTruth: names[0]}, o)
			if err != nil {
				continue
			}
			p, err := read.ReadPredictions(names[1])
			if err != nil {
				continue
			}
			if len(p.Marks) != len(p.Rows) {
				t.Fatalf("%d marks, %d rows", len(p.Marks), len(p.Rows))
			}
			for i := range p.Marks {
				m := &p.Marks[i]
				if m.Image < 0 || m.Image >= len(read.Images) || m.Region.Check() != nil || finite(m.Score) != nil {
					t.Fatalf("mark %d is %+v", i, m)
				}
			}
			protocol := froc.StrictProtocol()
			if _, err := froc.Evaluate(read.Truth, p.Marks, protocol); err != nil {
				continue // no lesions, or kinds that cannot be compared
			}
		}
	})
}

func FuzzCSV(f *testing.F) {
	fuzzPair(f, ".csv", []string{
		"image,x1,y1,x2,y2,patient,ignore\na,0,1,2,3,p,1\n", "seriesuid,coordX,coordY,coordZ,diameter_mm\na,1,2,3,-1\n",
		"image,x1,y1,x2,y2,z,volume\na,0,1,2,3,7,v\n", "image,cx,cy,radius\n\"a\"\"b\",1,2,3\n", "image,mask\na,x.nii\n",
		dlHeader + dlRow("a", 0, 3) + dlRow("b", 1, 3), "image;x;y;width;height;reader\na;1,5;2;3;4;r\n", "image x1 y1 x2 y2\na 1 2 3 4\n",
		"image,bbox\na,\"[1, 2, 3, 1]\"\n", "CaseID,LesionID,Weight\na,1,1\n", "0 0.5 0.5 0.1 0.1\n",
	}, []string{"image,PredictionString\na,0.5 1 2 3 4\n", "0 0.5 0.5 0.1 0.1 0.9\n", "0.9,10,20\n", "CaseID,FP_Rating\na,1\n",
		"image,x1,y1,x2,y2,score\na,0,0,1,1,0.5\n", "image,x,y,score\na,0,1e400,NaN\n"})
}

func FuzzJSONLines(f *testing.F) {
	fuzzPair(f, ".jsonl", []string{`{"image":"a","x1":0,"y1":1,"x2":2,"y2":3,"ignore":true,"organ":null}`}, []string{`{"score":1.5,"image":"a","x1":0,"y1":1,"x2":2,"y2":3}`})
}

func FuzzCOCO(f *testing.F) {
	fuzzPair(f, ".json", []string{
		`{"images":[{"id":7,"width":5,"height":4}],"annotations":[{"image_id":7,"segmentation":[[0,0,4,0,4,3,1,3]]}]}`,
		`{"images":[{"id":7,"patient":"p"},{"id":"x"}],"categories":[{"id":1,"name":"n"}],"annotations":[{"image_id":7,"category_id":1,"bbox":[1,2,3,4],"iscrowd":1}]}`,
	}, []string{
		`[{"image_id":7,"category_id":1,"bbox":[1,2,3,4],"score":0.5}]`,
		`{"pred_boxes":[[1,2,3,4,5,6]],"pred_scores":[0.5],"pred_labels":[1]}`,
		`{"test":[{"image":"x.nii.gz","box":[[1,2,3,4]],"label":[0],"label_scores":[0.5]}]}`,
		`[{"image_id":7,"score":1,"segmentation":{"size":[4,5],"counts":"52207"}},{"image_id":7,"score":1,"segmentation":[[1,2,3,4,5,6]]}]`,
		`{"cases":[{"id":"x","boxes":[{"x1":0,"y1":1,"x2":2,"y2":3,"score":0.5}]}]}`,
	})
}

func FuzzNPZ(f *testing.F) {
	var truths, marks []string
	for _, list := range []struct {
		names []string
		into  *[]string
	}{{[]string{"truth.npz", "truth_3d.npz", "truth_points.npz"}, &truths}, {[]string{"predictions.npz", "predictions_named.npz", "predictions_own_list.npz", "bad_nan.npz"}, &marks}} {
		for _, name := range list.names {
			data, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				f.Fatal(err)
			}
			*list.into = append(*list.into, string(data))
		}
	}
	fuzzPair(f, ".npz", truths, marks)
}
