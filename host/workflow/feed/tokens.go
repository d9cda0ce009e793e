package feed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"github.com/alignedfusion/alignedfusion/host/npz"
	"github.com/alignedfusion/alignedfusion/host/pipeline"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
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
func (s *TokenStore) of(key [sha256.Size]byte) *tokenCache {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.encoders[key] == nil {
		s.encoders[key] = map[string]map[string]*tensor.Tensor{}
	}
	return &tokenCache{store: s, cases: s.encoders[key], slides: map[string]*slideTokens{}}
}

// tokenCache are what one encoder with one set of weights made of cases: [1,T,C] each, of a
// slide [patches,T,C].
type tokenCache struct {
	store *TokenStore
	cases map[string]map[string]*tensor.Tensor
	// dir keeps the tokens of slides from run to run, a file each; "" keeps none.
	dir string
	// slides are those of whose patches some are encoded.
	slides map[string]*slideTokens
}

// slideTokens are the tokens of a slide's patches, bag by bag.
type slideTokens struct {
	rows  map[string]*tensor.Tensor // by port
	known []bool                    // by patch
	left  int
}

// covers reports whether the tokens of all cases are known.
func (r *tokenCache) covers(cases []dataset.Case) bool {
	return r != nil && len(r.without(cases)) == 0
}

func (r *tokenCache) without(cases []dataset.Case) (unknown []dataset.Case) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for i := range cases {
		if r.cases[cases[i].ID] == nil {
			unknown = append(unknown, cases[i])
		}
	}
	return unknown
}

