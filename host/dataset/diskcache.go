package dataset

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/digest"
)

// diskCache keeps decoded images in a folder that runs share: a file an image, written under
// a temporary name and renamed, so that any number of processes may use it at once. It is
// bounded; the images that no run has used for longest leave first, those that this process
// uses stay. What cannot be written is not kept, what is damaged is decoded again.
type diskCache struct {
	dir   string
	limit int64

	mu sync.Mutex
	// used is the size of the files in the folder when it was last looked at, and of those
	// written since; written of the latter alone.
	used, written int64
	// mine are the files that this process has used.
	mine map[string]bool
	// others were last used by other processes, longest ago first.
	others []cachedFile
	// full: the disk takes no more.
	full bool
}

type cachedFile struct {
	path  string
	bytes int64
	used  time.Time
}

const (
	cachedEnding = ".image"
	// cachedHead: magic, kind, height, width, checksum of the pixels.
	cachedMagic = "afimage1"
	cachedHead  = len(cachedMagic) + 4*4
	// staleTemporary is the age at which a file that was not finished is given up.
	staleTemporary = time.Hour
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openDiskCache makes the folder and looks at what is in it.
func openDiskCache(dir string, limit int64) (*diskCache, error) {
	c := &diskCache{dir: dir, limit: limit, mine: map[string]bool{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache of decoded images: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return nil, fmt.Errorf("cache of decoded images: %w", err)
	}
	probe.Close()
	os.Remove(probe.Name())
	c.look()
	return c, nil
}

// look counts the files in the folder.
func (c *diskCache) look() {
	c.used, c.written, c.others = 0, 0, nil
	_ = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		switch {
		case strings.HasSuffix(path, cachedEnding):
			c.used += info.Size()
			if !c.mine[path] {
				c.others = append(c.others, cachedFile{path, info.Size(), info.ModTime()})
			}
		case strings.HasPrefix(d.Name(), temporaryStart) && time.Since(info.ModTime()) > staleTemporary:
			os.Remove(path)
		}
		return nil
	})
	slices.SortFunc(c.others, func(a, b cachedFile) int { return cmp.Or(a.used.Compare(b.used), strings.Compare(a.path, b.path)) })
}

// path is where the image decoded from a file as how says is kept; a file that changes has
// another one. "" where the file is not there.
func (c *diskCache) path(file, how string) string {
	info, err := os.Stat(file)
	if err != nil {
		return ""
	}
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	name := digest.Of(fmt.Sprintf("%s\x00%s\x00%d\x00%d", file, how, info.Size(), info.ModTime().UnixNano()))[:32]
	return filepath.Join(c.dir, name[:2], name+cachedEnding)
}

// get returns what was decoded from a file before, or decodes and keeps it. A nil cache
// decodes.
func (c *diskCache) get(file, how string, decode func() (*plane, error)) (*plane, error) {
	if c == nil {
		return decode()
	}
	path := c.path(file, how)
	if path == "" {
		return decode()
	}
	if data, err := os.ReadFile(path); err == nil {
		if p := parsePlane(data); p != nil {
			c.touch(path)
			return p, nil
		}
		os.Remove(path)
	}
	p, err := decode()
	if err == nil {
		c.put(path, p)
	}
	return p, err
}

// touch notes that an image is in use, for this process and for the others.
func (c *diskCache) touch(path string) {
	c.mu.Lock()
	known := c.mine[path]
	c.mine[path] = true
	c.mu.Unlock()
	if !known {
		now := time.Now()
		_ = os.Chtimes(path, now, now)
	}
}

func (c *diskCache) put(path string, p *plane) {
	bytes := int64(cachedHead) + p.bytes()
	if !c.reserve(path, bytes) {
		return
	}
	if err := writeUnsynced(path, p.format()); err != nil {
		c.mu.Lock()
		c.full, c.used = true, c.used-bytes
		c.mu.Unlock()
	}
}

// reserve makes room for a file and reports whether there is some.
func (c *diskCache) reserve(path string, bytes int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full {
		return false
	}
	if c.written > c.limit/16 { // other processes write, too
		c.look()
	}
	for c.used+bytes > c.limit && len(c.others) > 0 {
		old := c.others[0]
		c.others = c.others[1:]
		if info, err := os.Stat(old.path); err != nil || c.mine[old.path] || info.ModTime().After(old.used) {
			continue // gone, or in use
		}
		if os.Remove(old.path) == nil {
			c.used -= old.bytes
		}
	}
	if c.used+bytes > c.limit {
		return false
	}
	c.mine[path] = true
	c.used, c.written = c.used+bytes, c.written+bytes
	return true
}

const temporaryStart = ".new-"

// writeUnsynced writes a file whose loss would do no harm: nothing waits for the disk.
func writeUnsynced(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, temporaryStart+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// The kinds of pixels in a file.
const (
	kindHU16 = iota
	kindHU32
	kindGrey8
	kindRGB
)

// format writes an image as parsePlane reads it, little-endian.
func (p *plane) format() []byte {
	out := make([]byte, cachedHead, int64(cachedHead)+p.bytes())
	kind := kindGrey8
	switch {
	case p.hu16 != nil:
		kind = kindHU16
		for _, v := range p.hu16 {
			out = binary.LittleEndian.AppendUint16(out, uint16(v))
		}
	case p.hu32 != nil:
		kind = kindHU32
		for _, v := range p.hu32 {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	case p.rgb != nil:
		kind = kindRGB
		out = append(out, p.rgb...)
	default:
		out = append(out, p.grey8...)
	}
	copy(out, cachedMagic)
	for k, v := range []uint32{uint32(kind), uint32(p.h), uint32(p.w), crc32.Checksum(out[cachedHead:], castagnoli)} {
		binary.LittleEndian.PutUint32(out[len(cachedMagic)+4*k:], v)
	}
	return out
}

// parsePlane reads an image back, nil where it is not whole.
func parsePlane(data []byte) *plane {
	if len(data) < cachedHead || string(data[:len(cachedMagic)]) != cachedMagic {
		return nil
	}
	var head [4]uint32
	for k := range head {
		head[k] = binary.LittleEndian.Uint32(data[len(cachedMagic)+4*k:])
	}
	pixels := data[cachedHead:]
	p := &plane{h: int(head[1]), w: int(head[2])}
	size := map[uint32]int{kindHU16: 2, kindHU32: 4, kindGrey8: 1, kindRGB: 3}[head[0]]
	if size == 0 || p.h > maxImageSide || p.w > maxImageSide || len(pixels) != size*p.h*p.w || crc32.Checksum(pixels, castagnoli) != head[3] {
		return nil
	}
	switch head[0] {
	case kindHU16:
		p.hu16 = make([]int16, p.h*p.w)
		rest := p.hu16
		for ; len(rest) >= 4; rest, pixels = rest[4:], pixels[8:] {
			v := binary.LittleEndian.Uint64(pixels)
			rest[0], rest[1], rest[2], rest[3] = int16(v), int16(v>>16), int16(v>>32), int16(v>>48)
		}
		for i := range rest {
			rest[i] = int16(binary.LittleEndian.Uint16(pixels[2*i:]))
		}
	case kindHU32:
		p.hu32 = make([]float32, p.h*p.w)
		for i := range p.hu32 {
			p.hu32[i] = math.Float32frombits(binary.LittleEndian.Uint32(pixels[4*i:]))
		}
	case kindRGB:
		p.rgb = pixels
	default:
		p.grey8 = pixels
	}
	return p
}
