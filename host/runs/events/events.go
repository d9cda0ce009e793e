// Package events writes what a run measures as TensorBoard's event files: TFRecords of
// tensorflow.Event messages. metrics.jsonl stays the source; the files can be made of it again.
package events

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/runs"
)

// Dir is the folder of event files in a run.
const Dir = "tensorboard"

// Writer appends to an event file of its own. It is not for several goroutines at once.
type Writer struct{ f *os.File }

// There reports whether a run has event files already.
func There(run string) bool {
	found, err := filepath.Glob(filepath.Join(run, Dir, "events.out.tfevents.*"))
	return err == nil && len(found) > 0
}

// Open begins a file in the run's folder: a session that goes on after so many steps, so that
// TensorBoard forgets later ones, which are taken again. The first session begins with the
// records that the run has already.
func Open(run string, step int) (*Writer, error) {
	first := !There(run)
	dir := filepath.Join(run, Dir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fault.Wrap(fault.Resource, err)
	}
	var before []runs.Record
	if first {
		var err error
		if before, err = runs.ReadMetrics(run); err != nil {
			return nil, fault.Wrap(fault.Data, err)
		}
	}
	// Files are read in the order of their names.
	name := filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%d.alignedfusion", time.Now().UnixNano()))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fault.Wrap(fault.Resource, err)
	}
	w := &Writer{f}
	err = w.event(0, 3, []byte("brain.Event:2"))
	if err == nil && !first {
		const started = 1
		err = w.event(step+1, 7, protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), started))
	}
	for _, r := range before {
		err = errors.Join(err, w.Record(r))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

// Record writes the numbers of a line of metrics.jsonl.
func (w *Writer) Record(r runs.Record) error {
	var summary []byte
	r.Scalars(func(name string, v float64) { summary = appendValue(summary, name, v) })
	return w.event(r.Step, 5, summary)
}

// Image writes a PNG.
func (w *Writer) Image(tag string, step int, data []byte) error {
	size, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return err
	}
	var image []byte
	for field, v := range []int{size.Height, size.Width, 3} { // 3: RGB
		image = protowire.AppendVarint(protowire.AppendTag(image, protowire.Number(field+1), protowire.VarintType), uint64(v))
	}
	value := appendBytes(appendBytes(nil, 1, []byte(tag)), 4, appendBytes(image, 4, data))
	return w.event(step, 5, appendBytes(nil, 1, value))
}

// Close ends the file.
func (w *Writer) Close() error { return fault.Wrap(fault.Resource, w.f.Close()) }

// event writes an Event with one field of bytes besides time and step.
func (w *Writer) event(step int, field protowire.Number, content []byte) error {
	now := float64(time.Now().UnixMicro()) / 1e6
	message := appendDouble(protowire.AppendTag(nil, 1, protowire.Fixed64Type), now)
	message = protowire.AppendVarint(protowire.AppendTag(message, 2, protowire.VarintType), uint64(step))
	_, err := w.f.Write(record(appendBytes(message, field, content)))
	return fault.Wrap(fault.Resource, err)
}

func appendBytes(to []byte, field protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, field, protowire.BytesType), content)
}

// appendValue adds a Summary.Value with a simple_value to a Summary.
func appendValue(summary []byte, tag string, v float64) []byte {
	value := appendBytes(nil, 1, []byte(tag))
	value = protowire.AppendFixed32(protowire.AppendTag(value, 2, protowire.Fixed32Type), math.Float32bits(float32(v)))
	return appendBytes(summary, 1, value)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is a TFRecord: length, its masked CRC-32C, data, theirs.
func record(data []byte) []byte {
	masked := func(b []byte) uint32 {
		sum := crc32.Checksum(b, castagnoli)
		return (sum>>15 | sum<<17) + 0xa282ead8
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	out = binary.LittleEndian.AppendUint32(out, masked(out))
	out = append(out, data...)
	return binary.LittleEndian.AppendUint32(out, masked(data))
}
