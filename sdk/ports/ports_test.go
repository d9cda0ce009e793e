package ports

import (
	"slices"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

func TestEveryEntryIsComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range All() {
		if p.Name == "" || seen[p.Name] || !p.DType.Known() || len(p.Shape) == 0 || len(p.Makers) == 0 || len(p.Readers) == 0 || p.Help == "" {
			t.Errorf("incomplete or twice: %+v", p)
		}
		seen[p.Name] = true
		if p.Task != "" && p.Task != detect && p.Task != classify {
			t.Errorf("%s: task %q", p.Name, p.Task)
		}
	}
	if len(seen) == 0 {
		t.Error("the catalogue is empty")
	}
}

func TestFindPrefersTheExactNameAndTheLongestFamily(t *testing.T) {
	for name, want := range map[string]string{
		"tokens.report": "tokens.report", "tokens.ct": "tokens.*", "tokens.*": "tokens.*", "target.label": "target.label",
		"target.label.benign": "target.label.*", "image": "image", "image.rgb": "image.*", "logits.a.b": "logits.*",
		"tokens.": "", "target.labels": "", "joint.x": "", "": "",
	} {
		got := ""
		if p := Find(name); p != nil {
			got = p.Name
		}
		if got != want {
			t.Errorf("Find(%q) is %q, want %q", name, got, want)
		}
	}
}

func TestMembersOfFamilies(t *testing.T) {
	if got := Tokens.Of("ct").Name; got != "tokens.ct" {
		t.Errorf("Tokens.Of(ct) is %q", got)
	}
	if m, ok := TargetLabels.Member("target.label.benign"); m != "benign" || !ok {
		t.Errorf("member %q, %v", m, ok)
	}
	for _, name := range []string{"target.label", "target.label.", "joint"} {
		if m, ok := TargetLabels.Member(name); ok {
			t.Errorf("%q is the member %q of target.label.*", name, m)
		}
	}
	if _, ok := Joint.Member("joint"); ok {
		t.Error("an exact port has a member")
	}
	if !Joint.Has("joint") || Joint.Has("joints") || !Tokens.Has("tokens.*") || !Tokens.Has("tokens.ct") || Tokens.Has("tokens") {
		t.Error("Has")
	}
}

