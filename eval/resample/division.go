package resample

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Division shares the costly loops of an evaluation (replicates, jackknife, permutations)
// among processes that run the same evaluation. Of n processes each makes every n-th item and
// records it; one that has the records of all takes every item from them. The figures of a
// process that makes its share alone are of no use, but its way through the evaluation is that
// of all others, so that the loops come in one order. A nil Division makes everything.
type Division struct {
	// Share counts from 0 to Shares-1.
	Share, Shares int
	// Made are this process's values, loop by loop.
	Made []Values
	// All are those of every share, when they are put together: All[share][loop].
	All  [][]Values
	loop int // that is taken next
}

// Values are numbers whose text keeps every bit, and NaN.
type Values []float64

// MarshalText writes eight bytes a number in base64.
func (v Values) MarshalText() ([]byte, error) {
	var raw []byte
	for _, x := range v {
		raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(x))
	}
	return base64.StdEncoding.AppendEncode(nil, raw), nil
}

// UnmarshalText reads what MarshalText writes.
func (v *Values) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.AppendDecode(nil, text)
	if err == nil && len(raw)%8 != 0 {
		err = fmt.Errorf("%d bytes are no numbers of 8", len(raw))
	}
	for ; err == nil && len(raw) > 0; raw = raw[8:] {
		*v = append(*v, math.Float64frombits(binary.LittleEndian.Uint64(raw)))
	}
	return err
}

// ErrDivision is returned for records that are not of this evaluation.
var ErrDivision = errors.New("the shards' replicates are not those of this evaluation")

// Mine tells whether this process computes the i-th item of a loop.
func (d *Division) Mine(i int) bool {
	return d == nil || d.All == nil && i%d.Shares == d.Share
}

// Rows exchanges the items of a loop, size numbers each; nil ones are no part of it. The
// process's own are recorded, and those of all shares put in where they are there. Each
// process must call it at the end of each loop.
func (d *Division) Rows(rows [][]float64, size int) error {
	if d == nil {
		return nil
	}
	if d.All == nil {
		var made Values
		for i, row := range rows {
			if row != nil && d.Mine(i) {
				made = append(made, row...)
			}
		}
		d.Made = append(d.Made, made)
		return nil
	}
	left, err := d.take()
	if err != nil {
		return err
	}
	for i, row := range rows {
		if row == nil {
			continue
		}
		from := &left[i%d.Shares]
		if len(*from) < size {
			return ErrDivision
		}
		rows[i], *from = (*from)[:size:size], (*from)[size:]
	}
	for _, rest := range left {
		if len(rest) > 0 {
			return ErrDivision
		}
	}
	return nil
}

// Counts exchanges the sums of a loop, to which every item adds.
func (d *Division) Counts(counts []int) error {
	if d == nil {
		return nil
	}
	if d.All == nil {
		made := make(Values, len(counts))
		for i, n := range counts {
			made[i] = float64(n)
		}
		d.Made = append(d.Made, made)
		return nil
	}
	all, err := d.take()
	if err != nil {
		return err
	}
	clear(counts)
	for _, share := range all {
		if len(share) != len(counts) {
			return ErrDivision
		}
		for i, n := range share {
			counts[i] += int(n)
		}
	}
	return nil
}

// take returns the next loop of every share.
func (d *Division) take() ([]Values, error) {
	out := make([]Values, len(d.All))
	for share, loops := range d.All {
		if len(d.All) != d.Shares || d.loop >= len(loops) {
			return nil, ErrDivision
		}
		out[share] = loops[d.loop]
	}
	d.loop++
	return out, nil
}
