package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// module writes a module with one package and its tests, and makes it the working folder.
func module(t *testing.T, source, tests string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module small\n\ngo 1.26\n", "small.go": "package small\n\n" + source, "small_test.go": "package small\n\nimport \"testing\"\n\n" + tests} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
}

// lines returns what a package's places may become, without the unchanged lines.
func lines(t *testing.T, source string) []string {
	t.Helper()
	module(t, source, "")
	if err := os.Remove("small_test.go"); err != nil {
		t.Fatal(err)
	}
	p, err := load(".", ".")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, changes := range p.files[0].places() {
		for _, c := range changes {
			m := p.files[0].mutate(c)
			all = append(all, m.kind+": "+m.goes)
		}
	}
	return all
}

func TestOperators(t *testing.T) {
	for name, test := range map[string]struct {
		source string
		want   []string
	}{
		"arithmetic": {"func f(a, b float64) float64 { return a*b }", []string{
			"arithmetic: func f(a, b float64) float64 { return a/b }", "arithmetic: func f(a, b float64) float64 { return a+b }"}},
		"boundary and inversion": {"func f(a, b int) bool { return a < b }", []string{
			"boundary: func f(a, b int) bool { return a <= b }", "inversion: func f(a, b int) bool { return a >= b }"}},
		"logic":    {"func f(a, b bool) bool { return a && b }", []string{"logic: func f(a, b bool) bool { return a || b }"}},
		"constant": {"const c = 2", []string{"constant: const c = (3)", "constant: const c = (1)"}},
		"negation": {"func f(a bool) (n int) {\n if a {\n panic(a) }\nreturn n }", []string{"negation: if !(a) {", "statement removed: if false { panic(a) } }"}},
		"error":    {"func f(err error) {\nif err != nil {\n panic(err) }\n}", []string{"error unchecked: if false && err != nil {", "inversion: if err == nil {"}},
		"index":    {"func f(a []int, i int) int { return a[i] }", []string{"index: func f(a []int, i int) int { return a[i+1] }", "index: func f(a []int, i int) int { return a[i-1] }"}},
		"slice":    {"func f(a []int, i int) []int { return a[i:] }", []string{"index: func f(a []int, i int) []int { return a[i+1:] }"}},
		"swapped":  {"func g(a, b int, c string) {}\nfunc f(a, b int) { g(a, b, \"\") }", []string{"swapped arguments: func f(a, b int) { g(b, a, \"\") }"}},
		"opposite": {"func f(a, b int) int { return min(a, b) }", []string{"opposite: func f(a, b int) int { return max(a, b) }"}},
		"jump":     {"func f() {\nfor {\ncontinue\n}\n}", []string{"opposite: break", "statement removed: if false { continue }"}},
		"sign":     {"func f(a int) int { return -a }", []string{"sign: func f(a int) int { return a }"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := lines(t, test.source)
			for _, want := range test.want {
				if !slices.Contains(got, want) {
					t.Errorf("no mutant\n%s\nin\n%s", want, strings.Join(got, "\n"))
				}
			}
		})
	}
}

func TestWhatNobodyShouldTestIsLeftAlone(t *testing.T) {
	got := lines(t, "import \"strconv\"\nvar a = make([]int, 0, 8)\nvar mode = 0o644\nvar s = strconv.FormatFloat(0, 'g', -1, 64)\nvar m map[int]int\nvar v = m[len(a)]")
	for _, line := range got {
		if strings.Contains(line, "mode") || strings.Contains(line, "(9)") || strings.Contains(line, "(65)") || strings.Contains(line, "len(a)+1") {
			t.Error(line)
		}
	}
}

func TestOneSeedGivesOneDraw(t *testing.T) {
	module(t, "func f(a, b int) int { return a + b*2 - 3 }", "")
	draw := func(seed uint64) (all []string) {
		p, err := load(".", ".")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range p.draw(seed) {
			all = append(all, m.String())
		}
		return all
	}
	if first := draw(1); !slices.Equal(first, draw(1)) || slices.Equal(first, draw(2)) {
		t.Errorf("draws of seed 1, 1 and 2: %q, %q, %q", first, draw(1), draw(2))
	}
}

const halves = "func Half(n int) int { return n / 2 }\n\nfunc Twice(n int) int { return n * 2 }\n"

func TestSurvivorsAreWhatNoTestSees(t *testing.T) {
	module(t, halves, "func TestHalf(t *testing.T) {\nif Half(8) != 4 {\nt.Fatal()\n}\n}\n")
	before, err := os.ReadFile("small.go")
	if err != nil {
		t.Fatal(err)
	}
	r, err := testPackage(".", 20, 1)
	if err != nil {
		t.Fatal(err)
	}
	if r.killed == 0 || len(r.survivors) == 0 {
		t.Fatalf("%d killed, %d survive; want some of each", r.killed, len(r.survivors))
	}
	for _, m := range r.survivors {
		if !strings.HasPrefix(m.was, "func Twice") {
			t.Errorf("survived although it is tested: %v", m)
		}
	}
	if after, err := os.ReadFile("small.go"); err != nil || string(after) != string(before) {
		t.Errorf("the source was touched: %s, %v", after, err)
	}
}

func TestMutantThatNeverEndsIsKilled(t *testing.T) {
	module(t, "func f() (n int) { for n < 3 { n++ }; return n }", "func TestF(t *testing.T) { f() }")
	p, err := load(".", ".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, m := range p.draw(1) {
		if m.kind != "arithmetic" {
			continue // n++ to n--
		}
		overlay, err := m.overlay(dir, p.Module.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if killed, output, err := p.runTests(overlay, time.Second); err != nil || !killed || !strings.Contains(string(output), "timed out") {
			t.Errorf("killed %v, %v:\n%s", killed, err, output)
		}
		return
	}
	t.Fatal("no arithmetic mutant drawn")
}

func TestMutantEqualToTheOriginalIsDrawnAgain(t *testing.T) {
	module(t, "func f() {\nconst unused = 1\n}", "func TestF(t *testing.T) { f() }")
	if r, err := testPackage(".", 1, 1); err != nil || r.equal != 1 || len(r.survivors) > 0 {
		t.Errorf("%+v, %v; want one equal mutant and no survivor", r, err)
	}
}

func TestFailingTestsAreToldBeforeAnyMutant(t *testing.T) {
	module(t, halves, "func TestNothing(t *testing.T) { t.Fatal(\"as it is\") }")
	if _, err := testPackage(".", 1, 1); err == nil || !strings.Contains(err.Error(), "as it is") {
		t.Errorf("%v; want the failing test's output", err)
	}
}

func TestGoalIsInProportion(t *testing.T) {
	survivors := func(n int) []mutant { return make([]mutant, n) }
	for _, test := range []struct {
		r    result
		want bool
	}{
		{result{killed: 17, survivors: survivors(3)}, true},
		{result{killed: 16, survivors: survivors(4)}, false},
		{result{killed: 9, survivors: survivors(1)}, true},
		{result{killed: 8, survivors: survivors(2)}, false},
	} {
		if got := test.r.reaches(17); got != test.want {
			t.Errorf("%d killed, %d survive: reaches 17 of 20 is %v", test.r.killed, len(test.r.survivors), got)
		}
	}
}
