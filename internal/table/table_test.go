package table

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/internal/problem"
)

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, problem.ErrData) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want ErrData with %q", err, want)
	}
}

func TestTolerantReading(t *testing.T) {
	type row struct {
		Line  int
		Cells []string
	}
	want := []row{{2, []string{"1", "a b"}}, {4, []string{"2", "x\ny"}}}
	for name, text := range map[string]string{
		"plain":           "id,label\n1,a b\n\n2,\"x\ny\"\n",
		"byte order mark": "\xef\xbb\xbfid,label\n1,a b\n\n2,\"x\ny\"\n",
		"CRLF":            "id,label\r\n1,a b\r\n\r\n2,\"x\r\ny\"\r\n",
		"spaces":          " id , label\n 1, a b \n  \n2, \"x\ny\"\n",
		"no last newline": "id,label\n1,a b\n\n2,\"x\ny\"",
	} {
		got, err := Parse("t.csv", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var rows []row
		for _, r := range got.Rows {
			rows = append(rows, row{r.Line, got.Cells(r)})
		}
		if d := cmp.Diff(want, rows); d != "" || !cmp.Equal(got.Columns, []string{"id", "label"}) || string(got.Content) != text {
			t.Errorf("%s: columns %q, rows (-want +got):\n%s", name, got.Columns, d)
		}
	}
}

func TestWhatIsNoTableIsNamed(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "t.csv: the table is empty",
		"\xef\xbb\xbf\n":                      "t.csv: the table is empty",
		"\xff\xfei\x00d\x00":                  "t.csv:1: the text is UTF-16",
		"\xfe\xff\x00i":                       "t.csv:1: the text is UTF-16",
		"id,label\n1,a\x00b\n":                "t.csv:2: a zero byte",
		"id,label\n\n1,\xff\xfe\n":            "t.csv:3: cell 2 is not valid UTF-8",
		"id,label\n1,\"a\n2,b\n":              "t.csv:2: a quote opened here is not closed properly (up to line 3)",
		"id,label\n1,a\"b\n":                  "t.csv:2: bare \" in non-quoted",
		"id,label\n1\n2,a\n1,2,3\n":           "t.csv:2: 1 cells, the header has 2\n  t.csv:4: 3 cells",
		"id\tlabel\n1\ta\n":                   `t.csv:1: the columns are separated by "\t", want commas`,
		"id;label\n1;a\n":                     `separated by ";"`,
		"id,,x\n":                             "t.csv:1: column 2 has no name",
		"id,x, id\n":                          "t.csv:1: id: the column stands twice, at 1 and 3",
		"id\n" + strings.Repeat("x", 1<<20+1): "t.csv:2: cell 1 has 1048577 bytes, at most 1048576 are read",
	} {
		_, err := Parse("t.csv", []byte(text))
		wantError(t, err, want)
	}
	if _, err := Parse("t.csv", []byte("id\n"+strings.Repeat("x", 1<<20)+"\n")); err != nil {
		t.Errorf("a cell of the greatest size is refused: %v", err)
	}
}

