package pipeline

import (
	"encoding/binary"
	"hash/fnv"
)

// Seed derives a seed from a parent and the names or numbers of what it is for, so
// that every source of randomness in a run is a function of the run's seed alone.
func Seed(parent uint64, parts ...any) uint64 {
	h := fnv.New64a()
	var word [8]byte
	write := func(n uint64) {
		binary.LittleEndian.PutUint64(word[:], n)
		h.Write(word[:])
	}
	write(parent)
	for _, part := range parts {
		switch v := part.(type) {
		case string:
			write(uint64(len(v)))
			h.Write([]byte(v))
		case int:
			write(uint64(v))
		case uint64:
			write(v)
		}
	}
	// FNV leaves neighbours close together; the finaliser of splitmix64 spreads them.
	z := h.Sum64()
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
