package stat

import (
	"hash/maphash"
	"math"
)

// Key is a number whose order is that of v; equal values, -0 and 0 too, have one key. v must
// not be NaN.
func Key(v float64) uint64 {
	if v == 0 {
		v = 0 // not -0
	}
	bits := math.Float64bits(v)
	if bits>>63 == 1 {
		return ^bits
	}
	return bits | 1<<63
}

// FromKey is the value of a key.
func FromKey(key uint64) float64 {
	if key>>63 == 1 {
		return math.Float64frombits(key &^ (1 << 63))
	}
	return math.Float64frombits(^key)
}

// digitBits is the width of the digits that SortKeys sorts by.
const digitBits, digits = 11, 6

// SortKeys sorts keys in ascending order, and with each what stands beside it, unless that is
// nil. It sorts by digits, the last first: the time is that of six readings and writings.
func SortKeys(keys []uint64, beside []uint32) {
	if len(keys) <= fewKeys {
		sortFewKeys(keys, beside)
		return
	}
	var counts [digits][1 << digitBits]uint32
	for _, k := range keys {
		for d := range counts {
			counts[d][k>>(d*digitBits)&(1<<digitBits-1)]++
		}
	}
	from, to := keys, []uint64(nil)
	besideFrom, besideTo := beside, []uint32(nil)
	for d := range counts {
		count, shift := &counts[d], d*digitBits
		if int(count[keys[0]>>shift&(1<<digitBits-1)]) == len(keys) {
			continue // all have one digit
		}
		if to == nil {
			to, besideTo = make([]uint64, len(keys)), make([]uint32, len(beside))
		}
		place := uint32(0)
		for i, n := range count {
			count[i], place = place, place+n
		}
		for i, k := range from {
			at := &count[k>>shift&(1<<digitBits-1)]
			to[*at] = k
			if beside != nil {
				besideTo[*at] = besideFrom[i]
			}
			*at++
		}
		from, to, besideFrom, besideTo = to, from, besideTo, besideFrom
	}
	if &from[0] != &keys[0] {
		copy(keys, from)
		copy(beside, besideFrom)
	}
}

// fewKeys are sorted sooner than the counts of digits are cleared.
const fewKeys = 64

func sortFewKeys(keys []uint64, beside []uint32) {
	for i := 1; i < len(keys); i++ {
		for j := i; j > 0 && keys[j-1] > keys[j]; j-- {
			keys[j-1], keys[j] = keys[j], keys[j-1]
			if beside != nil {
				beside[j-1], beside[j] = beside[j], beside[j-1]
			}
		}
	}
}

// Twice returns the places of two equal texts of n, of several the first that repeats one. It
// sorts hashes, which is quicker than to fill a map.
func Twice(n int, text func(i int) string) (first, second int, twice bool) {
	keys, places, seed := make([]uint64, n), make([]uint32, n), maphash.MakeSeed()
	for i := range keys {
		keys[i], places[i] = maphash.String(seed, text(i)), uint32(i)
	}
	SortKeys(keys, places) // which keeps the order of equal ones
	second = n
	for i := range keys {
		for j := i + 1; j < n && keys[j] == keys[i]; j++ {
			a, b := int(places[i]), int(places[j])
			if text(a) != text(b) {
				continue
			}
			if b < second {
				first, second, twice = a, b, true
			}
			break
		}
	}
	return first, second, twice
}
