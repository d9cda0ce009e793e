package importer

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// decodeLosslessJPEG decodes a grey image of process 14 (ITU-T T.81, annex H): a Huffman
// code of the difference to one of seven predictors. It returns width*height values.
func decodeLosslessJPEG(data []byte, width, height int) ([]int32, error) {
	d := losslessJPEG{data: data}
	if err := d.segments(); err != nil {
		return nil, err
	}
	if d.width != width || d.height != height {
		return nil, fmt.Errorf("the JPEG is %d x %d pixels, the header says %d x %d", d.width, d.height, width, height)
	}
	return d.scan()
}

type losslessJPEG struct {
	data                     []byte
	at                       int
	precision, width, height int
	tables                   [4]*huffman
	table, predictor, shift  int
	restart                  int

	bits uint32
	have int
}

// huffman is a code as T.81, annex F.2.2.3 decodes it.
type huffman struct {
	minCode, maxCode, first [17]int
	values                  []byte
}

// JPEG markers (T.81, table B.1).
const (
	markerSOF3 = 0xc3
	markerDHT  = 0xc4
	markerSOI  = 0xd8
	markerEOI  = 0xd9
	markerSOS  = 0xda
	markerDRI  = 0xdd
)

var errCutOff = errors.New("the JPEG is cut off")

// segments reads the markers up to the scan.
func (d *losslessJPEG) segments() error {
	for {
		for d.at < len(d.data) && d.data[d.at] != 0xff {
			d.at++
		}
		for d.at < len(d.data) && d.data[d.at] == 0xff {
			d.at++
		}
		if d.at >= len(d.data) {
			return errCutOff
		}
		marker := d.data[d.at]
		d.at++
		if marker == markerSOI || marker == 0 {
			continue
		}
		if marker == markerEOI || d.at+2 > len(d.data) {
			return errCutOff
		}
		n := int(binary.BigEndian.Uint16(d.data[d.at:]))
		if n < 2 || d.at+n > len(d.data) {
			return errCutOff
		}
		segment := d.data[d.at+2 : d.at+n]
		d.at += n
		var err error
		switch {
		case marker == markerSOF3:
			err = d.frame(segment)
		case marker == markerDHT:
			err = d.huffmanTables(segment)
		case marker == markerDRI && len(segment) >= 2:
			d.restart = int(binary.BigEndian.Uint16(segment))
		case marker == markerSOS:
			return d.scanHeader(segment)
		case marker >= 0xc0 && marker <= 0xcf:
			err = fmt.Errorf("JPEG process %#x is not lossless (process 14)", marker)
		}
		if err != nil {
			return err
		}
	}
}

func (d *losslessJPEG) frame(s []byte) error {
	if len(s) < 9 {
		return errCutOff
	}
	d.precision, d.height, d.width = int(s[0]), int(binary.BigEndian.Uint16(s[1:])), int(binary.BigEndian.Uint16(s[3:]))
	if s[5] != 1 {
		return fmt.Errorf("the JPEG has %d components, want 1 (grey)", s[5])
	}
	if d.precision < 2 || d.precision > 16 || d.width == 0 || d.height == 0 {
		return fmt.Errorf("the JPEG claims %d x %d pixels of %d bits", d.width, d.height, d.precision)
	}
	return nil
}

func (d *losslessJPEG) huffmanTables(s []byte) error {
	for len(s) >= 17 {
		id := int(s[0] & 15)
		h := &huffman{}
		total, code := 0, 0
		for length := 1; length <= 16; length++ {
			n := int(s[length])
			h.first[length], h.minCode[length] = total, code
			total += n
			code += n
			h.maxCode[length] = code - 1
			if code > 1<<length {
				return errors.New("a Huffman table of the JPEG has too many codes")
			}
			code <<= 1
		}
		if len(s) < 17+total || id > 3 {
			return errors.New("a Huffman table of the JPEG is damaged")
		}
		h.values = s[17 : 17+total]
		d.tables[id] = h
		s = s[17+total:]
	}
	return nil
}

