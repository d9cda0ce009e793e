package card

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alignedfusion/alignedfusion/eval/froc/frocio"
	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/host/workflow"
	"github.com/alignedfusion/alignedfusion/sdk"
)

// example is a classifier's card with a figure that is not defined.
func example() *Card {
	c := &Card{Name: "itf", Task: config.Classify, Data: "table:skin/data.csv", Split: "test", Run: &workflow.RunFiles{
		Config:   &config.Config{},
		Manifest: &runs.Manifest{Version: "0.2.0", DataSHA256: "ab12", Attributes: []string{"age", "itch"}, Plugins: []runs.PluginRecord{{Role: "head", Name: "classifier", SHA256: "0123456789abcdef0123", Libraries: map[string]string{"libtch.so": "71ca for libtorch 2.6.0"}}}},
		Labels:   []sdk.LabelSet{{Classes: []string{"nevus", "melanoma"}}},
	}}
	c.Results = []Result{{Of: "40 cases"}}
	c.Results[0].add("balanced accuracy", "balanced_accuracy", 0.75, &[2]frocio.Number{0.6, 0.9})
	c.Results[0].add("macro AUROC", "roc_auc", frocio.Number(math.NaN()), nil)
	return c
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAFigureThatIsNotDefinedIsSaidAndNotInTheIndex(t *testing.T) {
	path, err := example().WriteModelCard(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(strings.TrimPrefix(read(t, path), "---\n"), "\n---\n")
	if strings.Contains(head, "roc_auc") || !strings.Contains(head, "value: 0.75") {
		t.Errorf("the model-index is %s", head)
	}
	for _, want := range []string{"| balanced accuracy | 0.750 | 0.600 to 0.900 |", "| macro AUROC | not defined | – |", "libtorch 2.6.0", "Licence: **needs the author**"} {
		if !strings.Contains(body, want) {
			t.Errorf("%s is not in %s", want, body)
		}
	}
}

func TestNoIdAndNoFolderStandsOnACard(t *testing.T) {
	if got, want := hidden(`patient "Jane" is in two splits (/data/jane/table.csv:3)`), `patient "…" is in two splits (…/table.csv:3)`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for spec, want := range map[string]string{"boxes:/data/jane/ct?noisy=keep": "boxes:ct", "table:/srv/jane/skin/data.csv?exclude=/x/y.csv": "table:skin/data.csv"} {
		if got := dataName(spec); got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
}

const readModelCard = `
import json, sys
from huggingface_hub import ModelCard
card = ModelCard.load(sys.argv[1])
print(json.dumps([[r.task_type, r.dataset_name, r.dataset_split, r.metric_type, r.metric_value] for r in card.data.eval_results]))
`

// The hub's own reader finds the figures.
func TestTheHubReadsTheModelIndex(t *testing.T) {
	python := os.Getenv("ALIGNEDFUSION_HUB")
	if python == "" {
		t.Skip("ALIGNEDFUSION_HUB names no Python with huggingface_hub")
	}
	path, err := example().WriteModelCard(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(python, "-c", readModelCard, path).CombinedOutput()
	if want := `[["image-classification", "table:skin/data.csv", "test", "balanced_accuracy", 0.75]]`; err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("%s, %v, want %s", out, err, want)
	}
}

// The keys that the MONAI bundle specification demands.
func TestAMONAIBundlesMetadataHasWhatIsDemanded(t *testing.T) {
	dir := t.TempDir()
	path, err := example().WriteMONAI(dir)
	if err != nil || path != filepath.Join(dir, "configs", "metadata.json") {
		t.Fatal(path, err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(read(t, path)), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task", "description", "authors", "copyright", "network_data_format"} {
		if got[key] == nil {
			t.Errorf("no %s", key)
		}
	}
	ports := got["network_data_format"].(map[string]any)
	for _, side := range []string{"inputs", "outputs"} {
		for name, port := range ports[side].(map[string]any) {
			for _, key := range []string{"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"} {
				if _, there := port.(map[string]any)[key]; !there {
					t.Errorf("%s %s has no %s", side, name, key)
				}
			}
		}
	}
	if metrics := got["eval_metrics"].(map[string]any); len(metrics) != 1 || metrics["balanced accuracy"] != 0.75 {
		t.Errorf("%v", metrics)
	}
}

// A number that is asked for has its unit, and its figures stand beside those of classes.
func TestNumbersHaveTheirUnits(t *testing.T) {
	c := example()
	c.Run.Labels = []sdk.LabelSet{{Name: "growth", Unit: "mm"}}
	c.Results = nil
	c.measured(&workflow.Measured{Task: "growth", Question: "regression", Unit: "mm", Cases: 40,
		Figures: []workflow.FigureRow{{Figure: "mae", Metric: workflow.Metric{Value: 1.25, CI: [2]frocio.Number{1, 1.5}}}}})
	dir := t.TempDir()
	path, err := c.WriteModelCard(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"A model that answers with numbers", "### growth\n\nregression, 40 cases, in mm.", "| mae | 1.250 | 1.000 to 1.500 |", "type: mae\n"} {
		if text := read(t, path); !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if path, err = c.WriteMONAI(dir); err != nil || !strings.Contains(read(t, path), `"0": "growth (mm)"`) {
		t.Error(err, read(t, path))
	}
}
