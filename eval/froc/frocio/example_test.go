package frocio_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
)

// From two tables to a sensitivity; the third image of the list has no lesion, and the mark on
// it is a false positive.
func ExampleReadTruth() {
	dir, err := os.MkdirTemp("", "frocio")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays behind is the system's to clear
	for name, table := range map[string]string{
		"boxes.csv":  "image,x,y,width,height\na,10,10,20,20\nb,50,50,30,30\n",
		"images.csv": "filename\na\nb\nc\n",
		"marks.csv":  "image,x1,y1,x2,y2,score\na,10,10,30,30,0.9\nc,5,5,9,9,0.8\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(table), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}
	truth, err := frocio.ReadTruth(frocio.Source{
		GroundTruth: filepath.Join(dir, "boxes.csv"), Images: filepath.Join(dir, "images.csv"),
	}, frocio.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	marks, err := truth.ReadPredictions(filepath.Join(dir, "marks.csv"))
	if err != nil {
		fmt.Println(err)
		return
	}
	result, err := froc.Evaluate(truth.Truth, marks.Marks, froc.StrictProtocol())
	if err != nil {
		fmt.Println(err)
		return
	}
	n := result.Counts
	fmt.Printf("%d of %d lesions found, %d false positives on %d images\n", n.Found, n.Lesions, n.FalsePositives, n.Images)
	// Output: 1 of 2 lesions found, 1 false positives on 3 images
}