func TestRowsOfAnotherWidthAreLeftOut(t *testing.T) {
	got, err := Parse("t.csv", []byte("a,b\n1\n2,3\n"))
	wantError(t, err, "t.csv:2: 1 cells, the header has 2")
	if got == nil || len(got.Rows) != 1 || got.Rows[0].Line != 3 {
		t.Errorf("%+v, want the row of line 3", got)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	_, err := Read(dir)
	wantError(t, err, "is a folder, want a CSV file")
	_, err = Read(filepath.Join(dir, "absent.csv"))
	wantError(t, err, "absent.csv: no such file")
	large := filepath.Join(dir, "large.csv")
	if err := os.WriteFile(large, []byte("a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxBytes+1); err != nil {
		t.Fatal(err)
	}
	_, err = Read(large)
	wantError(t, err, "more than a table may have")
}

func TestAbsentColumnNamesTheNearest(t *testing.T) {
	got, err := Parse("t.csv", []byte("id,label\n1,a\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Need("id", "label"); err != nil {
		t.Error(err)
	}
	wantError(t, got.Need("id", "lable"), `t.csv:1: column "lable" is absent; did you mean "label"? there are "id", "label"`)
	wantError(t, got.Need("label", "labels"), `column "labels" is absent; there are "id", "label"`)
	wantError(t, got.Need("x1", "y1"), `column "x1", "y1" is absent; there are "id", "label"`)
	if got.Get(got.Rows[0], "label") != "a" || got.Get(got.Rows[0], "none") != "" || got.Has("none") || !got.Has("id") {
		t.Errorf("%+v", got)
	}
	if some := got.Where(func(r Row) bool { return got.Get(r, "id") == "2" }); len(some.Rows) != 0 || !some.Has("id") || len(got.Rows) != 1 {
		t.Errorf("%+v of %+v", some, got)
	}
}

func TestRowByRow(t *testing.T) {
	r, err := NewReader("t.csv", strings.NewReader("a,b\n1,2\n3\n\n4,5\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		cells []string
		line  int
		err   string
	}{{[]string{"1", "2"}, 2, ""}, {[]string{"3"}, 3, "t.csv:3: 1 cells"}, {[]string{"4", "5"}, 5, ""}} {
		cells, err := r.Next()
		if !cmp.Equal(cells, want.cells) || r.Line() != want.line {
			t.Errorf("%q of line %d, want %q of line %d", cells, r.Line(), want.cells, want.line)
		}
		if want.err == "" && err != nil {
			t.Error(err)
		} else if want.err != "" {
			wantError(t, err, want.err)
		}
	}
	if cells, err := r.Next(); !errors.Is(err, io.EOF) || cells != nil || r.Offset() != 15 {
		t.Errorf("%q, %v after the last row, at byte %d", cells, err, r.Offset())
	}
}

func TestFirstRowMayBeData(t *testing.T) {
	r, err := NewReader("t.csv", strings.NewReader("ct1\nct2\n"), Options{Headerless: func(first []string) []string {
		if first[0] == "image" {
			return nil
		}
		return []string{"image"}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ct1", "ct2"} {
		if cells, err := r.Next(); err != nil || !cmp.Equal(cells, []string{want}) {
			t.Errorf("%q, %v", cells, err)
		}
	}
}

func TestRunningTextIsKeptAsItIs(t *testing.T) {
	r, err := NewReader("t.csv", strings.NewReader("id,text\n1, A \xff mass. \n"), Options{Text: true})
	if err != nil {
		t.Fatal(err)
	}
	if cells, err := r.Next(); err != nil || cells[1] != " A \ufffd mass. " {
		t.Errorf("%q, %v", cells, err)
	}
}

func TestNumbers(t *testing.T) {
	if v, err := Numbers("1, -2.5,3e2", 3); err != nil || !cmp.Equal(v, []float64{1, -2.5, 300}) {
		t.Errorf("%v, %v", v, err)
	}
	for text, want := range map[string]string{
		"1,2":     `"1,2" has 2 numbers, want 3`,
		"1,x,3":   `"x" is not a finite number`,
		"1,NaN,3": `"NaN" is not a finite number`,
		"1,2,Inf": `"Inf" is not a finite number`,
	} {
		if _, err := Numbers(text, 3); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]bool{"nan": true, "-Inf": true, "1": false, "": false, "na": false} {
		if NotANumber(text) != want {
			t.Errorf("NotANumber(%q) is %v", text, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("id,a\n1,2\n")
	f.Add("\xef\xbb\xbfid,\"a b\"\r\n1,\"x\ny\"\r\n")
	f.Add("a;b\n1;2\n")
	f.Add("a,b\n\"1,2\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Parse("t.csv", []byte(text))
		if err != nil {
			if !errors.Is(err, problem.ErrData) {
				t.Errorf("%v does not wrap ErrData", err)
			}
			return
		}
		for _, r := range got.Rows {
			if cells := got.Cells(r); len(cells) != len(got.Columns) || r.Line < 2 {
				t.Errorf("line %d: %q under %d columns", r.Line, cells, len(got.Columns))
			}
		}
	})
}

func TestDecimalsAreThoseOfTheStandardLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const digits = "0123456789"
	for range 200_000 {
		var text []byte
		if rng.IntN(3) == 0 {
			text = append(text, "+-"[rng.IntN(2)])
		}
		for range rng.IntN(17) {
			text = append(text, digits[rng.IntN(10)])
		}
		if rng.IntN(4) > 0 {
			text = append(text, '.')
		}
		for range rng.IntN(17) {
			text = append(text, digits[rng.IntN(10)])
		}
		got, ok := Decimal(string(text))
		want, err := strconv.ParseFloat(string(text), 64)
		if ok && (err != nil || math.Float64bits(got) != math.Float64bits(want)) {
			t.Fatalf("%q is %v, want %v (%v)", text, got, want, err)
		}
	}
	for _, text := range []string{"", ".", "-", "1e3", "1_0", "0x1", "1.2.3", "1234567890123456", "nan", " 1", "1,5"} {
		if v, ok := Decimal(text); ok {
			t.Errorf("%q is read as %v", text, v)
		}
	}
	for _, text := range []string{"0", "-0", "1.", ".5", "+.25", "123456789012345", "0.00000000000001"} {
		if _, ok := Decimal(text); !ok {
			t.Errorf("%q is not read", text)
		}
	}
}

func FuzzTablesHoldWhatTheReaderReads(f *testing.F) {
	for _, text := range []string{
		"id,a\n1,2\n\n 3 ,\t4\r\n,\n , \n5\n6,7,8\n9,\"x\ny\"\n10,11", "id\n1\n \n\n2", "a,b\n1,2\n\"3\n4\",5\n6,\"7\n",
		"a,b\n1,\xff\n2,3\n", "a,b\n1,\x00\n", "a,b\n\u00a01\u00a0,\u20282\n\r\n3\r,4\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := NewReader("t.csv", strings.NewReader(text), Options{})
		if err != nil {
			return
		}
		var want, got []string
		for {
			cells, err := r.Next()
			if cells == nil && !errors.Is(err, io.EOF) {
				want = []string{err.Error()}
			}
			if cells == nil {
				break
			}
			if err == nil {
				want = append(want, fmt.Sprintf("%d %q", r.Line(), cells))
			}
		}
		table, err := Parse("t.csv", []byte(text))
		if table == nil {
			got = []string{err.Error()}
		} else {
			for _, r := range table.Rows {
				got = append(got, fmt.Sprintf("%d %q", r.Line, table.Cells(r)))
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-reader +table):\n%s", text, d)
		}
	})
}

func TestEveryTextHasOneNumber(t *testing.T) {
	var x Index
	for round, isNew := range []bool{true, false} {
		for k := range 5000 {
			if number, first := x.Add(strconv.Itoa(k * k)); number != k || first != isNew {
				t.Fatalf("round %d: text %d has number %d, new %v", round, k, number, first)
			}
		}
	}
}
