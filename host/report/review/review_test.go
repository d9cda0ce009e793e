package review

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
)

var lesions = schema.Schema{Attributes: []schema.Attribute{
	{Name: "mass", Kind: schema.Binary, Values: []string{"no", "yes"}},
	{Name: "margin", Kind: schema.Categorical, Values: []string{"ill-defined", "smooth"}},
	{Name: "size_mm", Kind: schema.Numeric, Values: []string{"under 6", "6 or more"}, Edges: []float64{6}, Ordinal: true},
}}

const text = "😀 No </script><b> mass. A smooth node."

func input() Input {
	at := func(quote string) schema.Evidence {
		start := strings.Index(text, quote)
		return schema.Evidence{Section: "findings", Start: start, End: start + len(quote), Quote: quote}
	}
	cells := []schema.Cell{
		{State: schema.Negated, Evidence: at("No </script><b> mass")},
		{State: schema.Stated, Value: 1, Evidence: at("smooth")},
		{Value: -1},
	}
	return Input{Name: "states.csv", Table: &report.Table{Schema: lesions, IDs: []string{"a", "b"}, Cells: [][]schema.Cell{cells, {{Value: -1}, {Value: -1}, {Value: -1}}}},
		Reports:     []report.Report{{ID: "a", Sections: []report.Section{{Name: "findings", Text: text}}}, {ID: "b"}},
		Recovered:   map[string][]Recovered{"a": {{"size_mm", []string{"under 6", "6 or more"}, []float64{.126, .874}, []float64{.4, .6}}}},
		Calibration: "The probabilities are calibrated."}
}

func TestThePageAsksForNothingAndKeepsReportsFromBecomingMarkup(t *testing.T) {
	page, err := Page(input())
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"http:", "https:", "src=", "@import", "</script><b>"} {
		if strings.Contains(string(page), bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if !strings.Contains(string(page), "default-src 'none'") {
		t.Error("the page may ask for something")
	}
}

func TestEvidenceThatIsNotInTheReportIsRefused(t *testing.T) {
	in := input()
	in.Table.Cells[0][1].Evidence.Quote = "Smooth"
	if _, err := Page(in); err == nil || !strings.Contains(err.Error(), `report "a": the evidence for "margin"`) {
		t.Error(err)
	}
	in = input()
	in.Table.IDs[1] = "z"
	if _, err := Page(in); err == nil || !strings.Contains(err.Error(), `no report has the id "z"`) {
		t.Error(err)
	}
}

// browser runs the actions on the page in a headless Chromium.
func browser(t *testing.T, actions ...chromedp.Action) {
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
	page, err := Page(input())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "review.html")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	ctx, cancel = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.WSURLReadTimeout(time.Minute))...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	if err := chromedp.Run(ctx, append([]chromedp.Action{chromedp.Navigate("file://" + file)}, actions...)...); err != nil {
		t.Fatal(err)
	}
}

// set writes a cell as a person would.
func set(i, value string) chromedp.Action {
	return chromedp.Evaluate(`{const e = document.querySelector("#cell`+i+` input"); e.value = "`+value+`"; e.dispatchEvent(new Event("change")); 0}`, nil)
}

func TestAPersonReviewsInABrowser(t *testing.T) {
	var marks []string
	var recovered, states, export, invalid, noNumber string
	browser(t,
		chromedp.Evaluate(`[...document.querySelectorAll("mark")].map(m => m.className + ":" + m.textContent)`, &marks),
		chromedp.Text("#cell2 .recovered", &recovered),
		set("2", "9,5 HU"),
		chromedp.Evaluate(`document.querySelector("#cell2 input").validationMessage`, &noNumber),
		set("2", "9,5 mm"),
		set("0", "yes"),
		set("1", "nonsense"),
		chromedp.Evaluate(`document.querySelector("#cell1 input").validationMessage`, &invalid),
		set("1", "smooth"),
		chromedp.Click("#cell1 button"),
		chromedp.Evaluate(`[...document.querySelectorAll("#cells tr")].slice(1).map(r => r.children[1].textContent + "/" + r.className).join(" ")`, &states),
		chromedp.Click("#next"),
		chromedp.Click("#acceptall"),
		chromedp.Evaluate(`csv()`, &export),
	)
	if diff := cmp.Diff([]string{"negated:No </script><b> mass", "stated:smooth"}, marks); diff != "" {
		t.Error(diff)
	}
	if recovered != "6 or more 87 % (training 60 %), under 6 13 % (training 40 %)" {
		t.Errorf("recovered: %q", recovered)
	}
	if states != "stated/corrected stated/accepted stated/corrected" || !strings.HasPrefix(invalid, "want ill-defined, smooth") || !strings.HasPrefix(noNumber, "want a number (perhaps in mm)") {
		t.Errorf("states %q, complaints %q, %q", states, invalid, noNumber)
	}
	table, err := report.ParseTable([]byte(export), "t.csv", lesions, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, export)
	}
	got := table.Cells[0]
	if got[0].Review != schema.Corrected || got[0].State != schema.Stated || !got[0].Evidence.IsZero() ||
		got[1].Review != schema.Accepted || got[1].Evidence.Quote != "smooth" || !input().Reports[0].Holds(got[1].Evidence) ||
		got[2].Review != schema.Corrected || got[2].Raw != "9.5" || table.Cells[1][0].Review != schema.Accepted {
		t.Errorf("%+v\n%s", table.Cells, export)
	}
}
