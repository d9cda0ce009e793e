package frocio

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/eval/froc"
)

// classNames are the columns that say of which class a lesion or a mark is.
var classNames = []string{"class", "category", "classname", "categoryname", "classid", "categoryid", "label", "labelname", "findinglabel", "finding",
	"lesiontype", "predclass"}

// classes numbers the classes of a ground truth as they come. Those of COCO files have an
// id besides their name.
type classes struct {
	byName, byID map[string]int32
	only         int32 // the class that Options.Category chose; froc.AnyClass: all
}

// className is a class without blanks around it; a number with .0 behind it, as pandas writes
// columns with empty cells, is that number.
func className(name string) string {
	name = strings.TrimSpace(name)
	if whole := strings.TrimSuffix(name, ".0"); whole != name && whole != "" && strings.Trim(whole, "0123456789") == "" {
		return whole
	}
	return name
}

// class returns the index of a class, which is new where it was never seen; "" is any.
func (t *Truth) class(name string) int32 {
	if name = className(name); name == "" {
		return froc.AnyClass
	}
	k, known := t.classes.byName[name]
	if !known {
		if t.classes.byName == nil {
			t.classes.byName = map[string]int32{}
		}
		k = int32(len(t.Classes))
		t.classes.byName[name] = k
		t.Classes = append(t.Classes, name)
	}
	return k
}

// classID is class for the id of a COCO category; one that the categories do not list is
// called by its id.
func (t *Truth) classID(id string) int32 {
	if k, known := t.classes.byID[id]; known || id == "" {
		if !known {
			return froc.AnyClass
		}
		return k
	}
	return t.class(id)
}

// markClass is class for a mark, which may call a class by its number where the ground truth
// has numbers besides names.
func (t *Truth) markClass(name string) int32 {
	if k, known := t.knownClass(name); known {
		return k
	}
	return t.class(name)
}

// knownClass is markClass of a class that was seen before.
func (t *Truth) knownClass(name string) (k int32, known bool) {
	if name = className(name); name == "" {
		return froc.AnyClass, true
	}
	if k, known = t.classes.byName[name]; !known {
		k, known = t.classes.byID[name]
		known = known && k != twoClasses
	}
	return k, known
}

// twoClasses is what classes.byID has for a number that several classes share.
const twoClasses = froc.AnyClass - 1

// classNumber notes the number of a class. A number of two classes is none's.
func (t *Truth) classNumber(number string, class int32) {
	if number = strings.TrimSpace(number); number == "" || class == froc.AnyClass {
		return
	}
	if t.classes.byID == nil {
		t.classes.byID = map[string]int32{}
	}
	if first, known := t.classes.byID[number]; known && first != class {
		class = twoClasses
	}
	t.classes.byID[number] = class
}

// sortClasses numbers the classes by name, so that the order of rows cannot matter.
func (t *Truth) sortClasses() {
	sorted := slices.Sorted(slices.Values(t.Classes))
	place := make([]int32, len(sorted))
	for old, name := range t.Classes {
		k, _ := slices.BinarySearch(sorted, name)
		place[old] = int32(k)
	}
	move := func(class int32) int32 {
		if class < 0 {
			return class
		}
		return place[class]
	}
	if len(sorted) > 0 {
		for i := range t.Lesions {
			t.Lesions[i].Class = move(t.Lesions[i].Class)
		}
		for _, index := range []map[string]int32{t.classes.byName, t.classes.byID} {
			for key, class := range index {
				index[key] = move(class)
			}
		}
		t.classes.only = move(t.classes.only)
	}
	t.Classes = sorted
}

// chooseCategory keeps the lesions of Options.Category alone.
func (t *Truth) chooseCategory(path string) error {
	t.classes.only = froc.AnyClass
	want := t.options.Category
	if want == "" {
		if len(t.Classes) > 1 {
			t.Notes = append(t.Notes, fmt.Sprintf("%s: %d classes: %s; a mark finds lesions of its own class (--classes any takes all as one)",
				path, len(t.Classes), someOf(slices.Sorted(slices.Values(t.Classes)))))
		}
		return nil
	}
	if len(t.Classes) == 0 {
		return fmt.Errorf("%s: no class to choose %q by; want a column %s", path, want, strings.Join(classNames, ", "))
	}
	k, known := t.classes.byName[className(want)]
	if !known {
		if k, known = t.classes.byID[want]; !known || k < 0 {
			return fmt.Errorf("%s: no category %q; there are %s", path, want, someOf(slices.Sorted(slices.Values(t.Classes))))
		}
	}
	t.classes.only = k
	t.Lesions = slices.DeleteFunc(t.Lesions, func(l froc.Lesion) bool { return l.Class != k && l.Class != froc.AnyClass })
	return nil
}

// keeps reports whether marks of a class are evaluated.
func (t *Truth) keeps(class int32) bool {
	return t.classes.only == froc.AnyClass || class == t.classes.only || class == froc.AnyClass
}

// noteClasses says what is strange about the classes of marks that were read.
func (t *Truth) noteClasses(path string, p *Predictions) {
	if len(t.Classes) == 0 || len(p.Marks) == 0 || len(t.Lesions) == 0 {
		return
	}
	ofLesion, ofMark := make([]bool, len(t.Classes)), make([]bool, len(t.Classes))
	for i := range t.Lesions {
		if c := t.Lesions[i].Class; c != froc.AnyClass {
			ofLesion[c] = true
		}
	}
	unknown, shared := 0, false
	for i := range p.Marks {
		if c := p.Marks[i].Class; c == froc.AnyClass {
			unknown++
		} else {
			ofMark[c] = true
			shared = shared || ofLesion[c]
		}
	}
	names := func(there []bool) string {
		var out []string
		for k, yes := range there {
			if yes {
				out = append(out, t.Classes[k])
			}
		}
		return someOf(out)
	}
	switch {
	case unknown == len(p.Marks) && slices.Equal(t.Classes, []string{"0", "1"}):
		p.warn("%s: marks have no class, and lesions are of the classes 0 and 1: where 0 means that a row is no lesion, --category 1 leaves it out", path)
	case unknown == len(p.Marks) && len(t.Classes) > 1:
		p.note("%s: marks have no class: each may find lesions of every class", path)
	case shared:
		t.warnClassNames(path, p, ofLesion, ofMark)
	case unknown == 0:
		p.warn("%s: no mark is of a class that a lesion has: marks are of %s, lesions of %s; --classes any takes all as one",
			path, names(ofMark), names(ofLesion))
	}
}

// someOf lists at most ten names.
func someOf(names []string) string {
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// warnClassNames warns of classes of marks that are likely those of lesions by another spelling.
func (t *Truth) warnClassNames(path string, p *Predictions, ofLesion, ofMark []bool) {
	alike := func(name string) string { return strings.TrimSuffix(plain(name), "s") }
	of := map[string]string{}
	for k, yes := range ofLesion {
		if yes {
			of[alike(t.Classes[k])] = t.Classes[k]
		}
	}
	for k, yes := range ofMark {
		if name := t.Classes[k]; yes && !ofLesion[k] && alike(name) != "" && of[alike(name)] != "" {
			p.warn("%s: marks are of the class %q, lesions of %q: they are taken as two classes, and such marks find none of those lesions", path, clip(name), clip(of[alike(name)]))
		}
	}
}
