package importer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/report"
)

// TestReportsLandInTheLayout: a report is found by any name that its scan or picture has, and
// stands in the data set under the id there, word for word.
func TestReportsLandInTheLayout(t *testing.T) {
	const text = "FINDINGS: a \"mass\", 12 mm.\n\n  Liver: normal."
	quoted := `"` + strings.ReplaceAll(text, `"`, `""`) + `"`
	scans := filepath.Join("testdata", "dicom", "explicit")
	pictures := folderOf(t, map[string]string{"train/images/a.png": "", "train/images/b.png": "", "train/labels/a.txt": "1 0.25 0.5 0.25 0.5\n"})
	for name, c := range map[string]struct {
		source, id string
		files      map[string]string
	}{
		"by id":       {scans, "explicit", map[string]string{"r.csv": "id,findings,diagnosis\nexplicit," + quoted + ",secret\nother,x,y\n"}},
		"semicolons":  {scans, "explicit", map[string]string{"r.csv": "Volume;report\nexplicit;" + quoted + "\n"}},
		"a folder":    {scans, "explicit", map[string]string{"explicit.txt": text}},
		"pictures":    {pictures, "train/images/a.png", map[string]string{"r.csv": "image,impression\na," + quoted + "\n"}},
		"with ending": {pictures, "train/images/a.png", map[string]string{"r.csv": "image,text\na.png," + quoted + "\n"}},
	} {
		dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
		path := dir
		for file, content := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if file == "r.csv" {
				path = filepath.Join(dir, file)
			}
		}
		for range 2 { // again: the same
			s, err := importOf(t, Options{Source: c.source, Out: out, Reports: path})
			if err != nil || s.Reports != 1 {
				t.Fatalf("%s: %+v, %v", name, s, err)
			}
		}
		got, err := report.Read(report.Source{Path: filepath.Join(out, "reports.csv")})
		if err != nil || len(got) != 1 || got[0].ID != c.id {
			t.Fatalf("%s: %+v, %v, want %s", name, got, err, c.id)
		}
		if d := cmp.Diff(text, got[0].Sections[0].Text); d != "" || len(got[0].Sections) != 1 {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestReportsOfNothingHereAreRefused(t *testing.T) {
	for content, want := range map[string]string{
		"id,report\nexplicid,a mass\n":        `none of its 1 reports is of a scan or picture here: the first is of "explicid"; did you mean "explicit"?`,
		"id,report\nexplicit,a\nexplicit,b\n": "rows 2 and 3 have the same id",
		"id,age\nexplicit,3\n":                "none of the columns",
		"name,report\nexplicit,a mass\n":      "none of the columns",
		"id,report\n":                         "holds no report",
	} {
		path, out := filepath.Join(t.TempDir(), "r.csv"), filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := importOf(t, Options{Source: filepath.Join("testdata", "dicom", "explicit"), Out: out, Reports: path})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q: something was written", content)
		}
	}
}