func (d *losslessJPEG) scanHeader(s []byte) error {
	if len(s) < 6 || s[0] != 1 || d.width == 0 {
		return errors.New("the JPEG's scan header is damaged")
	}
	d.table, d.predictor, d.shift = int(s[2]>>4), int(s[3]), int(s[5]&15)
	if d.table > 3 || d.tables[d.table] == nil {
		return errors.New("the JPEG lacks its Huffman table")
	}
	if d.predictor < 1 || d.predictor > 7 {
		return fmt.Errorf("JPEG predictor %d, want 1 to 7", d.predictor)
	}
	return nil
}

// bit reads the next bit; a marker in its place ends the data.
func (d *losslessJPEG) bit() (int, error) {
	if d.have == 0 {
		if d.at >= len(d.data) {
			return 0, errCutOff
		}
		b := d.data[d.at]
		d.at++
		if b == 0xff {
			if d.at >= len(d.data) || d.data[d.at] != 0 {
				return 0, errCutOff
			}
			d.at++
		}
		d.bits, d.have = uint32(b), 8
	}
	d.have--
	return int(d.bits>>d.have) & 1, nil
}

// difference reads one coded difference (H.1.2.2): its number of bits, then these.
func (d *losslessJPEG) difference() (int32, error) {
	h := d.tables[d.table]
	code := 0
	for length := 1; length <= 16; length++ {
		b, err := d.bit()
		if err != nil {
			return 0, err
		}
		code = code<<1 | b
		if code <= h.maxCode[length] && code >= h.minCode[length] && h.maxCode[length] >= h.minCode[length] {
			return d.extend(int(h.values[h.first[length]+code-h.minCode[length]]))
		}
	}
	return 0, errors.New("a code of the JPEG is in no table")
}

func (d *losslessJPEG) extend(size int) (int32, error) {
	if size == 16 {
		return 32768, nil
	}
	if size > 16 {
		return 0, errors.New("a difference of the JPEG has more than 16 bits")
	}
	v := int32(0)
	for range size {
		b, err := d.bit()
		if err != nil {
			return 0, err
		}
		v = v<<1 | int32(b)
	}
	if size > 0 && v < 1<<(size-1) {
		v += -1<<size + 1
	}
	return v, nil
}

// scan decodes the pixels.
func (d *losslessJPEG) scan() ([]int32, error) {
	out := make([]int32, d.width*d.height)
	start := int32(1) << (d.precision - d.shift - 1)
	fresh := true // after the beginning and a restart the first line has predictors of its own
	for y := range d.height {
		for x := range d.width {
			i := y*d.width + x
			if d.restart > 0 && i > 0 && i%d.restart == 0 {
				d.have = 0
				if d.at+2 > len(d.data) || d.data[d.at] != 0xff || d.data[d.at+1] < 0xd0 || d.data[d.at+1] > 0xd7 {
					return nil, errors.New("a restart marker of the JPEG is missing")
				}
				d.at += 2
				fresh = x == 0
			}
			diff, err := d.difference()
			if err != nil {
				return nil, fmt.Errorf("pixel %d of %d: %w", i, len(out), err)
			}
			var predicted int32
			switch {
			case fresh && x == 0:
				predicted = start
			case fresh || y == 0:
				predicted = out[i-1]
			case x == 0:
				predicted = out[i-d.width]
			default:
				predicted = predict(d.predictor, out[i-1], out[i-d.width], out[i-d.width-1])
			}
			out[i] = (predicted + diff) & 0xffff
		}
		fresh = false
	}
	for i := range out {
		out[i] <<= d.shift
	}
	return out, nil
}

// predict is table H.1: a to the left, b above, c above left.
func predict(predictor int, a, b, c int32) int32 {
	switch predictor {
	case 1:
		return a
	case 2:
		return b
	case 3:
		return c
	case 4:
		return a + b - c
	case 5:
		return a + (b-c)>>1
	case 6:
		return b + (a-c)>>1
	}
	return (a + b) >> 1
}
