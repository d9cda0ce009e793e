package problem

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

func TestProblemsSayWhere(t *testing.T) {
	for want, p := range map[string]Problem{
		"a.csv:3: age: is empty": {"a.csv", 3, "age", "is empty"},
		"a.csv:3: is empty":      {"a.csv", 3, "", "is empty"},
		"a.png: is empty":        {"a.png", 0, "", "is empty"},
	} {
		if got := p.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAListShowsTheFirstTwenty(t *testing.T) {
	var l List
	if l.Err() != nil {
		t.Error("an empty list is an error")
	}
	for i := range 21 {
		l.Add("a.csv", i+1, "", "bad")
		if text := l.Error(); i == 0 && text != "a.csv:1: bad" || i == 19 && strings.Contains(text, "more") {
			t.Errorf("%d problems: %s", i+1, text)
		}
	}
	if text := l.Err().Error(); !strings.HasPrefix(text, "21 problems") || !strings.Contains(text, "a.csv:20: bad\n  … and 1 more") {
		t.Errorf("%s", text)
	}
}

func TestErrorsKeepTheirPlaces(t *testing.T) {
	var l List
	l.AddError("b.csv", 7, "x", errors.New("odd"))
	l.AddError("b.csv", 7, "x", fmt.Errorf("wrapped: %w", At("a.csv", 2, "y", "bad %d", 5)))
	if want := "b.csv:7: x: odd\n  a.csv:2: y: bad 5"; !errors.Is(l, ErrData) || !strings.HasSuffix(l.Error(), want) {
		t.Errorf("%v", l)
	}
}

func TestUnreadableFilesAreSaidWithoutTheirPathTwice(t *testing.T) {
	for want, err := range map[string]error{
		"f: no such file or folder":   &fs.PathError{Op: "open", Path: "f", Err: fs.ErrNotExist},
		"f: no permission to read it": &fs.PathError{Op: "open", Path: "f", Err: fs.ErrPermission},
		"f: odd":                      &fs.PathError{Op: "open", Path: "f", Err: errors.New("odd")},
		"f: plain":                    errors.New("plain"),
	} {
		if got := File("f", err).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestQuotedTextIsBounded(t *testing.T) {
	if got := Clip("abcdé", 5); got != "abcd…" {
		t.Errorf("%q: half a rune is left", got)
	}
	if got := Clip("abc", 3); got != "abc" {
		t.Errorf("%q", got)
	}
	names := make([]string, 41)
	if got := Quote(names[:40]); strings.Contains(got, "in all") {
		t.Errorf("%s", got)
	}
	if got := Quote(names); !strings.HasSuffix(got, "… (41 in all)") || strings.Count(got, `""`) != 40 {
		t.Errorf("%s", got)
	}
}
