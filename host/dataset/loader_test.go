package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/color"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/alignedfusion/alignedfusion/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func equalBatches(t *testing.T, a, b []*Batch) bool {
	t.Helper()
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Index != b[i].Index || len(a[i].Tensors) != len(b[i].Tensors) || len(a[i].Cases) != len(b[i].Cases) {
			return false
		}
		for name, x := range a[i].Tensors {
			if y := b[i].Tensors[name]; y == nil || fmt.Sprint(x.Shape) != fmt.Sprint(y.Shape) || !bytes.Equal(x.Data, y.Data) {
				return false
			}
		}
		for k := range a[i].Cases {
			if a[i].Cases[k].ID != b[i].Cases[k].ID {
				return false
			}
		}
	}
	return true
}

// manyPictures makes a table of n different pictures.
func manyPictures(t testing.TB, n int) *Dataset {
	t.Helper()
	dir := t.TempDir()
	table := "id,image,split,label\n"
	for i := range n {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.png", i)), rgbPNG(t, 24+i%3, 20, func(x, y int) color.NRGBA {
			return color.NRGBA{uint8(i), uint8(7 * x), uint8(9 * y), 255}
		}))
		table += fmt.Sprintf("%d,%d.png,train,%d\n", i, i, i%2)
	}
	path := filepath.Join(dir, "data.csv")
	write(t, path, table)
	return mustOpen(t, "table:"+path, Options{})
}

// TestLoaderIsDeterministic: the same batches whatever the number of workers and the
// cache; other batches for another seed or epoch.
func TestLoaderIsDeterministic(t *testing.T) {
	d := manyPictures(t, 13)
	augment := PictureAugment()
	augment.NoiseStd = 0.05
	opt := LoaderOptions{Batch: 4, Shuffle: true, Targets: true, Workers: 1, Load: LoadOptions{Size: 16, Augment: augment, Seed: 3}}
	first := batches(t, d, d.Cases, opt)
	if len(first) != 4 || len(first[3].Cases) != 1 {
		t.Fatalf("%d batches", len(first))
	}
	for _, workers := range []int{1, 2, 7} {
		opt.Workers, opt.Prefetch, opt.Cache = workers, workers, NewCache(1<<20)
		for range 2 { // the second epoch comes from the cache
			if !equalBatches(t, first, batches(t, d, d.Cases, opt)) {
				t.Errorf("%d workers give other batches", workers)
			}
		}
	}
	for name, change := range map[string]func(*LoaderOptions){
		"epoch": func(o *LoaderOptions) { o.Epoch = 1 },
		"seed":  func(o *LoaderOptions) { o.Load.Seed = 4 },
	} {
		o := opt
		change(&o)
		if equalBatches(t, first, batches(t, d, d.Cases, o)) {
			t.Errorf("another %s gives the same batches", name)
		}
	}
}

// TestLoaderResumes: Start k delivers what a whole epoch delivers from batch k on.
func TestLoaderResumes(t *testing.T) {
	d := manyPictures(t, 11)
	opt := LoaderOptions{Batch: 2, Shuffle: true, Load: LoadOptions{Size: 16, Augment: PictureAugment(), Seed: 9}}
	all := batches(t, d, d.Cases, opt)
	opt.Start = 3
	if rest := batches(t, d, d.Cases, opt); !equalBatches(t, all[3:], rest) {
		t.Error("batches 3 and later differ")
	}
	opt.Start, opt.DropLast = 0, true
	if got := batches(t, d, d.Cases, opt); len(got) != 5 {
		t.Errorf("%d full batches of 2 from 11 cases", len(got))
	}
	seen := map[string]int{}
	for _, b := range all {
		for _, c := range b.Cases {
			seen[c.ID]++
		}
	}
	if len(seen) != 11 {
		t.Errorf("an epoch shows %d of 11 cases", len(seen))
	}
}

