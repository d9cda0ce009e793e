package frocreport_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/eval/froc"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
)

const exampleTruth = `image,patient,x1,y1,x2,y2
a,p,0,0,10,10
b,p,0,0,10,10
c,q,,,,
`

const exampleMarks = `image,x1,y1,x2,y2,score
a,0,0,10,10,0.9
c,70,70,80,80,0.6
b,0,1,10,11,0.3
`

// Two tables are evaluated by the published DeepLesion protocol; image c was searched and has
// no lesion.
func ExampleRun() {
	dir, err := os.MkdirTemp("", "froc")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays behind is the system's to clear
	truth, marks := filepath.Join(dir, "truth.csv"), filepath.Join(dir, "marks.csv")
	for path, table := range map[string]string{truth: exampleTruth, marks: exampleMarks} {
		if err := os.WriteFile(path, []byte(table), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}
	protocol := froc.DeepLesion()
	protocol.FPPI = []float64{0.25, 0.5}
	report, err := frocreport.Run(context.Background(), frocreport.Options{
		Truth:    frocio.Source{GroundTruth: truth},
		Systems:  []frocreport.System{{Name: "detector", Path: marks}},
		Protocol: protocol,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range report.Document.OperatingPoints {
		fmt.Printf("%.2f false positives per image: sensitivity %.2f\n", p.FPPI, float64(p.Sensitivity))
	}
	gate, err := frocreport.ParseGate("mean=0.8")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(report.Check([]frocreport.Gate{gate}))
	// Output:
	// 0.25 false positives per image: sensitivity 0.50
	// 0.50 false positives per image: sensitivity 1.00
	// detector: mean sensitivity is 0.750000, below the gate of 0.8
}
