package workflow

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
	"github.com/alignedfusion/alignedfusion/host/report/textembed"
	"github.com/alignedfusion/alignedfusion/host/runs"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// textStage is a plugin's text encoder while the prompts of a data set are embedded.
type textStage struct {
	stage    *sdk.StageManifest
	settings sdk.Settings
	plugin   *plughost.Plugin
	instance *plughost.Instance
	dim      int
	id       string
	opened   *sdk.OpenResponse
}

// openText starts the plugin of c and opens its text stage.
func openText(ctx context.Context, host *plughost.Host, c config.Stage, req sdk.OpenRequest) (_ *textStage, err error) {
	t := &textStage{}
	if t.plugin, err = host.Start(ctx, c.Plugin); err != nil {
		return nil, fmt.Errorf("text encoder %s: %w", c.Ref(), err)
	}
	manifest := t.plugin.Manifest()
	if t.stage, err = pick(manifest, sdk.KindText, c.Stage, req.Task); err == nil && t.stage.Kind != sdk.KindText {
		err = fmt.Errorf("stage %q is of kind %s, want %s", t.stage.Name, t.stage.Kind, sdk.KindText)
	}
	if err != nil {
		return nil, &pipeline.RoleError{Text: fmt.Sprintf("text encoder %s: %v", c.Ref(), err)}
	}
	if t.settings, err = sdk.ResolveSettings(t.stage.Settings, c.Settings); err != nil {
		return nil, &pipeline.SettingsError{Role: sdk.KindText, Plugin: manifest.Name, Err: err}
	}
	if t.id, err = t.identity(manifest); err != nil {
		return nil, fmt.Errorf("%w: text encoder %s: %w", dataset.ErrData, c.Ref(), err)
	}
	req.Stage, req.Settings, req.Train = t.stage.Name, t.settings, false
	req.Inputs = t.stage.Inputs
	if t.instance, t.opened, err = t.plugin.Open(ctx, &req); err != nil {
		return nil, &pipeline.StageError{Role: sdk.KindText, Plugin: manifest.Name, Call: "open", Err: err,
			Setting: pipeline.RefusesSetting(err, t.stage.Settings)}
	}
	out := sdk.FindPort(sdk.KnownPorts(t.stage.Outputs, t.opened.Outputs), "embedding")
	if out != nil && out.DType == tensor.FP32 && len(out.Shape) == 2 {
		t.dim, _ = strconv.Atoi(out.Shape[1])
	}
	if t.dim <= 0 || sdk.FindPort(t.stage.Inputs, "text") == nil {
		return nil, &pipeline.RoleError{Text: fmt.Sprintf("text encoder %s: stage %q takes no \"text\" or gives no \"embedding\" FP32 [N E] of known width E", c.Ref(), t.stage.Name)}
	}
	return t, nil
}

// identity names plugin, stage, settings and the content of every file they name: what
// an embedding depends on.
func (t *textStage) identity(m sdk.Manifest) (string, error) {
	id := fmt.Sprintf("%s-%s", m.Name, m.Version)
	h := sha256.New()
	fmt.Fprintln(h, t.stage.Name)
	for _, name := range slices.Sorted(maps.Keys(t.settings)) {
		value := t.settings[name]
		isPath := slices.ContainsFunc(t.stage.Settings, func(s sdk.Setting) bool { return s.Name == name && s.Type == "path" })
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
func (t *textStage) encoder(ctx context.Context) textembed.Encoder {
	return textembed.Encoder{ID: t.id, Dim: t.dim, Encode: func(prompts []string) ([][]float32, error) {
		resp, _, err := t.instance.Forward(ctx, &sdk.ForwardRequest{Inputs: map[string]*tensor.Tensor{"text": tensor.OfStrings(prompts...)}})
		if err != nil {
			return nil, &pipeline.StageError{Role: sdk.KindText, Plugin: t.plugin.Manifest().Name, Call: "forward", Err: err}
		}
		values, err := resp.Outputs["embedding"].Float32s()
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

// record says what embeds the reports.
func (t *textStage) record() runs.PluginRecord {
	m := t.plugin.Manifest()
	return runs.PluginRecord{Role: string(sdk.KindText), Name: m.Name, Version: m.Version, Stage: t.stage.Name,
		SHA256: combinedHash(t.plugin.Hashes()), Runtime: m.Runtime, Parameters: t.opened.ParameterCount}
}

// textCache is where embeddings of a plugin are kept; "" (nowhere) without a home.
func textCache() textembed.Cache {
	dir, err := os.UserCacheDir()
	if err != nil {
		return textembed.Cache{}
	}
	return textembed.Cache{Dir: filepath.Join(dir, "alignedfusion", "text")}
}

// sameText refuses to go on with a run whose reports would be embedded otherwise than
// they were in training.
func (s *Session) sameText(m *runs.Manifest) error {
	if now := s.TextEncoder(); m.TextEncoder != "" && now != m.TextEncoder {
		return fmt.Errorf("%w: the run's reports were embedded by %s, now it would be %s: the text encoder's weights or settings have changed",
			dataset.ErrData, m.TextEncoder, now)
	}
	return nil
}
