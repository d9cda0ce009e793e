package stat

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestKeysHaveTheOrderOfTheirValues(t *testing.T) {
	values := []float64{math.Inf(-1), -math.MaxFloat64, -1.5, -1, -math.SmallestNonzeroFloat64, 0, math.SmallestNonzeroFloat64, 0.1, 1, 1e300, math.Inf(1)}
	for i, v := range values {
		if FromKey(Key(v)) != v {
			t.Errorf("the value of the key of %v is %v", v, FromKey(Key(v)))
		}
		if i > 0 && Key(values[i-1]) >= Key(v) {
			t.Errorf("the keys of %v and %v do not ascend", values[i-1], v)
		}
	}
	if Key(math.Copysign(0, -1)) != Key(0) {
		t.Error("-0 and 0 have two keys")
	}
}

func TestSortKeysSortsWithWhatStandsBeside(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 2, 9, 1000, 5000} {
		for _, draw := range []func() uint64{rng.Uint64, func() uint64 { return Key(rng.Float64()) }, func() uint64 { return rng.Uint64N(5) << 30 }} {
			type pair struct {
				key    uint64
				beside uint32
			}
			keys, beside, want := make([]uint64, n), make([]uint32, n), make([]pair, n)
			for i := range keys {
				keys[i], beside[i] = draw(), uint32(i)
				want[i] = pair{keys[i], beside[i]}
			}
			slices.SortStableFunc(want, func(a, b pair) int {
				if a.key < b.key {
					return -1
				}
				if a.key > b.key {
					return 1
				}
				return 0
			})
			alone := slices.Clone(keys)
			SortKeys(alone, nil)
			SortKeys(keys, beside)
			for i := range want {
				if keys[i] != want[i].key || beside[i] != want[i].beside || alone[i] != keys[i] {
					t.Fatalf("%d keys: place %d holds %v, %d and %v", n, i, keys[i], beside[i], alone[i])
				}
			}
		}
	}
}

func TestTwiceFindsTheFirstTextThatComesAgain(t *testing.T) {
	for _, c := range []struct {
		texts         []string
		first, second int
		twice         bool
	}{
		{nil, 0, 0, false},
		{[]string{"a", "b", "c"}, 0, 3, false},
		{[]string{"a", "b", "c", "b", "a", "b"}, 1, 3, true},
		{[]string{"x", "x", "x"}, 0, 1, true},
	} {
		first, second, twice := Twice(len(c.texts), func(i int) string { return c.texts[i] })
		if first != c.first || second != c.second || twice != c.twice {
			t.Errorf("%q: %d, %d, %v", c.texts, first, second, twice)
		}
	}
}
