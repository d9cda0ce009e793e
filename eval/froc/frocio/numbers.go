package frocio

import (
	"encoding/binary"
	"fmt"
	"math"
)

// numberReader returns a function that reads one little-endian number of a numpy
// type code without its byte order, and the number's size in bytes.
func numberReader(code string) (func([]byte) float64, int, error) {
	le := binary.LittleEndian
	switch code {
	case "b1", "u1":
		return func(b []byte) float64 { return float64(b[0]) }, 1, nil
	case "i1":
		return func(b []byte) float64 { return float64(int8(b[0])) }, 1, nil
	case "u2":
		return func(b []byte) float64 { return float64(le.Uint16(b)) }, 2, nil
	case "i2":
		return func(b []byte) float64 { return float64(int16(le.Uint16(b))) }, 2, nil
	case "u4":
		return func(b []byte) float64 { return float64(le.Uint32(b)) }, 4, nil
	case "i4":
		return func(b []byte) float64 { return float64(int32(le.Uint32(b))) }, 4, nil
	case "u8":
		return func(b []byte) float64 { return float64(le.Uint64(b)) }, 8, nil
	case "i8":
		return func(b []byte) float64 { return float64(int64(le.Uint64(b))) }, 8, nil
	case "f4":
		return func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) }, 4, nil
	case "f8":
		return func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }, 8, nil
	}
	return nil, 0, fmt.Errorf("has the type %q, want a boolean, integer, float32, float64 or string", code)
}

func finite(score float64) error {
	if math.IsNaN(score) || math.IsInf(score, 0) {
		return fmt.Errorf("score is %v, want a finite number", score)
	}
	return nil
}