// add puts the tokens of a batch that came without images among its inputs; of slides those of
// the patches in bags, nil: all.
func (r *tokenCache) add(inputs map[string]*tensor.Tensor, cases []dataset.Case, bags [][]int) {
	if r == nil || len(cases) == 0 || !r.covers(cases) {
		return
	}
	for name := range inputs {
		if ports.Pixels(name) {
			return
		}
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for port, first := range r.cases[cases[0].ID] {
		shape := slices.Clone(first.Shape)
		shape[0], shape[1] = int64(len(cases)), shape[0]*shape[1]
		if bags != nil {
			shape[1] = int64(len(bags[0])) * first.Shape[1]
		}
		data := make([]byte, 0, len(first.Data)*len(cases))
		for i := range cases {
			t := r.cases[cases[i].ID][port]
			if bags == nil {
				data = append(data, t.Data...)
				continue
			}
			size := len(t.Data) / int(t.Shape[0]) // of a patch
			for _, k := range bags[i] {
				data = append(data, t.Data[k*size:(k+1)*size]...)
			}
		}
		inputs[port] = &tensor.Tensor{DType: first.DType, Shape: shape, Data: data}
	}
}

// keep takes the rows of a batch; false when there is no room for them. total are the patches
// of each slide.
func (r *tokenCache) keep(b *dataset.Batch, outputs map[string]*tensor.Tensor, total map[string]int) (bool, error) {
	cases := b.Cases
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	if b.Bags != nil {
		return r.keepBags(b, outputs, total)
	}
	if !r.room(outputs) {
		return false, nil
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
	return true, nil
}

// room takes the bytes of tensors from what is left of the store; false where it is not enough.
func (r *tokenCache) room(tensors map[string]*tensor.Tensor) bool {
	bytes := int64(0)
	for _, t := range tensors {
		bytes += int64(len(t.Data))
	}
	if r.store.used+bytes > r.store.limit {
		return false
	}
	r.store.used += bytes
	return true
}

// keepBags takes the tokens [N,P·T,C] of bags to their places among those of their slides; a
// slide of which all patches are there is written into the folder.
func (r *tokenCache) keepBags(b *dataset.Batch, outputs map[string]*tensor.Tensor, total map[string]int) (bool, error) {
	for i := range b.Cases {
		id := b.Cases[i].ID
		s := r.slides[id]
		if s == nil {
			s = &slideTokens{map[string]*tensor.Tensor{}, make([]bool, total[id]), total[id]}
			for port, t := range outputs {
				rows, err := tensor.New(t.DType, int64(total[id]), t.Shape[1]/int64(len(b.Bags[i])), t.Shape[2])
				if err != nil {
					return false, err
				}
				s.rows[port] = rows
			}
			if !r.room(s.rows) {
				return false, nil
			}
			r.slides[id] = s
		}
		for port, t := range outputs {
			size := len(t.Data) / len(b.Cases) / len(b.Bags[i])
			from := t.Data[i*len(t.Data)/len(b.Cases):]
			for k, patch := range b.Bags[i] {
				copy(s.rows[port].Data[patch*size:(patch+1)*size], from[k*size:(k+1)*size])
			}
		}
		for _, patch := range b.Bags[i] {
			if !s.known[patch] {
				s.known[patch] = true
				s.left--
			}
		}
		if s.left > 0 {
			continue
		}
		r.cases[id] = s.rows
		delete(r.slides, id)
		if r.dir != "" {
			if err := npz.Write(r.file(id), s.rows); err != nil {
				return false, fmt.Errorf("data.cache_dir: %w", err)
			}
		}
	}
	return true, nil
}

// file is where the tokens of a slide are kept.
func (r *tokenCache) file(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(r.dir, hex.EncodeToString(sum[:12])+".npz")
}

// readSlides takes the tokens of slides from the folder, as far as they are there and whole.
func (r *tokenCache) readSlides(cases []dataset.Case) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for i := range cases {
		id := cases[i].ID
		if len(cases[i].Patches) == 0 || r.cases[id] != nil {
			continue
		}
		rows, err := npz.Read(r.file(id))
		whole := err == nil && len(rows) > 0
		for _, t := range rows {
			whole = whole && len(t.Shape) == 3 && t.Shape[0] == int64(len(cases[i].Patches))
		}
		if whole && r.room(rows) {
			r.cases[id] = rows
		}
	}
}

// Frozen reports whether the encoder says that its tokens depend on the image alone.
func Frozen(m *pipeline.Member) bool {
	return m != nil && m.Opened.TrainableCount == 0 &&
		slices.ContainsFunc(m.Opened.Notes, func(note string) bool { return strings.HasPrefix(note, "frozen") })
}

// residents reports whether a stage lives on what another one keeps in their process.
func residents(p *pipeline.Pipeline) bool {
	return slices.ContainsFunc(p.Members, func(m *pipeline.Member) bool {
		return slices.ContainsFunc(m.Opened.Inputs, func(p sdk.Port) bool { return p.Resident })
	})
}

// encodedAtOnce bounds the patches of a slide whose tokens are made together, to be kept.
const encodedAtOnce = 64

// CacheTokens encodes the cases, once, if the encoder of pictures is frozen and there is
// room for their tokens; from then on they take the place of the pictures. The weights
// must have been loaded. pluginSHA256 is the encoder's; a nil store keeps the tokens for
// this feed alone.
func (f *Feed) CacheTokens(ctx context.Context, p *pipeline.Pipeline, pluginSHA256 string, store *TokenStore, cases []dataset.Case) error {
	if f.Config.Task != config.Classify || !Frozen(f.Encoder) || residents(p) {
		return nil
	}
	if store == nil {
		store = NewTokenStore(int64(f.Config.DataSettings.CacheMiB) << 20)
	}
	key, err := f.encoderKey(ctx, pluginSHA256)
	if err != nil {
		return err
	}
	cache := store.of(key)
	total := map[string]int{}
	for i := range cases {
		total[cases[i].ID] = len(cases[i].Patches)
	}
	if dir := f.Config.DataSettings.CacheDir; dir != "" && slices.ContainsFunc(cases, func(c dataset.Case) bool { return len(c.Patches) > 0 }) {
		cache.dir = filepath.Join(dir, "tokens", hex.EncodeToString(key[:12]))
		if err := os.MkdirAll(cache.dir, 0o777); err != nil {
			return fmt.Errorf("data.cache_dir: %w", err)
		}
		cache.readSlides(cases)
	}
	// What is shown of a slide later does not matter here: pictures take more memory than tokens.
	f.bagSize = min(encodedAtOnce, f.Config.DataSettings.BagSize)
	defer func() { f.bagSize = 0 }()
	if unknown, _ := dataset.Bags(cache.without(cases), f.bagSize); len(unknown) > 0 {
		var failed error
		err = f.Encode(ctx, unknown, func(b *dataset.Batch, outputs map[string]*tensor.Tensor) (more bool) {
			more, failed = cache.keep(b, outputs, total)
			return more && failed == nil
		})
		err = errors.Join(err, failed)
	}
	f.tokens = cache
	return err
}

// Encode runs cases through the encoder alone, until visit returns false.
func (f *Feed) Encode(ctx context.Context, cases []dataset.Case, visit func(*dataset.Batch, map[string]*tensor.Tensor) bool) (err error) {
	alone := &pipeline.Pipeline{Members: []*pipeline.Member{f.Encoder}}
	loader, err := f.Loader(ctx, cases)
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
		run, err := alone.Forward(ctx, pipeline.ForwardOptions{Absent: f.absentTokens(b)}, b.Tensors)
		if err != nil {
			return err
		}
		outputs := map[string]*tensor.Tensor{}
		for _, port := range f.Encoder.Makes() {
			t := run.Outputs[port.Name]
			if t == nil || len(t.Shape) == 0 || t.Shape[0] != int64(len(b.Cases)) {
				return errors.Join(f.Encoder.WrongOutput("output %q is %v, want %d cases", port.Name, t, len(b.Cases)), run.Release(ctx))
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
func (f *Feed) encoderKey(ctx context.Context, pluginSHA256 string) (key [sha256.Size]byte, err error) {
	c, encoder := &f.Config.DataSettings, f.Encoder
	h := sha256.New()
	about := []any{encoder.Plugin, encoder.Stage.Name, encoder.Resolved, f.Data.Hash, f.Data.Spec, c.Size, c.Zoom, c.Slices, c.SliceSpacingMM, encoder.Opened.Inputs, pluginSHA256}
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

// Tokens visits the tokens of cases, in batches: the cached ones where there are.
func (f *Feed) Tokens(ctx context.Context, cases []dataset.Case, visit func(*dataset.Batch, map[string]*tensor.Tensor) bool) error {
	if !f.tokens.covers(cases) {
		return f.Encode(ctx, cases, visit)
	}
	for i := range cases {
		outputs := map[string]*tensor.Tensor{}
		f.tokens.add(outputs, cases[i:i+1], nil)
		if !visit(&dataset.Batch{Cases: cases[i : i+1]}, outputs) {
			break
		}
	}
	return nil
}

// MeanTokens averages the tokens of n cases, modality by modality.
func (f *Feed) MeanTokens(outputs map[string]*tensor.Tensor, n int) ([][]float64, error) {
	rows := make([][]float64, n)
	for _, port := range f.Encoder.Makes() { // in one order for all batches
		t := outputs[port.Name]
		v, err := t.Float32s()
		if err != nil || len(t.Shape) != 3 {
			return nil, f.Encoder.WrongOutput("output %q is %v, want FP32 [N T C]", port.Name, t)
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
