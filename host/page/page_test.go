package page

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/eval/froc/frocreport"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// example is a synthetic set with the marks of two systems: the first finds every lesion but
// each third one, with a false positive in each second image, the second finds one more.
type example struct {
	options Options
	data    *dataset.Dataset
	missed  []string // ids of the images whose lesion no mark of the first system touches
}

func newExample(t *testing.T) example {
	t.Helper()
	e, err := theExample()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// folder is removed when all tests have run.
var folder string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if folder, err = os.MkdirTemp("", "page-test-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		defer func() {
			for _, end := range running.end {
				end()
			}
		}()
		return m.Run()
	}())
}

// theExample is made once, and its page too: what a test changes of it is a copy.
var theExample = sync.OnceValues(func() (example, error) {
	dir := folder
	spec := "deeplesion:" + filepath.Join(dir, "data")
	if _, err := synth.DeepLesion(context.Background(), filepath.Join(dir, "data"), synth.DeepLesionOptions{Patients: 12, Size: 96, Seed: 5}); err != nil {
		return example{}, err
	}
	d, err := dataset.Open(spec, dataset.Options{})
	if err != nil {
		return example{}, err
	}
	e := example{data: d}
	truth, images := [][]string{{"image", "x1", "y1", "x2", "y2"}}, [][]string{{"image", "patient"}}
	marks := [2][][]string{{{"image", "x1", "y1", "x2", "y2", "score"}}, {{"image", "x1", "y1", "x2", "y2", "score"}}}
	n := 0
	for i := range d.Cases {
		c := &d.Cases[i]
		images = append(images, []string{c.ID, c.Patient})
		for _, b := range c.Boxes {
			at := []string{c.ID, fmt.Sprint(b.X1), fmt.Sprint(b.Y1), fmt.Sprint(b.X2), fmt.Sprint(b.Y2)}
			truth = append(truth, at)
			score := fmt.Sprintf("%.3f", 0.9-0.01*float64(n))
			if n%3 != 0 {
				marks[0] = append(marks[0], append(at[:5:5], score))
			} else {
				e.missed = append(e.missed, c.ID)
			}
			if n%3 != 0 || n == 0 {
				marks[1] = append(marks[1], append(at[:5:5], score))
			}
			n++
		}
		if i%2 == 0 {
			for s := range marks {
				marks[s] = append(marks[s], []string{c.ID, "1", "1", "6", "6", fmt.Sprintf("%.3f", 0.95-0.03*float64(i))})
			}
		}
	}
	file := func(name string, rows [][]string) string {
		path := filepath.Join(dir, name)
		f, failed := os.Create(path)
		if failed == nil {
			failed = csv.NewWriter(f).WriteAll(rows)
			f.Close()
		}
		err = errors.Join(err, failed)
		return path
	}
	e.options = Options{Data: spec, IDs: true, Version: "test", Compare: workflow.CompareOptions{
		Systems: []workflow.System{{Name: "first", Path: file("a.csv", marks[0])}, {Name: "second", Path: file("b.csv", marks[1])}},
		FROC:    frocreport.Options{Truth: frocio.Source{GroundTruth: file("truth.csv", truth), Images: file("images.csv", images)}},
	}}
	e.options.Compare.Resample.Replicates = 100
	return e, err
})

var thePage = sync.OnceValues(func() (g *Gathered, err error) {
	e, err := theExample()
	if err == nil {
		g, err = Gather(context.Background(), e.options)
	}
	if err == nil {
		var file []byte
		file, err = g.HTML(context.Background(), 50)
		theFile = string(file)
	}
	return g, err
})

var theFile string

// examplePage is what was gathered of the example as it is, and its page.
func examplePage(t *testing.T) (*Gathered, string) {
	t.Helper()
	g, err := thePage()
	if err != nil {
		t.Fatal(err)
	}
	return g, theFile
}

func (e example) gather(t *testing.T) *Gathered {
	t.Helper()
	g, err := Gather(t.Context(), e.options)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func fileOf(t *testing.T, g *Gathered, maxMiB float64) string {
	t.Helper()
	file, err := g.HTML(t.Context(), maxMiB)
	if err != nil {
		t.Fatal(err)
	}
	return string(file)
}

// running is the browser of all tests; TestMain ends it.
var running struct {
	sync.Mutex
	context.Context
	end []context.CancelFunc
}

func chromium(path string) (context.Context, error) {
	running.Lock()
	defer running.Unlock()
	if running.Context != nil {
		return running.Context, nil
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.WindowSize(1500, 950), chromedp.WSURLReadTimeout(time.Minute))...)
	ctx, cancelContext := chromedp.NewContext(ctx)
	running.end = []context.CancelFunc{cancelContext, cancel}
	if err := chromedp.Run(ctx); err != nil {
		return nil, err
	}
	running.Context = ctx
	return ctx, nil
}

