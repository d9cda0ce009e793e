// Package nearest finds the name that somebody meant.
package nearest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Name returns the known name that given resembles most, for a message of the kind
// `did you mean "crop"?`, or the first that begins so; "" when of none at least two thirds are
// given rightly: a hint that is not near is worse than none.
func Name(given string, known []string) string { return near(given, known, max(1, (len(given)+1)/3)) }

// near is the known name with at most so many wrong letters, else the first that begins with
// three given letters or more.
func near(given string, known []string, limit int) string {
	if name := within(given, known, limit); name != "" || len(given) < 3 {
		return name
	}
	for _, name := range known {
		if strings.HasPrefix(plain(name), plain(given)) {
			return name
		}
	}
	return ""
}

// Meant is the end of a message about an unknown name: `; did you mean "crop"?`, or "" when
// no known name resembles it.
func Meant(given string, known []string) string {
	return Question(similar(given, known))
}

// similar is Name, but "" when it is the given one, and for a single letter.
func similar(given string, known []string) string {
	if name := near(given, known, (len(given)+1)/3); name != given {
		return name
	}
	return ""
}

// Question is the end of a message: `; did you mean "crop"?`, "" for no name.
func Question(name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean " + strconv.Quote(name) + "?"
}

// File is the end of a message about a path that is not there: `; did you mean "data/a.csv"?`,
// or "" when nothing in its folder resembles it. Of folders that are not there the outermost
// counts.
func File(path string) string {
	for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(path) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		path = dir
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	name := similar(filepath.Base(path), names)
	if name == "" {
		return ""
	}
	return Question(filepath.Join(filepath.Dir(path), name))
}

// Typo returns the known name that given is a slip of: one letter wrong, missing, doubled
// or swapped with its neighbour, two in names of eight letters and more, or another case
// or separator. It is "" when given is itself known, or a name of its own.
func Typo(given string, known []string) string {
	for _, k := range known {
		if k == given {
			return ""
		}
	}
	limit := 1
	if len(given) >= 8 {
		limit = 2
	}
	return within(given, known, limit)
}

var separators = strings.NewReplacer("_", ".", "-", ".", "/", ".")

func plain(name string) string { return separators.Replace(strings.ToLower(name)) }

func within(given string, known []string, limit int) string {
	best := ""
	for _, k := range known {
		if d := distance(plain(given), plain(k)); d <= limit {
			best, limit = k, d-1
		}
	}
	return best
}

// distance counts the letters that are wrong, missing, too many or swapped with their
// neighbour.
func distance(a, b string) int {
	var before, last []int // the rows of the table for a[:i-1] and a[:i]
	for j := range len(b) + 1 {
		last = append(last, j)
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