// TestLoaderStops: closing early, an ended context, and reading on after the end.
// A batch of one size ends where the next case has another, and holds what each case alone has;
// without that, all are padded to the largest.
func TestBatchesOfOneSizeArePaddedByNothing(t *testing.T) {
	d := manyPictures(t, 13)
	var cases []Case // five of 24 columns, four of 25 and four of 26
	for i := range 3 {
		for k := i; k < 13; k += 3 {
			cases = append(cases, d.Cases[k])
		}
	}
	got := batches(t, d, cases, LoaderOptions{Batch: 3, SameSize: true})
	alone := batches(t, d, cases, LoaderOptions{Batch: 1})
	at := 0
	for b, n := range []int{3, 2, 3, 1, 3, 1} {
		if len(got) != 6 || len(got[b].Cases) != n {
			t.Fatalf("%d batches, number %d is %+v, want 6 and %d cases", len(got), b, got[b].Cases, n)
		}
		var want []byte
		for k := range n {
			want = append(want, alone[at+k].Tensors["image.main"].Data...)
			if got[b].Cases[k].ID != cases[at+k].ID {
				t.Errorf("batch %d: case %s, want %s", b, got[b].Cases[k].ID, cases[at+k].ID)
			}
		}
		if !bytes.Equal(got[b].Tensors["image.main"].Data, want) {
			t.Errorf("batch %d is not that of its cases alone", b)
		}
		at += n
	}
	if one := batches(t, d, cases, LoaderOptions{Batch: 13}); len(one) != 1 || one[0].Tensors["image.main"].Shape[3] != 26 {
		t.Error("without SameSize pictures of several sizes share a batch")
	}
}

