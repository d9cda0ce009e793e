package box

import (
	"strings"
	"testing"
)

func TestOneBoxInEveryColumnsThereAre(t *testing.T) {
	for _, c := range []struct {
		columns string
		v       []float64
	}{
		{"x1,y1,x2,y2", []float64{2, 3, 8, 7}},
		{"XMin,YMin,XMax,YMax", []float64{2, 3, 8, 7}},
		{"x,y,w,h", []float64{2, 3, 6, 4}},
		{"cx,cy,width,height", []float64{5, 5, 6, 4}},
		{"x1,y1,z1,x2,y2,z2", []float64{2, 3, 1, 8, 7, 9}},
		{"CX,CY,CZ,W,H,D", []float64{5, 5, 5, 6, 4, 8}},
		{"coordX,coordY,coordZ,diameter_mm", []float64{5, 5, 5, 4}},
	} {
		dims := 2
		if len(c.v) == 6 || strings.Contains(c.columns, "coordZ") {
			dims = 3
		}
		found, err := FindColumns(append([]string{"image", "class"}, strings.Split(c.columns, ",")...), dims)
		if err != nil || strings.Join(found.Names, ",") != c.columns {
			t.Fatalf("%s: %+v, %v", c.columns, found, err)
		}
		low, top := found.Corners(c.v)
		want := [2][3]float64{{2, 3, 0}, {8, 7, 0}}
		if dims == 3 {
			want = [2][3]float64{{2, 3, 1}, {8, 7, 9}}
		}
		if len(c.v) == 4 && dims == 3 {
			want = [2][3]float64{{3, 3, 3}, {7, 7, 7}}
		}
		if want != [2][3]float64{low, top} {
			t.Errorf("%s: %v to %v, want %v", c.columns, low, top, want)
		}
	}
	if _, err := FindColumns([]string{"image", "x1", "y1", "x2"}, 2); err == nil || !strings.Contains(err.Error(), `want x1,y1,x2,y2 or`) || !strings.Contains(err.Error(), `there are ["image" "x1" "y1" "x2"]`) {
		t.Error(err)
	}
}
