package weights

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// storage is the flat memory that tensors of a checkpoint look into.
type storage struct {
	key   string
	dtype tensor.DType
	count int64
	data  []byte // filled in after the pickle in the old layout
}

// torchTensor is a view of a storage: offset, sizes and strides in elements.
type torchTensor struct {
	storage        *storage
	offset         int64
	shape, strides []int64
}

func ints(v any) ([]int64, bool) {
	t, ok := v.(tuple)
	if !ok {
		return nil, false
	}
	out := make([]int64, len(t))
	for i, x := range t {
		if out[i], ok = x.(int64); !ok || out[i] < 0 {
			return nil, false
		}
	}
	return out, true
}

func rebuildTensor(args tuple) (*torchTensor, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%w: a tensor of %d arguments", ErrFormat, len(args))
	}
	s, ok1 := args[0].(*storage)
	offset, ok2 := args[1].(int64)
	shape, ok3 := ints(args[2])
	strides, ok4 := ints(args[3])
	if !ok1 || !ok2 || !ok3 || !ok4 || offset < 0 || len(shape) != len(strides) || len(shape) > maxDepth {
		return nil, fmt.Errorf("%w: a tensor with odd arguments", ErrFormat)
	}
	return &torchTensor{s, offset, shape, strides}, nil
}

// values copies the tensor out, row by row.
func (t *torchTensor) values() (*tensor.Tensor, error) {
	n, err := tensor.Elements(t.shape)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if n == 0 {
		return tensor.New(t.storage.dtype, t.shape...)
	}
	size := int64(t.storage.dtype.Size())
	last := t.offset
	for i, d := range t.shape {
		if d > 1 {
			if t.strides[i] > 1<<40 || d > 1<<40 {
				return nil, fmt.Errorf("%w: shape %v, strides %v", ErrFormat, t.shape, t.strides)
			}
			last += (d - 1) * t.strides[i]
		}
		if last < 0 || last > int64(len(t.storage.data)) {
			return nil, fmt.Errorf("%w: a tensor of shape %v looks beyond its storage of %d elements", ErrFormat, t.shape, t.storage.count)
		}
	}
	if (last+1)*size > int64(len(t.storage.data)) {
		return nil, fmt.Errorf("%w: a tensor of shape %v looks beyond its storage of %d elements", ErrFormat, t.shape, t.storage.count)
	}
	// Broadcast strides could ask for far more than the file holds.
	if n > t.storage.count {
		return nil, fmt.Errorf("%w: a tensor of %d elements in a storage of %d", ErrFormat, n, t.storage.count)
	}
	out, err := tensor.New(t.storage.dtype, t.shape...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	index := make([]int64, len(t.shape))
	for i := range n {
		at := t.offset
		for d := range index {
			at += index[d] * t.strides[d]
		}
		copy(out.Data[i*size:(i+1)*size], t.storage.data[at*size:])
		for d := len(index) - 1; d >= 0; d-- {
			if index[d]++; index[d] < t.shape[d] {
				break
			}
			index[d] = 0
		}
	}
	return out, nil
}

// readTorch reads a file that torch.save wrote, in its zip or its older layout.
func readTorch(path string) (any, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return parseTorch(f, info.Size())
}

func parseTorch(r io.ReaderAt, size int64) (any, error) {
	var head [4]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, size)
	}
	if bytes.Equal(head[:], []byte("PK\x03\x04")) {
		return parseZip(r, size)
	}
	if head[0] != 0x80 {
		return nil, fmt.Errorf("%w: neither a zip archive nor a pickle; want a file that torch.save wrote", ErrFormat)
	}
	return parseLegacy(r, size)
}

// storageOf makes the storage that a persistent id names:
// ("storage", type, key, location, count[, view]).
func storageOf(id any) (*storage, error) {
	t, ok := id.(tuple)
	if !ok || len(t) < 5 {
		return nil, fmt.Errorf("%w: a reference that is no storage", ErrFormat)
	}
	kind, ok1 := t[0].(string)
	class, ok2 := t[1].(global)
	key, ok3 := t[2].(string)
	count, ok4 := t[4].(int64)
	dtype, ok5 := storageType(class)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || kind != "storage" || count < 0 || count > 1<<40 {
		return nil, fmt.Errorf("%w: a storage with odd arguments", ErrFormat)
	}
	if len(t) > 5 && t[5] != nil {
		return nil, fmt.Errorf("%w: a storage that is a view of another", ErrFormat)
	}
	return &storage{key: key, dtype: dtype, count: count}, nil
}