func TestLoaderStops(t *testing.T) {
	d := manyPictures(t, 9)
	l, err := NewLoader(context.Background(), d, d.Cases, LoaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Next(); err != nil {
		t.Fatal(err)
	}
	l.Close()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	if l, err = NewLoader(ctx, d, d.Cases, LoaderOptions{Workers: 3}); err != nil {
		t.Fatal(err)
	}
	cancel()
	for {
		if _, err = l.Next(); err != nil {
			break
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after the context ended: %v", err)
	}
	if l, err = NewLoader(context.Background(), d, d.Cases[:1], LoaderOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{nil, io.EOF, io.EOF} {
		if _, err := l.Next(); !errors.Is(err, want) && err != want {
			t.Errorf("error %v, want %v", err, want)
		}
	}
}

// TestLoaderReadsAheadWithinBounds: with nobody reading, at most Prefetch batches and
// the one in hand are made.
func TestLoaderReadsAheadWithinBounds(t *testing.T) {
	d := manyPictures(t, 40)
	cache := NewCache(1 << 30)
	l, err := NewLoader(context.Background(), d, d.Cases, LoaderOptions{Prefetch: 3, Workers: 2, Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	made := func() int {
		cache.mu.Lock()
		defer cache.mu.Unlock()
		return len(cache.entries)
	}
	for made() < 3 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // whatever more it would make
	if n := made(); n > 4 {
		t.Errorf("%d batches made ahead, want at most 4", n)
	}
}

func TestLoaderChecksPortsAndTargets(t *testing.T) {
	boxes := mustOpen(t, "boxes:"+boxesDir(t), Options{})
	table := mustOpen(t, "table:"+tableDir(t), Options{})
	volume := sdk.Port{Name: Volume, Shape: []string{"N", "1", "7", "H", "W"}, Required: true}
	for _, c := range []struct {
		name, want string
		d          *Dataset
		opt        LoaderOptions
	}{
		{"no volume", `the encoder wants "volume"; the data have "image.main"`, table, LoaderOptions{Ports: []sdk.Port{volume}}},
		{"no such picture", `the encoder wants "image.derm"`, table, LoaderOptions{Ports: []sdk.Port{{Name: "image.derm", Required: true}}}},
		{"slices", "it wants 7 slices, 3 are asked for", boxes, LoaderOptions{Ports: []sdk.Port{volume}, Load: LoadOptions{Slices: 3}}},
		{"reversed window", "is empty or reversed", boxes, LoaderOptions{Load: LoadOptions{Intensity: &sdk.Intensity{Low: 1, High: -1, OutHigh: 1}}}},
		{"withheld", `case "c.png"`, boxes, LoaderOptions{Targets: true}},
		{"negative", "negative", boxes, LoaderOptions{Batch: -1}},
		{"fixed size", "do not fit it", table, LoaderOptions{Ports: []sdk.Port{{Name: "image.*", Shape: []string{"N", "3", "224", "224"}, Required: true}}, Load: LoadOptions{Size: 300}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := NewLoader(context.Background(), c.d, c.d.Cases, c.opt)
			if err == nil {
				l.Close()
				t.Fatal("no error")
			}
			if !bytes.Contains([]byte(err.Error()), []byte(c.want)) {
				t.Errorf("error %q does not hold %q", err, c.want)
			}
		})
	}
	// Optional ports that nothing feeds are left out; fixed ports set depth and size.
	b := batches(t, table, table.Cases, LoaderOptions{Batch: 2, Ports: []sdk.Port{{Name: "volume"}, {Name: "spacing"}, {Name: "report.state"},
		{Name: "image.main", Shape: []string{"N", "3", "32", "32"}}}})[0]
	if s := b.Tensors["image.main"]; len(b.Tensors) != 1 || s.String() != "FP32 [2 3 32 32]" {
		t.Errorf("tensors %v", b.Tensors)
	}
	b = batches(t, boxes, boxes.Cases[:1], LoaderOptions{Ports: []sdk.Port{volume, {Name: "spacing"}}})[0]
	if b.Tensors[Volume].String() != "FP32 [1 1 7 24 32]" || b.Tensors["spacing"].String() != "FP32 [1 3]" {
		t.Errorf("tensors %v", b.Tensors)
	}
}

// TestDetectionTargets: boxes, classes, diameters and regions of a batch, and images
// without a lesion.
func TestDetectionTargets(t *testing.T) {
	dir := boxesDir(t)
	write(t, filepath.Join(dir, "ignore.csv"), "image,cx,cy,radius\nd.png,6,7,2\n")
	d := mustOpen(t, "boxes:"+dir, Options{})
	train, err := d.Split("train")
	if err != nil {
		t.Fatal(err)
	}
	b := batches(t, d, train, LoaderOptions{Batch: 2, Targets: true})[0]
	wantClose(t, "boxes", floats(t, b, "target.boxes"), []float32{4, 5, 10, 12}, 0)
	wantClose(t, "ignore", floats(t, b, "target.ignore"), []float32{4, 5, 8, 9}, 0)
	image, _ := b.Tensors["target.image"].Int32s()
	ignored, _ := b.Tensors["target.ignore.image"].Int32s()
	class, _ := b.Tensors["target.class"].Int64s()
	if fmt.Sprint(image, ignored, class) != "[0] [1] [0]" || b.Tensors["target.recist"].String() != "FP32 [1 8]" {
		t.Errorf("images %v, ignored %v, classes %v, %v", image, ignored, class, b.Tensors["target.recist"])
	}
	b = batches(t, d, train[1:], LoaderOptions{Targets: true})[0]
	if b.Tensors["target.boxes"].String() != "FP32 [0 4]" || b.Tensors["target.image"].String() != "INT32 [0]" {
		t.Errorf("an image without lesions gives %v, %v", b.Tensors["target.boxes"], b.Tensors["target.image"])
	}

	d = mustOpen(t, "deeplesion:"+deepLesionDir(t), Options{})
	b = batches(t, d, d.Cases[:1], LoaderOptions{Targets: true, Load: LoadOptions{Zoom: 2}})[0]
	// The table counts from 1; at twice the size x becomes 2 x + 0.5.
	wantClose(t, "boxes", floats(t, b, "target.boxes"), []float32{18.5, 20.5, 58.5, 56.5}, 1e-5)
	wantClose(t, "recist", floats(t, b, "target.recist"), []float32{28.5, 38.5, 48.5, 38.5, 38.5, 30.5, 38.5, 46.5}, 1e-5)
	wantClose(t, "spacing", floats(t, b, "spacing"), []float32{2, 0.35, 0.4}, 1e-6)
}

func TestClassificationTargets(t *testing.T) {
	path := tableDir(t)
	d := mustOpen(t, "table:"+path, Options{})
	b := batches(t, d, d.Cases[:3], LoaderOptions{Batch: 3, Targets: true, Load: LoadOptions{Size: 16}})[0]
	if got, _ := b.Tensors["target.label"].Int64s(); fmt.Sprint(got) != "[1 0 0]" {
		t.Errorf("labels %v", got)
	}
	edit(t, path, "label,age,sex", "label.kind,label.level,sex")
	edit(t, path, "train,a,,m", "train,a,x,m")
	d = mustOpen(t, "table:"+path, Options{})
	b = batches(t, d, d.Cases[:3], LoaderOptions{Batch: 3, Targets: true, Load: LoadOptions{Size: 16}})[0]
	kind, _ := b.Tensors["target.label.kind"].Int64s()
	level, _ := b.Tensors["target.label.level"].Int64s()
	if fmt.Sprint(kind, level) != "[1 0 0] [0 3 1]" { // numbers sort by value, before words
		t.Errorf("labels %v %v of %+v", kind, level, d.Labels)
	}
}

func TestCacheKeepsToItsLimitAndLoadsOnce(t *testing.T) {
	c := NewCache(100)
	var loads atomic.Int32
	load := func(bytes int64) func() (any, int64, error) {
		return func() (any, int64, error) {
			loads.Add(1)
			time.Sleep(time.Millisecond)
			return bytes, bytes, nil
		}
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if v, err := c.get("a", load(40)); err != nil || v.(int64) != 40 {
				t.Errorf("%v, %v", v, err)
			}
		})
	}
	group.Wait()
	if loads.Load() != 1 {
		t.Errorf("%d loads of one key at a time", loads.Load())
	}
	for _, key := range []string{"b", "a", "c"} { // b is used least recently when c comes
		if _, err := c.get(key, load(40)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.get("too large", load(101)); err != nil || c.Bytes() != 80 {
		t.Errorf("%d bytes kept, %v", c.Bytes(), err)
	}
	loads.Store(0)
	for _, key := range []string{"a", "c", "b"} {
		if _, err := c.get(key, load(40)); err != nil {
			t.Fatal(err)
		}
	}
	if loads.Load() != 1 {
		t.Errorf("%d loads, want 1 (b)", loads.Load())
	}
	if _, err := c.get("bad", func() (any, int64, error) { return nil, 0, io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
}

// Two of the process's CPUs stay free, and as many batches are kept ahead as hold a sample of
// every worker.
func TestWorkersAreTwoLessThanCPUs(t *testing.T) {
	d := mustOpen(t, "deeplesion:"+deepLesionDir(t), Options{})
	for _, test := range []struct{ cpus, given, batch, workers, prefetch int }{
		{1, 0, 1, 1, 2}, {2, 0, 1, 1, 2}, {3, 0, 1, 1, 2}, {8, 0, 1, 6, 6}, {8, 0, 4, 6, 2}, {34, 0, 4, 32, 8}, {8, 3, 1, 3, 3}, {2, 7, 2, 7, 4},
	} {
		l, err := NewLoader(t.Context(), d, d.Cases, LoaderOptions{CPUs: test.cpus, Workers: test.given, Batch: test.batch, Load: LoadOptions{Slices: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if l.Close(); l.opt.Workers != test.workers || l.opt.Prefetch != test.prefetch {
			t.Errorf("%+v: %d workers, %d batches ahead", test, l.opt.Workers, l.opt.Prefetch)
		}
	}
}
