package workflow

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/synth"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// session is one of an encoder "eye" that takes depth slices and a fusion "fuser".
func session(t *testing.T, d *dataset.Dataset, depth string, fusionInputs ...sdk.Port) *Session {
	t.Helper()
	c, err := config.New(config.Detect)
	if err != nil {
		t.Fatal(err)
	}
	eye := &pipeline.Member{Source: pipeline.Source{Role: sdk.KindEncoder, Plugin: "eye"}, Opened: &sdk.OpenResponse{
		Inputs: []sdk.Port{{Name: dataset.Volume, DType: tensor.FP32, Shape: []string{"N", "1", depth, "H", "W"}}}}}
	fuser := &pipeline.Member{Source: pipeline.Source{Role: sdk.KindFusion, Plugin: "fuser", Stage: sdk.StageManifest{Inputs: fusionInputs}}}
	return &Session{Options: Options{Config: c, Data: d},
		Pipeline: &pipeline.Pipeline{Members: []*pipeline.Member{eye, fuser}}, Feed: &feed.Feed{Config: c, Encoder: eye}}
}

func ctSlices(t *testing.T, spec func(dir string) string) *dataset.Dataset {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ct")
	if _, err := synth.DeepLesion(t.Context(), dir, synth.DeepLesionOptions{Patients: 3, Size: 96, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	d, err := dataset.Open(spec(dir), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestEncoderOfSeveralSlicesOnSingleOnesIsNamed(t *testing.T) {
	key := func(dir string) string {
		files, err := filepath.Glob(filepath.Join(dir, "Images_png", "*", "*.png"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%v, %v", files, err)
		}
		return "slices:" + files[0]
	}
	single := ctSlices(t, key)
	for depth, want := range map[string]bool{"3": true, "1": false, "D": false} {
		got := session(t, single, depth).voids(single.Cases, false)
		if slices.ContainsFunc(got, func(w string) bool { return strings.Contains(w, "encoder eye takes 3 slices") }) != want {
			t.Errorf("an encoder of %s slices: %q", depth, got)
		}
	}
	s := session(t, single, "D")
	s.Config.DataSettings.Slices = 5
	if got := strings.Join(s.voids(single.Cases, false), "\n"); !strings.Contains(got, "takes 5 slices, and around those of 1 of 1 cases there are none") {
		t.Errorf("data.slices=5: %q", got)
	}
	whole := ctSlices(t, func(dir string) string { return "deeplesion:" + dir })
	if got := session(t, whole, "3").voids(whole.Cases, false); len(got) != 0 {
		t.Errorf("series with neighbours: %q", got)
	}
}

func TestLeakyAttributesAreVoid(t *testing.T) {
	d := ctSlices(t, func(dir string) string { return "deeplesion:" + dir + "?attributes=paper" })
	if got := session(t, d, "1").voids(d.Cases, false); len(got) != 1 || !strings.Contains(got[0], "leak") {
		t.Errorf("%q, want the leak", got)
	}
}

func TestFusionThatReadsReportsAndGetsNoneIsRefused(t *testing.T) {
	report := sdk.Port{Name: "report.state", DType: tensor.Int8}
	d := &dataset.Dataset{}
	if err := session(t, d, "1").refuseNoReports(); err != nil {
		t.Errorf("a fusion that reads none: %v", err)
	}
	s := session(t, d, "1", report)
	if err := s.refuseNoReports(); err == nil {
		t.Error("no reports for a fusion that reads them, and no error")
	}
	s.Config.Attributes = &[]string{}
	if err := s.refuseNoReports(); err != nil {
		t.Errorf("none were asked for: %v", err)
	}
	if got := session(t, d, "1", report).voids(nil, false); len(got) != 1 {
		t.Errorf("no case has an attribute: %q", got)
	}
	if got := session(t, d, "1", report).voids(nil, true); len(got) != 0 {
		t.Errorf("one case has: %q", got)
	}
	age := &schema.Schema{Attributes: []schema.Attribute{{Name: "age", Kind: schema.Numeric}}}
	silent := dataset.Case{ID: "a", Attributes: dataset.NewAttributes(map[string]schema.Cell{"size": {State: schema.Stated}})}
	negated := dataset.Case{ID: "b", Attributes: dataset.NewAttributes(map[string]schema.Cell{"age": {State: schema.Negated}})}
	if reported(age, []dataset.Case{silent}) || !reported(age, []dataset.Case{silent, negated}) || reported(nil, []dataset.Case{negated}) {
		t.Error("a case is reported when it has one of the schema's attributes")
	}
}

func TestChangedDataAndPluginsAreNamed(t *testing.T) {
	m := &runs.Manifest{DataSHA256: "11", Plugins: []runs.PluginRecord{{Role: "head", Name: "h", SHA256: "aa"}, {Role: "fusion", Name: "f", SHA256: "bb"}}}
	if got := changedData(m, &dataset.Dataset{Hash: "11"}); got != nil {
		t.Errorf("unchanged data: %q", got)
	}
	if got := changedData(m, &dataset.Dataset{Spec: "boxes:x", Hash: "22"}); len(got) != 1 || !strings.Contains(got[0], "boxes:x has changed") {
		t.Errorf("changed data: %q", got)
	}
	now := []runs.PluginRecord{{Role: "fusion", Name: "f", SHA256: "bb"}, {Role: "head", Name: "h", SHA256: "cc"}, {Role: "text", Name: "t", SHA256: "dd"}}
	if got := changedPlugins(m, now); len(got) != 1 || !strings.Contains(got[0], "plugin h (head) has changed") {
		t.Errorf("%q, want the head", got)
	}
}

func TestRunsThatDifferAreNamed(t *testing.T) {
	run := func(change func(*RunFiles)) *RunFiles {
		c, err := config.New(config.Detect)
		if err != nil {
			t.Fatal(err)
		}
		r := &RunFiles{Config: c, Manifest: &runs.Manifest{Attributes: []string{"age"}}, trained: trained{"1": "a", "2": "b"}}
		change(r)
		return r
	}
	plain := run(func(*RunFiles) {})
	for name, c := range map[string]struct {
		change func(*RunFiles)
		want   string
	}{
		"nothing":      {func(*RunFiles) {}, ""},
		"cases":        {func(r *RunFiles) { r.trained = trained{"1": "a", "3": "c", "4": "d"} }, "different cases: 2 and 3, 1 of them the same"},
		"fewer cases":  {func(r *RunFiles) { r.trained = trained{"1": "a"} }, "different cases: 2 and 1, 1 of them the same"},
		"unknown":      {func(r *RunFiles) { r.trained = nil }, ""},
		"attributes":   {func(r *RunFiles) { r.Manifest.Attributes = []string{"age", "sex"} }, "different attributes: age; and age, sex"},
		"no reports":   {func(r *RunFiles) { r.Manifest.Attributes = nil }, ""},
		"validation":   {func(r *RunFiles) { r.Config.DataSettings.ValidationSplit = "test" }, `different splits: "val" and "test"`},
		"protocol":     {func(r *RunFiles) { r.Config.DataSettings.Protocol = "luna16" }, "different protocols"},
		"fppi":         {func(r *RunFiles) { r.Config.DataSettings.FPPI = []float64{4} }, "different protocols"},
		"another seed": {func(r *RunFiles) { r.Config.Seed = 9 }, ""},
	} {
		got := strings.Join(plain.differences(run(c.change), CompareOptions{}), "\n")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