func TestLabelSetsHaveTheirOwnPortsWhenThereAreSeveral(t *testing.T) {
	one, two := []sdk.LabelSet{{Name: "a"}}, []sdk.LabelSet{{Name: "a"}, {Name: "b"}}
	got := []string{LabelTarget(one, "a").Name, LabelTarget(two, "b").Name, LabelLogits(one, "a").Name, LabelLogits(two, "b").Name}
	if want := []string{"target.label", "target.label.b", "logits", "logits.b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBoxTargetsAreTheTargetsOfDetection(t *testing.T) {
	var names []string
	for _, p := range BoxTargets() {
		names = append(names, p.Name)
	}
	want := []string{"target.boxes", "target.image", "target.class", "target.recist", "target.ignore", "target.ignore.image"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if !Target("target.x") || Target("logits") || Target("targets") {
		t.Error("Target")
	}
}

func TestDeclareTakesTheCatalogueAndTheOptions(t *testing.T) {
	p := Tokens.Of("ct").Declare(Required, Shape("N", "T", "64"), Help("mine"), SizeMultiple(32), Intensity(sdk.Intensity{High: 3}))
	if p.Name != "tokens.ct" || p.DType != tensor.FP32 || !p.Required || !p.Differentiable || p.Help != "mine" || p.SizeMultiple != 32 ||
		p.Intensity == nil || p.Intensity.High != 3 || !slices.Equal(p.Shape, []string{"N", "T", "64"}) {
		t.Errorf("%+v", p)
	}
	if p = Logits.Declare(); p.Required || p.Differentiable || p.Help != Logits.Help {
		t.Errorf("%+v", p)
	}
	if p = Logits.Declare(Differentiable); !p.Differentiable {
		t.Errorf("%+v", p)
	}
	p.Shape[0] = "changed"
	if Logits.Shape[0] != "N" {
		t.Error("a declaration shares its shape with the catalogue")
	}
	if p = Named("tokens.ct"); p.Name != "tokens.ct" || p.DType != tensor.FP32 {
		t.Errorf("%+v", p)
	}
	if p = Named("mine", Required); p.Name != "mine" || p.DType != "" || !p.Required {
		t.Errorf("%+v", p)
	}
}

func TestTypoNamesWhatWasMeant(t *testing.T) {
	for name, want := range map[string]string{
		"target.labels": "target.label", "target.lable": "target.label", "token.ct": "tokens.ct", "logit": "logits", "score": "scores",
		"report.states": "report.state", "Joint": "joint", "target.labels.benign": "target.label.benign",
		"target.label": "", "tokens.anything": "", "attention": "", "x": "", "grid": "",
	} {
		if got := Typo(name); got != want {
			t.Errorf("Typo(%q) is %q, want %q", name, got, want)
		}
	}
	if got := Typo("my.maps", "my.map"); got != "my.map" {
		t.Errorf("among others: %q", got)
	}
	if got := Nearest("target.lbls"); got != "target.label" {
		t.Errorf("nearest %q", got)
	}
}

func TestReservedAreTheFirstPartsOfCataloguedNames(t *testing.T) {
	for name, want := range map[string]bool{"target.y": true, "report.age": true, "volume": true, "volume.x": true, "boxes": true, "my.target": false, "targets.y": false} {
		if Reserved(name) != want {
			t.Errorf("Reserved(%q) is %v", name, !want)
		}
	}
}

func TestCheckComparesAManifestWithTheCatalogue(t *testing.T) {
	stage := func(kind sdk.Kind, in, out []sdk.Port) sdk.StageManifest {
		return sdk.StageManifest{Name: "s", Kind: kind, Inputs: in, Outputs: out}
	}
	port := func(name string, d tensor.DType, shape ...string) []sdk.Port {
		return []sdk.Port{{Name: name, DType: d, Shape: shape}}
	}
	for _, c := range []struct {
		name  string
		stage sdk.StageManifest
		want  string // part of the error; "" for none
	}{
		{"all right", stage(sdk.KindHead, port("target.label", tensor.Int64, "N"), port("logits", tensor.FP32, "N", "3")), ""},
		{"any dtype and shape", stage(sdk.KindHead, port("target.label", ""), nil), ""},
		{"other names of sizes", stage(sdk.KindHead, port("target.boxes", tensor.FP32, "lesions", "*"), nil), ""},
		{"a port of its own", stage(sdk.KindHead, port("my.map", tensor.Int8, "a"), port("attention", tensor.FP32)), ""},
		{"resident", stage(sdk.KindHead, []sdk.Port{{Name: "target.maps", Resident: true}}, nil), ""},
		{"misspelt input", stage(sdk.KindHead, port("target.labels", tensor.Int64, "N"), nil), `input "target.labels" is no known port, want "target.label"`},
		{"misspelt output", stage(sdk.KindHead, nil, port("logit", tensor.FP32, "N", "3")), `output "logit" is no known port, want "logits"`},
		{"reserved input", stage(sdk.KindHead, port("target.survival", tensor.FP32, "N"), nil), `input "target.survival" is given by nobody`},
		{"reserved output", stage(sdk.KindHead, nil, port("joint.mine", tensor.FP32, "N")), ""},
		{"dtype", stage(sdk.KindHead, port("target.label", tensor.FP32, "N"), nil), `input "target.label" is FP32 [N], want INT64 [N]`},
		{"rank", stage(sdk.KindHead, port("target.label", tensor.Int64, "N", "1"), nil), "want INT64 [N]"},
		{"size", stage(sdk.KindHead, port("target.boxes", tensor.FP32, "M", "5"), nil), "want FP32 [M 4]"},
		{"reader", stage(sdk.KindEncoder, port("target.label", tensor.Int64, "N"), nil), "of a stage of kind encoder, want kind fusion or head"},
		{"maker", stage(sdk.KindFusion, nil, port("logits", tensor.FP32, "N", "3")), "of a stage of kind fusion, want kind head"},
	} {
		err := Check(c.stage, nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	sibling := stage(sdk.KindFusion, port("score", tensor.FP32), port("target.survival", tensor.FP32, "N"))
	if err := Check(stage(sdk.KindHead, port("target.survival", tensor.FP32, "N"), port("score", tensor.FP32)), []sdk.StageManifest{sibling}); err != nil {
		t.Errorf("what a sibling makes and reads: %v", err)
	}
}
