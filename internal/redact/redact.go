// Package redact takes from messages what may tell who a case is of, or where files lie.
package redact

import "regexp"

var (
	quoted  = regexp.MustCompile(`"[^"\n]+"`)
	folders = regexp.MustCompile(`(^|[\s:=("'])(?:[A-Za-z]:)?(?:\.{0,2}[/\\][^\s/\\,;"'()?]+)+[/\\]`)
)

// Quoted replaces every text in quotes, which ids of cases and patients stand in, by what with
// makes of it.
func Quoted(text string, with func(string) string) string {
	return quoted.ReplaceAllStringFunc(text, func(q string) string { return `"` + with(q[1:len(q)-1]) + `"` })
}

// Folders leaves of every path its last part: …/data.csv.
func Folders(text string) string { return folders.ReplaceAllString(text, "$1…/") }
