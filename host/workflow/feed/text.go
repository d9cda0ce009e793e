package feed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/host/report/embed"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// TextEncoder is a plugin's text encoder while the prompts of a data set are embedded.
type TextEncoder struct {
	Stage    *sdk.StageManifest
	Settings sdk.Settings
	Plugin   *plughost.Plugin
	instance *plughost.Instance
	dim      int
	id       string
	Opened   *sdk.OpenResponse
}

// openText starts the plugin of c and opens its text stage.
func openText(ctx context.Context, host *plughost.Host, c config.Stage, req sdk.OpenRequest) (_ *TextEncoder, err error) {
	t := &TextEncoder{}
	if t.Plugin, err = host.Start(ctx, c.Plugin); err != nil {
		return nil, fmt.Errorf("text encoder %s: %w", c.Ref(), err)
	}
	manifest := t.Plugin.Manifest()
	if t.Stage, err = pipeline.PickStage(manifest, sdk.KindText, c.Stage, req.Task); err == nil && t.Stage.Kind != sdk.KindText {
		err = fmt.Errorf("stage %q is of kind %s, want %s", t.Stage.Name, t.Stage.Kind, sdk.KindText)
	}
	if err != nil {
		return nil, &pipeline.RoleError{Text: fmt.Sprintf("text encoder %s: %v", c.Ref(), err)}
	}
	if t.Settings, err = pipeline.ResolveSettings(t.Stage.Settings, c.Settings); err != nil {
		return nil, &pipeline.SettingsError{Role: sdk.KindText, Plugin: manifest.Name, Err: err}
	}
	if t.id, err = t.identity(manifest); err != nil {
		return nil, fmt.Errorf("%w: text encoder %s: %w", dataset.ErrData, c.Ref(), err)
	}
	req.Stage, req.Settings, req.Train = t.Stage.Name, t.Settings, false
	req.Inputs = t.Stage.Inputs
	if t.instance, t.Opened, err = t.Plugin.Open(ctx, &req); err != nil {
		return nil, &pipeline.StageError{Role: sdk.KindText, Plugin: manifest.Name, Call: "open", Err: err}
	}
	out := sdk.FindPort(sdk.KnownPorts(t.Stage.Outputs, t.Opened.Outputs), ports.Embedding.Name)
	if out != nil && out.DType == tensor.FP32 && len(out.Shape) == 2 {
		t.dim, _ = strconv.Atoi(out.Shape[1])
	}
	if t.dim <= 0 || sdk.FindPort(t.Stage.Inputs, ports.Text.Name) == nil {
		return nil, &pipeline.RoleError{Text: fmt.Sprintf("text encoder %s: stage %q takes no \"text\" or gives no \"embedding\" FP32 [N E] of known width E", c.Ref(), t.Stage.Name)}
	}
	return t, nil
}

// identity names plugin, stage, settings and the content of every file they name: what
// an embedding depends on.
func (t *TextEncoder) identity(m sdk.Manifest) (string, error) {
	id := fmt.Sprintf("%s-%s", m.Name, m.Version)
	h := sha256.New()
	fmt.Fprintln(h, t.Stage.Name)
	for _, name := range slices.Sorted(maps.Keys(t.Settings)) {
		value := t.Settings[name]
		isPath := slices.ContainsFunc(t.Stage.Settings, func(s sdk.Setting) bool { return s.Name == name && s.Type == "path" })
		fmt.Fprintf(h, "%s=", name)
		switch {
		case !isPath:
			fmt.Fprintln(h, value)
		case value != "":
			if err := hashFiles(h, value); err != nil {
				return "", err
			}
		}
	}
	return fmt.Sprintf("%s-%s", id, hex.EncodeToString(h.Sum(nil)[:8])), nil
}

// hashFiles adds a file, or the files of a folder with their names, to a hash.
func hashFiles(h io.Writer, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path) // what a link names counts
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %d\n", filepath.ToSlash(name), info.Size())
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
}

// encoder is the stage as the cache of embeddings asks it.
func (t *TextEncoder) encoder(ctx context.Context) embed.Encoder {
	return embed.Encoder{ID: t.id, Dim: t.dim, Encode: func(prompts []string) ([][]float32, error) {
		resp, err := t.instance.Forward(ctx, &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{ports.Text.Name: tensor.OfStrings(prompts...)}})
		if err != nil {
			return nil, &pipeline.StageError{Role: sdk.KindText, Plugin: t.Plugin.Manifest().Name, Call: "forward", Err: err}
		}
		values, err := resp.Outputs[ports.Embedding.Name].Float32s()
		if err != nil || len(values) != len(prompts)*t.dim {
			return nil, fmt.Errorf("output \"embedding\" has %d numbers for %d prompts, want %d each (%v)", len(values), len(prompts), t.dim, err)
		}
		out := make([][]float32, len(prompts))
		for i := range out {
			out[i] = slices.Clone(values[i*t.dim : (i+1)*t.dim])
		}
		return out, nil
	}}
}

// Record says what embeds the reports.
func (t *TextEncoder) Record() runs.PluginRecord {
	m := t.Plugin.Manifest()
	return runs.PluginRecord{Role: string(sdk.KindText), Name: m.Name, Version: m.Version, Stage: t.Stage.Name,
		SHA256: t.Plugin.SHA256(), Runtime: m.Runtime, Libraries: t.Plugin.Libraries(), Isolation: t.Plugin.Isolation(), Parameters: t.Opened.ParameterCount}
}

// EmbedReports encodes the reports of all cases, by the plugin that the configuration
// names or by hashed n-grams; then there is no TextEncoder. The plugin's stage is closed
// again.
func EmbedReports(ctx context.Context, host *plughost.Host, c *config.Config, s *schema.Schema, cases []dataset.Case) (*Reports, *TextEncoder, error) {
	if c.TextEncoder == nil {
		encoder, err := embed.Hashed(c.Text.Dim)
		if err != nil {
			return nil, nil, err
		}
		encoder.Center = c.Text.Center
		r, err := NewReports(s, cases, encoder, embed.Cache{}, c.DataSettings.Impute)
		return r, nil, err
	}
	t, err := openText(ctx, host, *c.TextEncoder, sdk.OpenRequest{Seed: c.Seed, Device: c.Device, Threads: c.Threads, Group: "text", Task: c.Task})
	if err != nil {
		return nil, nil, err
	}
	encoder := t.encoder(ctx)
	encoder.Center = c.Text.Center
	r, err := NewReports(s, cases, encoder, textCache(), c.DataSettings.Impute)
	if err != nil {
		return nil, nil, err
	}
	for _, note := range t.Opened.Notes {
		r.Warnings = append(r.Warnings, fmt.Sprintf("text encoder %s: %s", c.TextEncoder.Ref(), note))
	}
	return r, t, t.instance.Close()
}

// textCache is where embeddings of a plugin are kept; "" (nowhere) without a home.
func textCache() embed.Cache {
	dir, err := os.UserCacheDir()
	if err != nil {
		return embed.Cache{}
	}
	return embed.Cache{Dir: filepath.Join(dir, "alignedfusion", "text")}
}