func parseZip(r io.ReaderAt, size int64) (any, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	files := map[string]*zip.File{}
	root := ""
	for _, f := range z.File {
		files[f.Name] = f
		if dir, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok {
			root = dir
		}
		if strings.HasSuffix(f.Name, "/constants.pkl") {
			return nil, fmt.Errorf("%w: this is a TorchScript program, not a state dict", ErrUnsafe)
		}
	}
	program := files[root+"/data.pkl"]
	if program == nil {
		return nil, fmt.Errorf("%w: the archive holds no data.pkl", ErrFormat)
	}
	if order := files[root+"/byteorder"]; order != nil {
		text, err := readMember(order, 16)
		if err != nil {
			return nil, err
		}
		if string(text) != "little" {
			return nil, fmt.Errorf("%w: byte order %q, want little", ErrFormat, text)
		}
	}
	data, err := readMember(program, maxPickleBytes)
	if err != nil {
		return nil, err
	}
	known := map[string]*storage{}
	value, _, err := unpickle(data, func(id any) (any, error) {
		s, err := storageOf(id)
		if err != nil {
			return nil, err
		}
		if old := known[s.key]; old != nil {
			if old.dtype != s.dtype {
				return nil, fmt.Errorf("%w: storage %s has two types", ErrFormat, s.key)
			}
			return old, nil
		}
		member := files[root+"/data/"+s.key]
		if member == nil {
			return nil, fmt.Errorf("%w: storage %s is missing from the archive", ErrFormat, s.key)
		}
		if s.data, err = readMember(member, s.count*int64(s.dtype.Size())); err != nil {
			return nil, err
		}
		if int64(len(s.data)) != s.count*int64(s.dtype.Size()) {
			return nil, fmt.Errorf("%w: storage %s has %d bytes, want %d", ErrFormat, s.key, len(s.data), s.count*int64(s.dtype.Size()))
		}
		known[s.key] = s
		return s, nil
	})
	return value, err
}

// readMember reads a member of at most limit bytes.
func readMember(f *zip.File, limit int64) ([]byte, error) {
	if f.UncompressedSize64 > uint64(limit) {
		return nil, fmt.Errorf("%w: %s has %d bytes, want at most %d", ErrFormat, f.Name, f.UncompressedSize64, limit)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, f.Name, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFormat, f.Name, err)
	}
	return data, nil
}

// The old layout: four pickles (magic number, version, system, the object), a pickled
// list of storage keys, then each storage's count and bytes.
var legacyMagic = []byte{0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19}

const legacyVersion = 1001

func parseLegacy(r io.ReaderAt, size int64) (any, error) {
	const maxLegacy = 16 << 30
	if size > maxLegacy {
		return nil, fmt.Errorf("%w: %d bytes in the old layout, want at most %d", ErrFormat, size, int64(maxLegacy))
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), data); err != nil {
		return nil, err
	}
	magic, rest, err := unpickle(data, nil)
	if err != nil {
		return nil, err
	}
	if b, ok := magic.([]byte); !ok || !bytes.Equal(b, legacyMagic) {
		return nil, fmt.Errorf("%w: a pickle that torch.save did not write", ErrFormat)
	}
	version, rest, err := unpickle(rest, nil)
	if err != nil {
		return nil, err
	}
	if version != int64(legacyVersion) {
		return nil, fmt.Errorf("%w: layout version %v, want %d", ErrFormat, version, legacyVersion)
	}
	system, rest, err := unpickle(rest, nil)
	if err != nil {
		return nil, err
	}
	if d, ok := system.(*dict); ok {
		if little, ok := d.get("little_endian"); ok && little != true {
			return nil, fmt.Errorf("%w: big-endian data", ErrFormat)
		}
	}
	known := map[string]*storage{}
	value, rest, err := unpickle(rest, func(id any) (any, error) {
		s, err := storageOf(id)
		if err != nil {
			return nil, err
		}
		if old := known[s.key]; old != nil {
			return old, nil
		}
		known[s.key] = s
		return s, nil
	})
	if err != nil {
		return nil, err
	}
	keys, rest, err := unpickle(rest, nil)
	if err != nil {
		return nil, err
	}
	names, ok := keys.(*list)
	if !ok {
		return nil, fmt.Errorf("%w: no list of storages", ErrFormat)
	}
	for _, k := range names.items {
		key, _ := k.(string)
		s := known[key]
		if s == nil {
			return nil, fmt.Errorf("%w: storage %v belongs to nothing", ErrFormat, k)
		}
		if len(rest) < 8 {
			return nil, fmt.Errorf("%w: the data of storage %s is missing", ErrFormat, key)
		}
		count := int64(binary.LittleEndian.Uint64(rest))
		bytesWanted := count * int64(s.dtype.Size())
		if count != s.count || bytesWanted > int64(len(rest)-8) {
			return nil, fmt.Errorf("%w: storage %s has %d elements and %d bytes left, want %d elements", ErrFormat, key, count, len(rest)-8, s.count)
		}
		s.data, rest = rest[8:8+bytesWanted], rest[8+bytesWanted:]
	}
	return value, nil
}
