package dataset

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func idsOf(d *Dataset) string {
	var ids []string
	for i := range d.Cases {
		ids = append(ids, d.Cases[i].ID)
	}
	return strings.Join(ids, " ")
}

// TestFlaggedCasesAreLeftOut: by their ids, by the hashes of a report page and by the volumes
// of slices; what stays keeps its boxes, and the hash of the data says that they are others.
func TestFlaggedCasesAreLeftOut(t *testing.T) {
	dir := boxesDir(t)
	whole := mustOpen(t, "boxes:"+dir, Options{})
	first := whole.Cases[0].ID
	for _, id := range []string{first, Pseudonym(first)} {
		flags := filepath.Join(t.TempDir(), "my flags.csv")
		write(t, flags, "id,flag,remark\n"+id+",Exclude,\"moved, twice\"\n"+whole.Cases[1].ID+",agree,\n"+whole.Cases[1].ID+",,seen\n")
		d := mustOpen(t, "boxes:"+dir+"?exclude="+strings.ReplaceAll(flags, " ", "%20"), Options{})
		if len(d.Cases) != len(whole.Cases)-1 || slices.Contains(strings.Fields(idsOf(d)), first) || d.Hash == whole.Hash {
			t.Fatalf("%s of %s", idsOf(d), idsOf(whole))
		}
		for i := range d.Cases {
			if len(d.Cases[i].Boxes) != len(whole.Cases[i+1].Boxes) || d.Cases[i].Size != whole.Cases[i+1].Size {
				t.Errorf("case %s: %v, want %v", d.Cases[i].ID, d.Cases[i].Boxes, whole.Cases[i+1].Boxes)
			}
		}
		if !slices.ContainsFunc(d.Warnings, func(w string) bool {
			return strings.Contains(w, `1 cases are left out, as my flags.csv says; its 2 rows of other flags than "exclude" are not`)
		}) {
			t.Errorf("%q", d.Warnings)
		}
	}
}

func TestAFlaggedVolumeIsLeftOutWithItsSlices(t *testing.T) {
	dir := volumesDir(t)
	whole := mustOpen(t, "volumes:"+dir+"?coordinates=lps", Options{})
	stack := whole.Cases[0].Stack
	flags := filepath.Join(dir, "flags.csv")
	write(t, flags, "id\n"+stack+"\n")
	d := mustOpen(t, "volumes:"+dir+"?coordinates=lps&exclude="+flags, Options{})
	for i := range d.Cases {
		if d.Cases[i].Stack == stack {
			t.Errorf("%s is a slice of %s", d.Cases[i].ID, stack)
		}
	}
	if len(d.Cases) == 0 || len(d.Cases) >= len(whole.Cases) {
		t.Errorf("%s of %s", idsOf(d), idsOf(whole))
	}
}

func TestFlagsThatNobodyUnderstandsAreRefused(t *testing.T) {
	dir := boxesDir(t)
	id := mustOpen(t, "boxes:"+dir, Options{}).Cases[0].ID
	for content, want := range map[string]string{
		"id,flag\n" + id + "x,exclude\n":   "flags.csv:2: id: no case",
		"id,flag\n" + id + ",excluded\n":   `flag: "excluded" is no flag; did you mean "exclude"?`,
		"case,flag\n" + id + ",exclude\n":  `column "id"`,
		"id,flag\n" + id + ",exclude,oh\n": "flags.csv:2",
	} {
		flags := filepath.Join(t.TempDir(), "flags.csv")
		write(t, flags, content)
		if _, err := Open("boxes:"+dir+"?exclude="+flags, Options{}); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrData) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
	for query, want := range map[string]string{"exclude=": "exclude is empty", "exclude=none.csv": "none.csv"} {
		if _, err := Open("boxes:"+dir+"?"+query, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}

// A run that names its data must find the flags from any folder.
func TestTheTableOfFlagsIsFoundFromAnyFolder(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got, err := AbsoluteSpec("boxes:d?nan=missing&exclude=a%20b/f.csv&bits=12")
	want := "boxes:" + filepath.Join(here, "d") + "?nan=missing&exclude=" + strings.ReplaceAll(filepath.Join(here, "a b", "f.csv"), " ", "+") + "&bits=12"
	if err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}
