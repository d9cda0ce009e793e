package embed

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestHashedNGramsEqualsThePythonReference(t *testing.T) {
	data, err := os.ReadFile("testdata/hashed.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Text      string
		Dim       int
		Embedding []float64
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		got := HashedNGrams(c.Text, c.Dim)
		for i, want := range c.Embedding {
			if math.Abs(float64(got[i])-want) > 1e-6 {
				t.Errorf("%q[%d] = %v, want %v", c.Text, i, got[i], want)
			}
		}
	}
}

func dot(a, b []float32) (s float64) {
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

func TestHashedNGramsTellsPromptsApart(t *testing.T) {
	prompts := []string{"region: back.", "region: face.", "region: possibly face.", "region: no.", "itch: no.", "age: 30 to 45.", "age: 45 to 60."}
	for i, p := range prompts {
		for j, q := range prompts[:i] {
			if d := dot(HashedNGrams(p, DefaultDim), HashedNGrams(q, DefaultDim)); d > 0.95 {
				t.Errorf("cosine of %q and %q is %.3f (%d, %d)", p, q, d, i, j)
			}
		}
	}
}

func TestPropertyHashedNGramsHaveUnitLength(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		v := HashedNGrams(text, rapid.IntRange(8, 300).Draw(t, "dim"))
		if n := dot(v, v); n != 0 && math.Abs(n-1) > 1e-5 {
			t.Fatalf("squared length %v", n)
		}
	})
}

func counting(calls *[]string) Encoder {
	return Encoder{ID: "test", Dim: 3, Encode: func(p []string) ([][]float32, error) {
		*calls = append(*calls, p...)
		out := make([][]float32, len(p))
		for i := range p {
			out[i] = []float32{float32(len(p[i])), 1, 2}
		}
		return out, nil
	}}
}

func TestCacheAsksTheEncoderOnce(t *testing.T) {
	var calls []string
	e := counting(&calls)
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	prompts := []string{"a: x.", "", "bb: y.", "a: x."}
	first, s1, err := c.Embed(e, prompts)
	if err != nil {
		t.Fatal(err)
	}
	second, s2, err := c.Embed(e, prompts)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]float32{{5, 1, 2}, {0, 0, 0}, {6, 1, 2}, {5, 1, 2}}
	if diff := cmp.Diff(want, first) + cmp.Diff(want, second); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a: x.", "bb: y."}, calls); diff != "" {
		t.Error(diff)
	}
	if (s1 != Stats{Misses: 2}) || (s2 != Stats{Hits: 2}) {
		t.Errorf("stats %+v then %+v", s1, s2)
	}
	e.ID = "other weights"
	if _, s, err := c.Embed(e, prompts); err != nil || s.Misses != 2 {
		t.Errorf("another encoder met the first one's cache: %+v, %v", s, err)
	}
}

func TestCacheDetectsEveryFlippedByteAndTruncation(t *testing.T) {
	var calls []string
	e := counting(&calls)
	c := Cache{Dir: t.TempDir()}
	if _, _, err := c.Embed(e, []string{"a: x."}); err != nil {
		t.Fatal(err)
	}
	path := c.path(e, "a: x.")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := c.read(e, "a: x."); !errors.Is(err, errCorrupt) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	if err := os.WriteFile(path, good[:len(good)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	got, s, err := c.Embed(e, []string{"a: x."})
	if err != nil || s != (Stats{Misses: 1, Corrupt: 1}) || got[0][0] != 5 {
		t.Errorf("truncated file: %v %+v %v", got, s, err)
	}
	if _, s, _ := c.Embed(e, []string{"a: x."}); s.Hits != 1 {
		t.Errorf("the corrupt file was not replaced: %+v", s)
	}
}

func TestEncoderThatBreaksItsContractIsRefused(t *testing.T) {
	nan := float32(math.NaN())
	for want, f := range map[string]func([]string) ([][]float32, error){
		"2 embeddings for 1": func([]string) ([][]float32, error) { return [][]float32{{1}, {2}}, nil },
		"has 2 numbers":      func([]string) ([][]float32, error) { return [][]float32{{1, 2}}, nil },
		"not finite":         func([]string) ([][]float32, error) { return [][]float32{{nan}}, nil },
		"out of memory":      func([]string) ([][]float32, error) { return nil, errors.New("out of memory") },
	} {
		c := Cache{Dir: t.TempDir()}
		_, _, err := c.Embed(Encoder{ID: "bad", Dim: 1, Encode: f}, []string{"p"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		if left, _ := filepath.Glob(filepath.Join(c.Dir, "*", "*")); len(left) != 0 {
			t.Errorf("%s: left %v", want, left)
		}
	}
}

func TestHashedRefusesSillyDimensions(t *testing.T) {
	for _, dim := range []int{-1, 1, 1 << 20} {
		if _, err := Hashed(dim); err == nil {
			t.Errorf("dimension %d accepted", dim)
		}
	}
	e, err := Hashed(0)
	if err != nil || e.Dim != DefaultDim || !strings.HasPrefix(e.ID, HashedName) {
		t.Errorf("%+v %v", e, err)
	}
}
