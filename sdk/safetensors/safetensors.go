// Package safetensors reads and writes the safetensors format: an 8-byte
// little-endian header length, a JSON header, and the tensors' bytes. It is the
// only weights format of the project: nothing in it can run.
package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// MaxHeaderBytes bounds the JSON header, as the format's reference implementation does.
const MaxHeaderBytes = 100_000_000

// ErrFormat is returned when a file breaks a rule of the format.
var ErrFormat = errors.New("not a valid safetensors file")

// Info describes one tensor of a file.
type Info struct {
	DType tensor.DType
	Shape []int64
	begin int64
	end   int64
}

// File is an open safetensors file. Tensors are read on demand.
type File struct {
	path     string
	file     io.ReaderAt
	close    func() error
	data     int64
	infos    map[string]Info
	metadata map[string]string
}

type entry struct {
	DType   string  `json:"dtype"`
	Shape   []int64 `json:"shape"`
	Offsets []int64 `json:"data_offsets"`
}

// Open reads and checks the header: known dtypes, offsets in bounds, without gaps
// or overlaps, sizes that fit the shapes. It fails with ErrFormat otherwise.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	stat, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	out, err := parse(f, stat.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out.path, out.close = path, f.Close
	return out, nil
}

func parse(r io.ReaderAt, size int64) (*File, error) {
	var head [8]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("%w: %d bytes, too short for a header length", ErrFormat, size)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > MaxHeaderBytes || int64(n) > size-8 {
		return nil, fmt.Errorf("%w: header of %d bytes in a file of %d", ErrFormat, n, size)
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, 8); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("%w: header: %v", ErrFormat, err)
	}
	out := &File{file: r, data: 8 + int64(n), infos: map[string]Info{}, metadata: map[string]string{}, close: func() error { return nil }}
	if m, ok := raw["__metadata__"]; ok {
		if err := json.Unmarshal(m, &out.metadata); err != nil {
			return nil, fmt.Errorf("%w: __metadata__: %v", ErrFormat, err)
		}
		delete(raw, "__metadata__")
	}
	var spans [][2]int64
	for name, text := range raw {
		var e entry
		if err := json.Unmarshal(text, &e); err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrFormat, name, err)
		}
		named, ok := tensor.FromSafetensors(e.DType)
		if !ok {
			return nil, fmt.Errorf("%w: %s has dtype %q", ErrFormat, name, e.DType)
		}
		count, err := tensor.Elements(e.Shape)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrFormat, name, err)
		}
		if len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0] || e.Offsets[1] > size-out.data {
			return nil, fmt.Errorf("%w: %s has data_offsets %v in %d bytes of data", ErrFormat, name, e.Offsets, size-out.data)
		}
		length := e.Offsets[1] - e.Offsets[0]
		if size := int64(named.Size); length/size != count || length%size != 0 {
			return nil, fmt.Errorf("%w: %s: %s %v in %d bytes", ErrFormat, name, named.DType, e.Shape, length)
		}
		out.infos[name] = Info{named.DType, e.Shape, e.Offsets[0], e.Offsets[1]}
		spans = append(spans, [2]int64{e.Offsets[0], e.Offsets[1]})
	}
	sort.Slice(spans, func(i, j int) bool {
		return spans[i][0] < spans[j][0] || spans[i][0] == spans[j][0] && spans[i][1] < spans[j][1]
	})
	at := int64(0)
	for _, s := range spans {
		if s[0] != at {
			return nil, fmt.Errorf("%w: data at byte %d, expected at %d (gap or overlap)", ErrFormat, s[0], at)
		}
		at = s[1]
	}
	if at != size-out.data {
		return nil, fmt.Errorf("%w: %d bytes of data, %d described", ErrFormat, size-out.data, at)
	}
	return out, nil
}

// Names lists the tensors in order of name.
func (f *File) Names() []string {
	names := make([]string, 0, len(f.infos))
	for name := range f.infos {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Metadata returns the header's free text entries.
func (f *File) Metadata() map[string]string { return f.metadata }

// Tensor reads one tensor. It fails when there is none of that name.
func (f *File) Tensor(name string) (*tensor.Tensor, error) {
	i, ok := f.infos[name]
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q", f.path, name)
	}
	t, err := tensor.New(i.DType, i.Shape...)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", f.path, name, err)
	}
	if len(t.Data) == 0 {
		return t, nil
	}
	if _, err := f.file.ReadAt(t.Data, f.data+i.begin); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", f.path, name, err)
	}
	return t, nil
}

// Close releases the file.
func (f *File) Close() error { return f.close() }

// Write stores tensors under path: to a temporary name in the same folder, synced,
// renamed. The order of bytes depends on the names alone, so equal tensors give
// equal files. BYTES tensors cannot be stored.
func Write(path string, tensors map[string]*tensor.Tensor, metadata map[string]string) error {
	names := make([]string, 0, len(tensors))
	for name := range tensors {
		names = append(names, name)
	}
	sort.Strings(names)
	header := map[string]any{}
	if len(metadata) > 0 {
		header["__metadata__"] = metadata
	}
	at := int64(0)
	for _, name := range names {
		t := tensors[name]
		if err := t.Check(); err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
		named, ok := t.DType.Names()
		if !ok {
			return fmt.Errorf("%s: %s: dtype %s cannot be stored as safetensors", path, name, t.DType)
		}
		shape := t.Shape
		if shape == nil {
			shape = []int64{}
		}
		end := at + int64(len(t.Data))
		header[name] = entry{named.Safetensors, shape, []int64{at, end}}
		at = end
	}
	text, err := json.Marshal(header)
	if err != nil {
		return err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	return atomicfile.Write(path, func(w io.Writer) error {
		var head [8]byte
		binary.LittleEndian.PutUint64(head[:], uint64(len(text)))
		parts := [][]byte{head[:], text}
		for _, name := range names {
			parts = append(parts, tensors[name].Data)
		}
		for _, part := range parts {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	})
}
