package workflow

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// TokenStore keeps the tokens that frozen encoders made of cases, so that neither
// images nor the encoder are needed for a case again: not in later epochs, not in other
// runs of the same process. It may be shared.
type TokenStore struct {
	mu          sync.Mutex
	limit, used int64
	encoders    map[[sha256.Size]byte]map[string]map[string]*tensor.Tensor
}

// NewTokenStore makes a store that holds up to limitBytes.
func NewTokenStore(limitBytes int64) *TokenStore {
	return &TokenStore{limit: limitBytes, encoders: map[[sha256.Size]byte]map[string]map[string]*tensor.Tensor{}}
}

// of returns the tokens of one encoder: by case, by port, [1,T,C].
func (s *TokenStore) of(key [sha256.Size]byte) *rememberedTokens {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.encoders[key] == nil {
		s.encoders[key] = map[string]map[string]*tensor.Tensor{}
	}
	return &rememberedTokens{s, s.encoders[key]}
}

// rememberedTokens are what one encoder with one set of weights made of cases.
type rememberedTokens struct {
	store *TokenStore
	cases map[string]map[string]*tensor.Tensor
}

// covers reports whether the tokens of all cases are known.
func (r *rememberedTokens) covers(cases []dataset.Case) bool {
	return r != nil && len(r.without(cases)) == 0
}

func (r *rememberedTokens) without(cases []dataset.Case) (unknown []dataset.Case) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for i := range cases {
		if r.cases[cases[i].ID] == nil {
			unknown = append(unknown, cases[i])
		}
	}
	return unknown
}

