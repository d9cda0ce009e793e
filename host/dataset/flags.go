package dataset

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/internal/nearest"
	"github.com/alignedfusion/alignedfusion/internal/problem"
)

// Flags are what the report page lets people say of a case, besides nothing.
var Flags = []string{"look again", "reference wrong", "report wrong", "image bad", excludeFlag, "agree"}

// excludeFlag is that of cases that are to be left out.
const excludeFlag = "exclude"

var pathOption = regexp.MustCompile(`[?&](?:also|exclude)=([^&]*)`)

// absoluteOptions makes the paths of the spec options also and exclude independent of the working
// directory.
func absoluteOptions(options string) (string, error) {
	out, from := "", 0
	for _, found := range pathOption.FindAllStringSubmatchIndex(options, -1) {
		text, err := url.QueryUnescape(options[found[2]:found[3]])
		if err != nil || text == "" {
			continue // which opening the data refuses
		}
		paths := strings.Split(text, ",")
		if options[found[0]+1] == 'e' {
			paths = []string{text} // exclude takes one
		}
		for k := range paths {
			if paths[k], err = filepath.Abs(strings.TrimSpace(paths[k])); err != nil {
				return "", err
			}
		}
		out += options[from:found[2]] + strings.NewReplacer("%2F", "/", "%2C", ",").Replace(url.QueryEscape(strings.Join(paths, ",")))
		from = found[3]
	}
	return out + options[from:], nil
}

// leaveOut removes the cases that the table of the spec option exclude flags: by their ids,
// by the volume they are slices of, or by their pseudonyms on a report page. A row that names
// no case is a problem.
func (o *opener) leaveOut() error {
	if o.exclude == "" {
		return nil
	}
	t, err := o.table(o.exclude)
	if err != nil {
		return err
	}
	if err := t.Need("id"); err != nil {
		return err
	}
	out := make([]bool, len(o.d.Cases))
	others := 0
	var ids []string // for messages
	for _, r := range t.Rows {
		if flag := strings.ToLower(t.Get(r, "flag")); t.Has("flag") && flag != excludeFlag {
			if flag != "" && !slices.Contains(Flags, flag) {
				o.problems.Add(o.exclude, r.Line, "flag", "%q is no flag%s; there are %s", problem.Clip(flag, 60), nearest.Meant(flag, Flags), problem.Quote(Flags))
			}
			others++
			continue
		}
		id := t.Get(r, "id")
		if !o.mark(out, id) {
			if ids == nil {
				ids = o.ids()
			}
			o.problems.Add(o.exclude, r.Line, "id", "no case %s%s", problem.Clip(id, 60), nearest.Meant(id, ids))
		}
	}
	n := o.keep(out)
	if others > 0 {
		o.warn("%d cases are left out, as %s says; its %d rows of other flags than %q are not", n, filepath.Base(o.exclude), others, excludeFlag)
	} else {
		o.warn("%d cases are left out, as %s says", n, filepath.Base(o.exclude))
	}
	return nil
}

func (o *opener) ids() []string {
	ids := make([]string, len(o.d.Cases))
	for i := range ids {
		ids[i] = o.d.Cases[i].ID
	}
	return ids
}

// mark marks the cases that an id means, and reports whether there are any.
func (o *opener) mark(out []bool, id string) bool {
	if o.called == nil {
		o.called = map[string][]int{}
		for i := range o.d.Cases {
			c := &o.d.Cases[i]
			names := []string{c.ID, Pseudonym(c.ID)}
			if c.Stack != "" && c.Stack != c.ID {
				names = append(names, c.Stack, Pseudonym(c.Stack))
			}
			for _, name := range names {
				o.called[name] = append(o.called[name], i)
			}
		}
	}
	for _, i := range o.called[id] {
		out[i] = true
	}
	return len(o.called[id]) > 0
}

// keep drops the cases that are marked, with what is still to be checked of them, and
// returns their number.
func (o *opener) keep(out []bool) int {
	index, kept := make([]int, len(out)), o.d.Cases[:0]
	for i, c := range o.d.Cases {
		if index[i] = len(kept); !out[i] {
			kept = append(kept, c)
		}
	}
	o.d.Cases = kept
	o.pending = slices.DeleteFunc(o.pending, func(p pendingBox) bool { return out[p.caseIndex] })
	for k := range o.pending {
		o.pending[k].caseIndex = index[o.pending[k].caseIndex]
	}
	o.expects = slices.DeleteFunc(o.expects, func(e expectedImage) bool { return out[e.caseIndex] })
	for k := range o.expects {
		o.expects[k].caseIndex = index[o.expects[k].caseIndex]
	}
	return len(out) - len(kept)
}