// browser runs actions on a page in a headless Chromium, and fails on a request that is not
// the page itself, on an error in its console and on an exception.
func browser(t testing.TB, address string, actions ...chromedp.Action) {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium on this machine: apt-get install chromium")
	}
	ctx, err := chromium(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(ctx, chromedp.WithNewBrowserContext()) // nothing that was stored before
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	var mu sync.Mutex
	var bad []string
	complain := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		bad = append(bad, fmt.Sprintf(format, args...))
	}
	own := address[:strings.LastIndex(address, "/")+1]
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if u := e.Request.URL; u != address && !strings.HasPrefix(u, "data:") && !strings.HasPrefix(u, "blob:") &&
				!(strings.HasPrefix(address, "http") && strings.HasPrefix(u, own)) {
				complain("request: %s", u)
			}
		case *runtime.EventExceptionThrown:
			complain("exception: %s", e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning {
				complain("console: %s", e.Args[0].Value)
			}
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError && !strings.Contains(e.Entry.URL, "favicon") {
				complain("log: %s %s", e.Entry.Text, e.Entry.URL)
			}
		}
	})
	if err := chromedp.Run(ctx, append([]chromedp.Action{network.Enable(), log.Enable(), chromedp.Navigate(address)}, actions...)...); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, b := range bad {
		t.Error(b)
	}
}

