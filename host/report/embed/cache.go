package embed

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// magic starts a cache file; the last byte is the version of the layout.
const magic = "AFTEMB\x00\x01"

// Cache keeps embeddings on disk, one file per (encoder, prompt). Several
// processes may share a folder: files appear whole, by rename. The zero value
// keeps nothing.
type Cache struct {
	// Dir is the cache's folder, created when needed; "" keeps nothing.
	Dir string
}

// Stats counts what an Embed call met.
type Stats struct {
	Hits    int // prompts read from disk
	Misses  int // prompts that the encoder embedded
	Corrupt int // files that failed their check and were made anew; part of Misses
}

// Embed returns one embedding of e.Dim numbers per prompt, in order, asking the
// encoder once for every distinct prompt that is not on disk. An empty prompt
// (an unmentioned attribute) gives zeros and never reaches the encoder.
func (c Cache) Embed(e Encoder, prompts []string) ([][]float32, Stats, error) {
	var stats Stats
	if e.ID == "" || e.Dim <= 0 || e.Encode == nil {
		return nil, stats, errors.New("text embedding: the encoder needs an ID, a positive dimension and a function")
	}
	known := map[string][]float32{"": make([]float32, e.Dim)}
	var missing []string
	for _, p := range prompts {
		if _, ok := known[p]; ok {
			continue
		}
		known[p] = nil
		v, err := c.read(e, p)
		switch {
		case err == nil:
			known[p] = v
			stats.Hits++
			continue
		case errors.Is(err, errCorrupt):
			stats.Corrupt++
		case !errors.Is(err, fs.ErrNotExist):
			return nil, stats, fmt.Errorf("text embedding cache: %w", err)
		}
		missing = append(missing, p)
	}
	if len(missing) > 0 {
		got, err := e.Encode(missing)
		if err != nil {
			return nil, stats, fmt.Errorf("text encoder %s: %w", e.ID, err)
		}
		if len(got) != len(missing) {
			return nil, stats, fmt.Errorf("text encoder %s: %d embeddings for %d prompts", e.ID, len(got), len(missing))
		}
		for i, v := range got {
			if len(v) != e.Dim {
				return nil, stats, fmt.Errorf("text encoder %s: embedding %d has %d numbers, want %d", e.ID, i, len(v), e.Dim)
			}
			for _, x := range v {
				if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
					return nil, stats, fmt.Errorf("text encoder %s: embedding %d is not finite", e.ID, i)
				}
			}
			if err := c.write(e, missing[i], v); err != nil {
				return nil, stats, fmt.Errorf("text embedding cache: %w", err)
			}
			known[missing[i]] = v
			stats.Misses++
		}
	}
	out := make([][]float32, len(prompts))
	for i, p := range prompts {
		out[i] = append([]float32(nil), known[p]...)
	}
	return out, stats, nil
}

// errCorrupt is returned by read when a file is not what write left.
var errCorrupt = errors.New("corrupt cache file")

func (c Cache) path(e Encoder, prompt string) string {
	enc := sha256.Sum256([]byte(e.ID))
	key := sha256.Sum256([]byte(prompt))
	return filepath.Join(c.Dir, hex.EncodeToString(enc[:8]), hex.EncodeToString(key[:])+".emb")
}

// A file is: magic, sha256 of the rest, then the encoder ID and the prompt (each
// with a uint32 length), the dimension (uint32) and the float32 numbers, all
// little-endian.
func (c Cache) read(e Encoder, prompt string) ([]float32, error) {
	if c.Dir == "" {
		return nil, fs.ErrNotExist
	}
	path := c.path(e, prompt)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	head := len(magic) + sha256.Size
	body := encodeBody(e, prompt, make([]float32, e.Dim))
	if len(data) != head+len(body) || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: %s", errCorrupt, path)
	}
	sum := sha256.Sum256(data[head:])
	numbers := len(body) - 4*e.Dim
	if !bytes.Equal(sum[:], data[len(magic):head]) || !bytes.Equal(data[head:head+numbers], body[:numbers]) {
		return nil, fmt.Errorf("%w: %s", errCorrupt, path)
	}
	v := make([]float32, e.Dim)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[head+numbers+4*i:]))
	}
	return v, nil
}

func encodeBody(e Encoder, prompt string, v []float32) []byte {
	var b []byte
	for _, s := range []string{e.ID, prompt} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func (c Cache) write(e Encoder, prompt string, v []float32) error {
	if c.Dir == "" {
		return nil
	}
	body := encodeBody(e, prompt, v)
	sum := sha256.Sum256(body)
	data := append(append([]byte(magic), sum[:]...), body...)
	path := c.path(e, prompt)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, data)
}
