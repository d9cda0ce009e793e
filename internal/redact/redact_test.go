package redact

import "testing"

func TestFoldersLeaveTheNameOfAFile(t *testing.T) {
	for text, want := range map[string]string{
		"/srv/jane/scans/data.csv:3: bad":      "…/data.csv:3: bad",
		`see C:\data\scans\a.png`:              "see …/a.png",
		"table:../ct/t.csv, 3/4 of all, a/b/c": "table:…/t.csv, 3/4 of all, a/b/c",
		"nothing here":                         "nothing here",
	} {
		if got := Folders(text); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestTextInQuotesIsReplaced(t *testing.T) {
	got := Quoted(`patient "Jane" is in "train" and "val"`, func(s string) string {
		if s == "train" {
			return s
		}
		return "…"
	})
	if want := `patient "…" is in "train" and "…"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
