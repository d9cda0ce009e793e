package frocio

import (
	"fmt"
	"math"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// settle finds out from the rows how boxes or marks in one cell are written, where the
// column's name does not say so. What fits in two ways is refused.
func (o Options) settle(t *rowFile, l *layout) error {
	switch {
	case l.geometry == listOfMarks && l.marks == "":
		return o.settleMarks(t, l)
	case l.list && l.geometry != listOfMarks && l.perm == nil:
		return o.settleBox(t, l)
	}
	return nil
}

// cells calls use for every cell of a column, from a second reading of the table.
func cells(t *rowFile, column int, use func(numbers []float64) bool) error {
	if t.file == Stdin {
		return fmt.Errorf("%s: standard input is read once: --columns must say how %q is written", t.file, t.header[column])
	}
	again, err := openTable(t.ctx, t.file, false)
	if err != nil {
		return err
	}
	defer again.close()
	// rows that cannot be used are said by the reading that counts
	return rows(again, &problems{lenient: true}, func(row []string) error {
		if v, err := listOf(row[column]); err == nil && len(v) > 0 && !use(v) {
			return errEnough
		}
		return nil
	})
}

var errEnough = fmt.Errorf("enough was read")

func (o Options) settleBox(t *rowFile, l *layout) error {
	fits := true // as x1 y1 x2 y2
	err := cells(t, l.coords[0], func(v []float64) bool {
		fits = fits && (len(v) != 4 || v[2] >= v[0] && v[3] >= v[1])
		return fits
	})
	if err != nil && err != errEnough {
		return err
	}
	name := t.header[l.coords[0]]
	if fits {
		return fmt.Errorf("%s:1: the boxes of column %q may be x1,y1,x2,y2 or x,y,width,height; say which: --columns xyxy=%s or --columns xywh=%s",
			t.file, name, name, name)
	}
	l.order, l.perm = sizes, lists["xywh"].perm
	return nil
}

func (o Options) settleMarks(t *rowFile, l *layout) error {
	fits := map[string]bool{"score-xywh": true, "class-score-xyxy": true}
	err := cells(t, l.coords[0], func(v []float64) bool {
		for form := range fits {
			if !fitsForm(v, markLists[form].class) {
				delete(fits, form)
			}
		}
		return len(fits) > 0
	})
	if err != nil && err != errEnough {
		return err
	}
	if len(fits) != 1 {
		name := t.header[l.coords[0]]
		return fmt.Errorf("%s:1: the marks of column %q are not clearly \"score x y width height\" (RSNA) nor \"class score x1 y1 x2 y2\" (VinDr); "+
			"say which: --columns score-xywh=%s, score-xyxy=%s, class-score-xywh=%s or class-score-xyxy=%s", t.file, name, name, name, name, name)
	}
	for form := range fits {
		l.marks, l.order = form, markLists[form].order
	}
	return nil
}

// fitsForm reports whether numbers can be marks of five, or with a class of six numbers.
func fitsForm(v []float64, class bool) bool {
	n, at := 5, 0
	if class {
		n, at = 6, 1
	}
	if len(v)%n != 0 {
		return false
	}
	for i := 0; i < len(v); i += n {
		if class && v[i] != math.Trunc(v[i]) || v[i+at] < 0 || v[i+at] > 1 {
			return false
		}
	}
	return true
}

// listedMark is one mark of a cell with several.
type listedMark struct {
	class  string
	score  float64
	region froc.Region
}

// listedMarks reads a cell of marks. VinDr's class 14, a box of one pixel, says that there is none.
func (l *layout) listedMarks(text string) ([]listedMark, error) {
	v, err := listOf(text)
	n, class := 5, markLists[l.marks].class
	if class {
		n = 6
	}
	if err != nil || len(v)%n != 0 {
		return nil, fmt.Errorf("%s is %q, want %d numbers a mark (%s)", l.names[0], clip(text), n, l.marks)
	}
	var out []listedMark
	for ; len(v) > 0; v = v[n:] {
		m, box := listedMark{score: v[n-5]}, v[n-4:n]
		if class {
			if v[0] == 14 && box[0] == 0 && box[1] == 0 && box[2] == 1 && box[3] == 1 {
				continue
			}
			m.class = fmt.Sprint(v[0])
		}
		if m.region, err = boxOf(box2D, l.order, [6]float64{box[0], box[1], box[2], box[3]}); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}
