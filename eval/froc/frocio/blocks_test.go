package frocio

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// blockTruth has images, one of another split, and classes.
const blockTruth = "image,x1,y1,x2,y2,split,class\na,0,0,5,5,test,cyst\nä b,1,1,6,6,test,node\n\"q,\"\"\",2,2,7,7,test,cyst\nleft,0,0,5,5,train,cyst\n"

var blockTables = map[string]string{
	"plain":                          strings.Repeat("a,1,2,3,4,0.5\nä b,1,2,3,4.25,-0.125\n", 9),
	"CRLF, blank lines, space":       strings.Repeat("a,1,2,3,4,0.5\r\n\r\n ä b , 1,2 ,3,4,1e-3\r\n  \n", 5),
	"no newline at the end":          strings.Repeat("a,1,2,3,4,0.5\n", 5) + "a,1,2,3,4,0.25",
	"cells in quotes":                strings.Repeat("\"a\",1,\"2\",3,4,0.5\n\"q,\"\"\",1,2,3,4,.5\n\"ä b\",1,2,3,4,5.\n", 4),
	"a quote that is not closed":     strings.Repeat("a,1,2,3,4,0.5\n", 5) + "\"a,1,2,3,4,0.5\n" + strings.Repeat("a,1,2,3,4,0.5\n", 9),
	"a row over several lines":       strings.Repeat("a,1,2,3,4,0.5\n", 5) + "\"a\n\",1,2,3,4,0.5\n\"x\ny\n\n\",1,2,3,4,1\n" + strings.Repeat("a,1,2,3,4,0.5\n", 5),
	"unknown and left images":        strings.Repeat("left,1,2,3,4,0.5\na,1,2,3,4,0.5\nb,1,2,3,4,0.5\nA,1,2,3,4,0.5\n", 6),
	"rows of other widths":           strings.Repeat("a,1,2,3,4,0.5\na,1,2,3,4,0.5,,\na,1,2,3,4,0.5,7\na,1\n", 6),
	"numbers that are none":          strings.Repeat("a,1,2,3,4,NaN\na,x,2,3,4,0.5\na,3,2,1,4,0.5\na,1e400,2,3,4,0.5\na,1,2,3,4,0x1p-2\n", 4),
	"no text":                        strings.Repeat("a,1,2,3,4,0.5\n", 5) + "a,1,\xff,3,4,0.5\n" + strings.Repeat("a,1,2,3,4,0.5\n", 5),
	"a zero byte":                    strings.Repeat("a,1,2,3,4,0.5\n", 5) + "a,1,\x00,3,4,0.5\n",
	"other space, quotes after text": "a\u2003,1,2,3,4,0.5\n\u00a0a,1,2,3,4,0.5\n" + `a"b",1,2,3,4,0.5` + "\n",
}

// readAsBlocks reads marks by blocks of so many bytes.
func readAsBlocks(t *testing.T, path string, bytes int, o Options) (p *Predictions, classes []string, text string) {
	t.Helper()
	before := blockBytes
	blockBytes = bytes
	defer func() { blockBytes = before }()
	truth, err := ReadTruth(Source{GroundTruth: "truth.csv"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = truth.ReadPredictions(path); err != nil {
		return nil, nil, err.Error()
	}
	return p, truth.Classes, ""
}

func compareBlocks(t *testing.T, text string, sizes ...int) {
	t.Helper()
	put := inMemory(t)
	put("truth.csv", []byte(blockTruth))
	put("marks.csv", []byte(text))
	for _, o := range []Options{{}, {Lenient: true}, {Lenient: true, Split: "test"}, {Lenient: true, Category: "cyst"}} {
		want, wantClasses, wantError := readAsBlocks(t, "marks.csv", 0, o)
		for _, bytes := range sizes {
			got, classes, gotError := readAsBlocks(t, "marks.csv", bytes, o)
			if gotError != wantError {
				t.Errorf("blocks of %d bytes: error %q, row by row %q", bytes, gotError, wantError)
			}
			if reflect.DeepEqual(got, want) && slices.Equal(classes, wantClasses) {
				continue // quicker to see
			}
			if d := cmp.Diff(want, got, cmp.AllowUnexported(Predictions{}), cmp.Comparer(func(a, b froc.Region) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("blocks of %d bytes (-row by row +blocks):\n%s", bytes, d)
			}
			if d := cmp.Diff(wantClasses, classes); d != "" {
				t.Errorf("classes:\n%s", d)
			}
		}
	}
}

func TestBlocksAreReadAsRowsAre(t *testing.T) {
	for name, rows := range blockTables {
		t.Run(name, func(t *testing.T) {
			compareBlocks(t, "image,x1,y1,x2,y2,score\n"+rows, 1, 20, 64, 1<<20)
			if !strings.Contains(rows, `"`) {
				compareBlocks(t, "image\tx1\ty1\tx2\ty2\tscore\n"+strings.ReplaceAll(rows, ",", "\t"), 64)
			}
		})
	}
	classes := strings.Repeat("a,1,2,3,4,0.5,cyst\na,1,2,3,4,0.5,bone\nä b,1,2,3,4,0.5,\n", 5)
	compareBlocks(t, "image,x1,y1,x2,y2,score,class\n"+classes, 20, 64)
	compareBlocks(t, "image,x,y,score\n\t\n ,\na,1,2,3\n,,,\n", 8, 64)
}

func FuzzBlocks(f *testing.F) {
	for _, rows := range blockTables {
		f.Add(rows, uint8(40))
	}
	f.Fuzz(func(t *testing.T, rows string, bytes uint8) {
		compareBlocks(t, "image,x1,y1,x2,y2,score\n"+rows, int(bytes)+1)
	})
}
