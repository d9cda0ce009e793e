package dataset

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
)

// Exif orientations, of which there are eight: 1 is a picture as it is stored; from 5
// on the file's rows are the picture's columns.
const (
	orientationAsStored   = 1
	orientationTransposed = 5
)

// jpegOrientation reads the Exif orientation of a JPEG file. A file without one, or
// with a damaged one, counts as stored upright: no picture is refused for its metadata.
func jpegOrientation(r *bufio.Reader) int {
	if _, err := r.Discard(2); err != nil { // the file's first marker
		return orientationAsStored
	}
	for {
		marker, err := nextMarker(r)
		if err != nil || marker == 0xda { // the pixels begin
			return orientationAsStored
		}
		var size [2]byte // of the segment, these two bytes included
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return orientationAsStored
		}
		n := max(0, int(binary.BigEndian.Uint16(size[:]))-2)
		if marker != 0xe1 {
			if _, err := r.Discard(n); err != nil {
				return orientationAsStored
			}
			continue
		}
		segment := make([]byte, n)
		if _, err := io.ReadFull(r, segment); err != nil {
			return orientationAsStored
		}
		if tiff, ok := bytes.CutPrefix(segment, []byte("Exif\x00\x00")); ok { // else XMP
			return tiffOrientation(tiff)
		}
	}
}

// nextMarker reads 0xff, as often as it stands there, and the byte behind.
func nextMarker(r *bufio.Reader) (byte, error) {
	b, err := r.ReadByte()
	if err == nil && b != 0xff {
		return 0, io.ErrUnexpectedEOF
	}
	for err == nil && b == 0xff {
		b, err = r.ReadByte()
	}
	return b, err
}

// tiffDirectory reads the first directory of a TIFF file: its orientation, and whether a
// second one follows, another page.
func tiffDirectory(f io.ReadSeeker) (orientation int, pages bool, err error) {
	read := func(at int64, n int) ([]byte, error) {
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return nil, err
		}
		raw := make([]byte, n)
		_, err := io.ReadFull(f, raw)
		return raw, err
	}
	head, err := read(0, 8)
	if err != nil {
		return 0, false, err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[0] == 'M' {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(head[4:]))
	count, err := read(at, 2)
	if err != nil {
		return 0, false, err
	}
	n := 2 + 12*int(order.Uint16(count))
	directory, err := read(at, n+4)
	if err != nil {
		return 0, false, err
	}
	order.PutUint32(head[4:], 8) // the directory follows the head, as in Exif
	return tiffOrientation(append(head, directory[:n]...)), order.Uint32(directory[n:]) != 0, nil
}

// tiffOrientation looks for the tag Orientation in the first directory of Exif data.
func tiffOrientation(tiff []byte) int {
	if len(tiff) < 8 {
		return orientationAsStored
	}
	var order binary.ByteOrder = binary.LittleEndian
	if tiff[0] == 'M' {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return orientationAsStored
	}
	entries := tiff[at+2:]
	for range order.Uint16(tiff[at:]) {
		if len(entries) < 12 {
			break
		}
		const orientation, short = 0x0112, 3
		if order.Uint16(entries) == orientation && order.Uint16(entries[2:]) == short {
			if v := int(order.Uint16(entries[8:])); v >= 1 && v <= 8 {
				return v
			}
		}
		entries = entries[12:]
	}
	return orientationAsStored
}

// orient turns a stored plane of h rows and w columns into the upright picture.
func (p *plane) orient(orientation int) {
	if orientation == orientationAsStored {
		return
	}
	h, w := p.h, p.w // as stored
	// The place in the file of the picture's pixel (y, x), by orientation.
	from := map[int]func(y, x int) (int, int){
		2: func(y, x int) (int, int) { return y, w - 1 - x },
		3: func(y, x int) (int, int) { return h - 1 - y, w - 1 - x },
		4: func(y, x int) (int, int) { return h - 1 - y, x },
		5: func(y, x int) (int, int) { return x, y },
		6: func(y, x int) (int, int) { return h - 1 - x, y },
		7: func(y, x int) (int, int) { return h - 1 - x, w - 1 - y },
		8: func(y, x int) (int, int) { return x, w - 1 - y },
	}[orientation]
	if orientation >= orientationTransposed {
		p.h, p.w = w, h
	}
	turn := func(pix []uint8, channels int) []uint8 {
		out := make([]uint8, 0, len(pix))
		for y := range p.h {
			for x := range p.w {
				sy, sx := from(y, x)
				at := (sy*w + sx) * channels
				out = append(out, pix[at:at+channels]...)
			}
		}
		return out
	}
	if p.grey8 != nil {
		p.grey8 = turn(p.grey8, 1)
	}
	if p.rgb != nil {
		p.rgb = turn(p.rgb, 3)
	}
}