// add puts the tokens of a batch that came without images among its inputs.
func (r *rememberedTokens) add(inputs map[string]*tensor.Tensor, cases []dataset.Case) {
	if r == nil || len(cases) == 0 || !r.covers(cases) {
		return
	}
	for name := range inputs {
		if strings.HasPrefix(name, "image.") {
			return
		}
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for port, first := range r.cases[cases[0].ID] {
		shape := slices.Clone(first.Shape)
		shape[0] = int64(len(cases))
		data := make([]byte, 0, len(first.Data)*len(cases))
		for i := range cases {
			data = append(data, r.cases[cases[i].ID][port].Data...)
		}
		inputs[port] = &tensor.Tensor{DType: first.DType, Shape: shape, Data: data}
	}
}

// keep takes the rows of a batch; false when there is no room for them.
func (r *rememberedTokens) keep(cases []dataset.Case, outputs map[string]*tensor.Tensor) bool {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for _, t := range outputs {
		r.store.used += int64(len(t.Data))
	}
	if r.store.used > r.store.limit {
		for _, t := range outputs {
			r.store.used -= int64(len(t.Data))
		}
		return false
	}
	for i := range cases {
		rows := map[string]*tensor.Tensor{}
		for port, t := range outputs {
			shape := slices.Clone(t.Shape)
			shape[0] = 1
			size := len(t.Data) / len(cases)
			rows[port] = &tensor.Tensor{DType: t.DType, Shape: shape, Data: slices.Clone(t.Data[i*size : (i+1)*size])}
		}
		r.cases[cases[i].ID] = rows
	}
	return true
}

// frozen reports whether the encoder says that its tokens depend on the image alone.
func frozen(m *pipeline.Member) bool {
	return m != nil && m.Opened.TrainableCount == 0 &&
		slices.ContainsFunc(m.Opened.Notes, func(note string) bool { return strings.HasPrefix(note, "frozen") })
}

// residents reports whether a stage lives on what another one keeps in their process.
func (s *Session) residents() bool {
	return slices.ContainsFunc(s.Pipeline.Members, func(m *pipeline.Member) bool {
		return slices.ContainsFunc(m.Opened.Inputs, func(p sdk.Port) bool { return p.Resident })
	})
}

// remember encodes the cases, once, if the encoder of pictures is frozen and there is
// room for their tokens. The weights must have been loaded.
func (s *Session) remember(ctx context.Context, cases []dataset.Case) error {
	encoder := s.Pipeline.Member(sdk.KindEncoder)
	if s.Config.Task != config.Classify || !frozen(encoder) || s.residents() {
		return nil
	}
	if s.Tokens == nil {
		s.Tokens = NewTokenStore(int64(s.Config.DataSettings.CacheMiB) << 20)
	}
	key, err := s.encoderKey(ctx, encoder)
	if err != nil {
		return err
	}
	r := s.Tokens.of(key)
	unknown := r.without(cases)
	if len(unknown) > 0 {
		err = s.encode(ctx, unknown, func(b *dataset.Batch, outputs map[string]*tensor.Tensor) bool { return r.keep(b.Cases, outputs) })
	}
	s.remembered = r
	return err
}

// encode runs cases through the encoder alone, until visit returns false.
func (s *Session) encode(ctx context.Context, cases []dataset.Case, visit func(*dataset.Batch, map[string]*tensor.Tensor) bool) (err error) {
	alone := &pipeline.Pipeline{Members: []*pipeline.Member{s.Pipeline.Member(sdk.KindEncoder)}}
	loader, err := s.loader(ctx, cases, false, 0, 0)
	if err != nil {
		return err
	}
	defer loader.Close()
	for more := true; more; {
		b, err := loader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		run, err := alone.Forward(ctx, pipeline.ForwardOptions{}, b.Tensors)
		if err != nil {
			return err
		}
		outputs := map[string]*tensor.Tensor{}
		for _, port := range alone.Members[0].Makes() {
			t := run.Outputs[port.Name]
			if t == nil || len(t.Shape) == 0 || t.Shape[0] != int64(len(b.Cases)) {
				return errors.Join(s.blame(sdk.KindEncoder, "output %q is %v, want %d cases", port.Name, t, len(b.Cases)), run.Release(ctx))
			}
			outputs[port.Name] = t
		}
		more = visit(b, outputs)
		if err := run.Release(ctx); err != nil {
			return err
		}
	}
	return nil
}

// encoderKey is a hash over all that the tokens of a case depend on besides its
// images: the plugin, its settings and weights, and how images are loaded.
func (s *Session) encoderKey(ctx context.Context, encoder *pipeline.Member) (key [sha256.Size]byte, err error) {
	c := &s.Config.DataSettings
	h := sha256.New()
	about := []any{encoder.Plugin, encoder.Stage.Name, encoder.Resolved, s.Data.Hash, s.Data.Spec, c.Size, c.Zoom, c.Slices, c.SliceSpacingMM, encoder.Opened.Inputs}
	for _, r := range s.records {
		if r.Role == string(sdk.KindEncoder) {
			about = append(about, r.SHA256)
		}
	}
	if err := json.NewEncoder(h).Encode(about); err != nil {
		return key, err
	}
	dir, err := os.MkdirTemp("", "alignedfusion-encoder-")
	if err != nil {
		return key, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, err := encoder.Instance.Save(ctx, dir)
	if err != nil {
		return key, &pipeline.StageError{Role: sdk.KindEncoder, Plugin: encoder.Plugin, Call: "save", Err: err}
	}
	for _, name := range files {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return key, fmt.Errorf("weights of the frozen encoder: %w", err)
		}
		h.Write(data)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Features are the mean tokens of cases as a frozen encoder sees them, [cases][C], with
// several images one behind the other.
func Features(ctx context.Context, o Options, cases []dataset.Case) (_ [][]float64, err error) {
	c := *o.Config
	c.Fusion, c.Head = config.Stage{Plugin: config.None}, config.Stage{Plugin: config.None}
	o.Config, o.Schema, o.Train = &c, nil, false
	s, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	encoder := s.Pipeline.Member(sdk.KindEncoder)
	if !frozen(encoder) {
		return nil, &ConfigError{Err: fmt.Errorf("encoder %s is not frozen: features of an untrained network say nothing; set encoder.frozen=true and its weights", encoder.Plugin)}
	}
	if s.Tokens != nil {
		if err := s.remember(ctx, cases); err != nil {
			return nil, err
		}
	}
	var out [][]float64
	var failed error
	visit := func(b *dataset.Batch, outputs map[string]*tensor.Tensor) bool {
		rows, err := s.meanTokens(outputs, len(b.Cases))
		out, failed = append(out, rows...), err
		return err == nil
	}
	if !s.remembered.covers(cases) {
		err = s.encode(ctx, cases, visit)
		return out, errors.Join(err, failed)
	}
	for i := range cases {
		outputs := map[string]*tensor.Tensor{}
		s.remembered.add(outputs, cases[i:i+1])
		if !visit(&dataset.Batch{Cases: cases[i : i+1]}, outputs) {
			break
		}
	}
	return out, failed
}

// meanTokens averages the tokens of n cases, modality by modality.
func (s *Session) meanTokens(outputs map[string]*tensor.Tensor, n int) ([][]float64, error) {
	rows := make([][]float64, n)
	for _, port := range s.Pipeline.Member(sdk.KindEncoder).Makes() { // in one order for all batches
		t := outputs[port.Name]
		v, err := t.Float32s()
		if err != nil || len(t.Shape) != 3 {
			return nil, s.blame(sdk.KindEncoder, "output %q is %v, want FP32 [N T C]", port.Name, t)
		}
		tokens, width := int(t.Shape[1]), int(t.Shape[2])
		for i := range rows {
			mean := make([]float64, width)
			for k, x := range v[i*tokens*width : (i+1)*tokens*width] {
				mean[k%width] += float64(x) / float64(tokens)
			}
			rows[i] = append(rows[i], mean...)
		}
	}
	return rows, nil
}