// opened writes the example's page and returns its address.
func opened(t *testing.T, file string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

func textOf(selector string, into *string) chromedp.Action {
	return chromedp.Evaluate(`document.querySelector("`+selector+`").textContent`, into)
}

func evaluate(script string, into any) chromedp.Action { return chromedp.Evaluate(script, into) }

// No action is needed: entry, picture and attributes are on the first screen.
func TestTheWorstMissedLesionStandsFirstWithItsAttributes(t *testing.T) {
	e := newExample(t)
	e.options.Compare.Systems = e.options.Compare.Systems[:1]
	var first, side, kind string
	var picture bool
	var below []string
	browser(t, opened(t, fileOf(t, e.gather(t), 50)),

		textOf("#items li .what", &first),
		evaluate(`document.querySelector("#items li").className`, &kind),
		textOf("#side", &side),
		chromedp.Poll(`reportPage.state().picture`, &picture),
		evaluate(`["#items li", "#picture", "#attributes tbody tr"].filter(s => { const r = document.querySelector(s).getBoundingClientRect(); return r.top < 0 || r.bottom > innerHeight; })`, &below),
	)
	if len(below) > 0 {
		t.Errorf("%v are not on the first screen", below)
	}
	if kind != "missed" || first == "" || !strings.Contains(strings.Join(e.missed, " "), first) {
		t.Errorf("the first entry is %q, a %q; want one of %v", first, kind, e.missed)
	}
	if !strings.Contains(side, "Attributes of the report") || !strings.Contains(side, "gender") {
		t.Errorf("no attributes beside it:\n%s", side)
	}
}

func TestTheSliderMovesCountsListAndTables(t *testing.T) {
	g, file := examplePage(t)
	d := g.Document.Detection.Systems[1]
	var before, after, live, printed, none string
	var items []int
	at := func(step int) chromedp.Action {
		return evaluate(fmt.Sprintf(`{const s = document.getElementById("slider"); s.value = %d; s.dispatchEvent(new Event("input")); 0}`, step), nil)
	}
	var count, all int
	browser(t, opened(t, file),
		at(1), textOf("#reading", &before), evaluate(`reportPage.state().items`, &count),
		at(len(d.Curve)), textOf("#reading", &after), evaluate(`reportPage.state().items`, &all),
		evaluate(`window.dispatchEvent(new Event("beforeprint"))`, nil), textOf("#live", &printed),
		chromedp.Click(`[data-tab=performance]`), evaluate(`document.getElementById("live").textContent`, &live),
		at(0), textOf("#reading", &none),
		evaluate(`[...document.querySelectorAll("#items li.fp")].length ? [1] : []`, &items),
	)
	last := d.Curve[len(d.Curve)-1]
	if want := fmt.Sprintf("%.0f of %d lesions", last[1], len(g.Document.Lesions)); !strings.Contains(after, want) || !strings.Contains(live, fmt.Sprintf("%.0f of %d", last[1], len(g.Document.Lesions))) {
		t.Errorf("at the end: %q and %q, want %q", after, live, want)
	}
	if want := fmt.Sprintf("%.0f false positives", last[2]); !strings.Contains(after, want) {
		t.Errorf("at the end: %q, want %q", after, want)
	}
	if printed != live {
		t.Errorf("on paper the tables are\n%q\nand on the page\n%q", printed, live)
	}
	if before == after || count == all || !strings.Contains(none, "0 of") || len(items) != 0 {
		t.Errorf("%q, %q, %q; %d and %d entries", before, after, none, count, all)
	}
}

// A lesion that the slider takes out of the list stays in view, and the page says that it is found.
func TestWhatTheSliderTakesOutOfTheListStaysInView(t *testing.T) {
	_, file := examplePage(t)
	var before, after, back struct {
		At, Current int
	}
	var side, marked string
	at := func(step string) chromedp.Action {
		return evaluate(`{const s = document.getElementById("slider"); s.value = `+step+`; s.dispatchEvent(new Event("input")); 0}`, nil)
	}
	const found = `document.querySelectorAll("#items li[aria-current=true]").length + ""`
	browser(t, opened(t, file),
		at("0"), evaluate(`[...document.querySelectorAll("#items li")].find(l => l.textContent.includes("found at")).click()`, nil), evaluate(`reportPage.state()`, &before),
		at("s.max"), evaluate(`reportPage.state()`, &after), textOf("#side", &side), evaluate(found, &marked),
		at("0"), evaluate(`reportPage.state()`, &back))
	if after.At != -1 || after.Current != before.Current || marked != "0" || !strings.Contains(side, "Found at this threshold: lesion of") {
		t.Errorf("%+v, then %+v with %s entries marked, beside it\n%s", before, after, marked, side)
	}
	if back != before {
		t.Errorf("back at the threshold it is %+v, was %+v", back, before)
	}
}

func TestKeysScrollZoomWindowAndChoose(t *testing.T) {
	var s struct {
		Offset, At, Low, High int
		Zoom                  float64
		Boxes                 bool
	}
	var label string
	_, file := examplePage(t)
	browser(t, opened(t, file),
		evaluate(`for (const k of ["j", "ArrowUp", "+", "2", "b"]) document.dispatchEvent(new KeyboardEvent("keydown", {key: k})); 0`, nil),
		evaluate(`reportPage.state()`, &s),
		evaluate(`document.getElementById("picture").getAttribute("aria-label")`, &label))
	if s.At != 1 || s.Offset != 1 || s.Zoom <= 1 || s.Low != -1000 || s.High != 400 || s.Boxes {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(label, "slice 1 from the key slice, window -1000 to 400 HU") {
		t.Errorf("alternative text %q", label)
	}
}

func TestFiltersAndOrdersOfTheList(t *testing.T) {
	e := newExample(t)
	_, file := examplePage(t)
	var free, won, byID []string
	pick := func(id, value string) chromedp.Action {
		return evaluate(`{const s = document.getElementById("`+id+`"); s.value = "`+value+`"; s.dispatchEvent(new Event("change")); 0}`, nil)
	}
	texts := `[...document.querySelectorAll("#items li .what")].map(e => e.textContent)`
	browser(t, opened(t, file),
		pick("kind", "free"), evaluate(texts, &free),
		pick("kind", "won"), evaluate(texts, &won),
		pick("kind", "cases"), pick("order", "id"), evaluate(texts, &byID))
	for _, id := range free {
		for _, c := range e.data.Cases {
			if c.ID == id && len(c.Boxes) > 0 {
				t.Errorf("%s has a lesion", id)
			}
		}
	}
	if len(won) > 1 {
		t.Errorf("won %v", won)
	}
	if len(byID) != len(e.data.Cases) {
		t.Errorf("%d cases, want %d", len(byID), len(e.data.Cases))
	}
	for i := 1; i < len(byID); i++ {
		if byID[i] < byID[i-1] {
			t.Fatalf("not by id: %v", byID)
		}
	}
}

// Of two classifiers the second takes one case of b for a; its cell of the confusion matrix leads to that case.
func TestACellOfTheConfusionMatrixLeadsToItsCases(t *testing.T) {
	figures := []workflow.Classifier{{Name: "first", Cases: 3}, {Name: "second", Cases: 3}}
	g := &Gathered{Document: Document{Task: "classify", Systems: []System{{Name: "first"}, {Name: "second"}}, Cases: []Case{{ID: "one"}, {ID: "two"}, {ID: "three"}},
		Classified: []Classified{{Classification: &workflow.Classification{Classes: []string{"a", "b"}, Systems: figures}, Case: []int{0, 1, 2}, Label: []int{0, 1, 1},
			Probability: [][][]float64{{{0.9, 0.1}, {0.2, 0.8}, {0.1, 0.9}}, {{0.9, 0.1}, {0.2, 0.8}, {0.7, 0.3}}}}}}}
	var shown, system, side, counts string
	cell := `[...document.querySelectorAll("td.cell")].filter(td => td.getAttribute("aria-label") === "1 cases of b answered a")`
	browser(t, opened(t, fileOf(t, g, 50)),
		evaluate(`document.getElementById("system").value = "0"; document.getElementById("system").dispatchEvent(new Event("change")); 0`, nil),
		chromedp.Click(`[data-tab=performance]`), evaluate(cell+`[0].click(); `+cell+`.length + ""`, &counts),
		evaluate(`[...document.querySelectorAll("#items li .what")].map(e => e.textContent).join()`, &shown),
		evaluate(`document.getElementById("system").value`, &system), textOf("#side", &side))
	if counts != "1" || shown != "three" || system != "1" || !strings.Contains(side, "b taken for a, 70") {
		t.Errorf("%s cells; it leads to %q of system %s, beside it %q", counts, shown, system, side)
	}
}

func TestFlagsAreExportedAsATable(t *testing.T) {
	_, file := examplePage(t)
	var export, id string
	browser(t, opened(t, file),
		textOf("#items li .what", &id),
		evaluate(`{const f = document.getElementById("flag"); f.value = "exclude"; f.dispatchEvent(new Event("change"));
			const r = document.getElementById("remark"); r.value = "a \"cyst\", no lesion"; r.dispatchEvent(new Event("change")); 0}`, nil),
		evaluate(`reportPage.csv()`, &export))
	rows, err := csv.NewReader(strings.NewReader(export)).ReadAll()
	if err != nil || len(rows) != 2 || strings.Join(rows[0], ",") != "id,flag,remark" {
		t.Fatalf("%v in %q", err, export)
	}
	if rows[1][0] != id || rows[1][1] != "exclude" || rows[1][2] != `a "cyst", no lesion` {
		t.Errorf("%q", rows[1])
	}
}

func TestAPageWithoutIDsNamesNoCaseNoPatientAndNoFolder(t *testing.T) {
	e := newExample(t)
	e.options.IDs = false
	file := fileOf(t, e.gather(t), 50)
	for _, c := range e.data.Cases {
		if strings.Contains(file, c.ID) || strings.Contains(file, `"patient":"`+c.Patient+`"`) {
			t.Fatalf("the page names %q of %q", c.ID, c.Patient)
		}
	}
	if dir := filepath.Dir(e.options.Compare.Systems[0].Path); strings.Contains(file, dir) {
		t.Errorf("the page names the folder %s", dir)
	}
	if !strings.Contains(file, dataset.Pseudonym(e.data.Cases[0].ID)) {
		t.Error("no pseudonym in the page")
	}
}

func TestWhatDoesNotFitIsLeftOutAndSaid(t *testing.T) {
	g := newExample(t).gather(t)
	file := fileOf(t, g, 0.12)
	if float64(len(file)) > 0.12*(1<<20) {
		t.Errorf("%d bytes", len(file))
	}
	if note := g.Document.Pictures.Note; strings.Contains(note, "24 of 24 pictures") && !strings.Contains(note, "0 of ") {
		t.Errorf("note %q", note)
	}
	if _, err := g.HTML(t.Context(), 0.01); err == nil || !strings.Contains(err.Error(), "raise --max-mib") {
		t.Error(err)
	}
}

func TestThePageMayAskForNothing(t *testing.T) {
	_, file := examplePage(t)
	if !strings.Contains(file, "default-src 'none'") {
		t.Error("no policy")
	}
	code := len(style) + len(body) + len(script)
	if code > 250<<10 {
		t.Errorf("%d bytes of code", code)
	}
	for _, bad := range []string{"https:", "@import", "src=\""} {
		if strings.Contains(style+body+script, bad) {
			t.Errorf("the code holds %q", bad)
		}
	}
}

// BenchmarkPage opens the page in the file, or under the address of `view`, that
// ALIGNEDFUSION_PAGE names, and moves its slider from end to end.
func BenchmarkPage(b *testing.B) {
	path := os.Getenv("ALIGNEDFUSION_PAGE")
	if path == "" {
		b.Skip("ALIGNEDFUSION_PAGE names no page to open")
	}
	if !strings.HasPrefix(path, "http") {
		path = "file://" + path
	}
	for b.Loop() {
		var opened, slider, worst float64
		browser(b, path,
			evaluate(`performance.getEntriesByType("navigation")[0].loadEventEnd`, &opened),
			evaluate(`{const s = document.getElementById("slider"), n = Number(s.max); let sum = 0; window.worst = 0;
				for (let k = 0; k < 50; k++) { const t = performance.now(); s.value = Math.round(n * k / 49); s.dispatchEvent(new Event("input")); document.body.offsetHeight;
					const d = performance.now() - t; sum += d; window.worst = Math.max(window.worst, d); } sum / 50}`, &slider),
			evaluate(`window.worst`, &worst))
		b.ReportMetric(opened, "open-ms")
		b.ReportMetric(slider, "slider-ms")
		b.ReportMetric(worst, "slider-worst-ms")
	}
}
