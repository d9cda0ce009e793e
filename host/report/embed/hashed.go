// Package embed turns attribute prompts into vectors: an embedded default
// that needs no weights, and an on-disk cache for any frozen text encoder.
package embed

import (
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// HashedName names the embedded encoder. Every output that used it says so: it
// knows spelling, not meaning.
const HashedName = "hashed-ngram-v1"

// DefaultDim is the width E of the embedded encoder.
const DefaultDim = 128

// Encoder is a frozen text encoder.
type Encoder struct {
	// ID names the encoder and its weights; equal IDs give equal embeddings.
	ID string
	// Dim is the width E of an embedding.
	Dim int
	// Center asks for Centered embeddings of an attribute's prompts. ID does not say so.
	Center bool
	// Encode returns one embedding of Dim numbers per prompt, in order.
	Encode func(prompts []string) ([][]float32, error)
}

// Hashed returns the embedded encoder of width dim (0 means DefaultDim).
func Hashed(dim int) (Encoder, error) {
	if dim == 0 {
		dim = DefaultDim
	}
	if dim < 8 || dim > 1<<16 {
		return Encoder{}, fmt.Errorf("%s: dimension %d; want 8 to 65536", HashedName, dim)
	}
	return Encoder{
		ID:  fmt.Sprintf("%s-%d", HashedName, dim),
		Dim: dim,
		Encode: func(prompts []string) ([][]float32, error) {
			out := make([][]float32, len(prompts))
			for i, p := range prompts {
				out[i] = HashedNGrams(p, dim)
			}
			return out, nil
		},
	}, nil
}

// HashedNGrams embeds text by feature hashing (Weinberger et al. 2009): words
// (weight 1), neighbouring word pairs (1) and the character 3- to 5-grams of
// each word between boundary marks (weight 1/sqrt(count), so that a long word
// does not outweigh the others) are hashed with FNV-1a to an index and a sign,
// summed and L2-normalised. Case, accents and punctuation are ignored. The
// result has dim numbers; it is zero only for text without letter or digit.
func HashedNGrams(text string, dim int) []float32 {
	words := strings.FieldsFunc(strings.ToLower(norm.NFKD.String(text)), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.Is(unicode.Mn, r)
	})
	sum := make([]float64, dim)
	add := func(feature string, weight float64) {
		h := fnv.New64a()
		h.Write([]byte(feature))
		v := mix(h.Sum64())
		if v>>63 == 1 {
			weight = -weight
		}
		sum[(v&(1<<63-1))%uint64(dim)] += weight
	}
	last := ""
	for _, w := range words {
		w = strings.Map(func(r rune) rune {
			if unicode.Is(unicode.Mn, r) {
				return -1
			}
			return r
		}, w)
		if w == "" {
			continue
		}
		add("w:"+w, 1)
		if last != "" {
			add("b:"+last+" "+w, 1)
		}
		last = w
		r := []rune("^" + w + "$")
		count := 0
		for n := 3; n <= 5; n++ {
			count += max(len(r)-n+1, 0)
		}
		for n := 3; n <= 5; n++ {
			for i := 0; i+n <= len(r); i++ {
				add("c:"+string(r[i:i+n]), 1/math.Sqrt(float64(count)))
			}
		}
	}
	var norm2 float64
	for _, v := range sum {
		norm2 += v * v
	}
	out := make([]float32, dim)
	if norm2 > 0 {
		for i, v := range sum {
			out[i] = float32(v / math.Sqrt(norm2))
		}
	}
	return out
}

// mix is the finaliser of MurmurHash3: FNV-1a leaves the high bits of short
// strings nearly constant, and the sign is one of them.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
