package dataset

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pixels is an image of 10 x 10 that says its number, in a file of its own.
func pixels(t *testing.T, dir string, n int) (file string, p *plane) {
	t.Helper()
	file = filepath.Join(dir, fmt.Sprintf("%d.png", n))
	write(t, file, fmt.Sprint(n))
	p = &plane{h: 10, w: 10, hu16: make([]int16, 100)}
	for i := range p.hu16 {
		p.hu16[i] = int16(n - i)
	}
	return file, p
}

func diskCacheOf(t *testing.T, dir string, limit int64) *diskCache {
	t.Helper()
	c, err := openDiskCache(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ask returns an image and whether it had to be decoded.
func ask(t *testing.T, c *diskCache, file string, p *plane) (decoded bool) {
	t.Helper()
	got, err := c.get(file, "slice", func() (*plane, error) { decoded = true; return p, nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, got, cmp.AllowUnexported(plane{})); diff != "" {
		t.Error(diff)
	}
	return decoded
}

func TestImagesComeBackFromTheFolderAsTheyWere(t *testing.T) {
	for name, p := range map[string]*plane{
		"hu16": {h: 1, w: 3, hu16: []int16{-32768, 0, 32767}}, "hu32": {h: 3, w: 1, hu32: []float32{-1024.5, 0, 3071}},
		"grey": {h: 1, w: 2, grey8: []uint8{0, 255}}, "rgb": {h: 1, w: 1, rgb: []uint8{1, 2, 3}},
	} {
		data := p.format()
		if diff := cmp.Diff(p, parsePlane(data), cmp.AllowUnexported(plane{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for at := range data {
			data[at] ^= 1
			if q := parsePlane(data); q != nil {
				t.Errorf("%s: byte %d was changed, and the image is taken", name, at)
			}
			data[at] ^= 1
		}
		if parsePlane(data[:len(data)-1]) != nil || parsePlane(nil) != nil {
			t.Errorf("%s: an image that is cut off is taken", name)
		}
	}
}

func TestAFileThatChangedIsDecodedAgain(t *testing.T) {
	dir := t.TempDir()
	file, p := pixels(t, dir, 1)
	c := diskCacheOf(t, filepath.Join(dir, "cache"), 1<<20)
	if !ask(t, c, file, p) || ask(t, c, file, p) || ask(t, diskCacheOf(t, c.dir, 1<<20), file, p) {
		t.Error("decoded the first time, then taken from the folder, by another process too")
	}
	if err := os.Chtimes(file, time.Now(), time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if !ask(t, c, file, p) {
		t.Error("the file is another one, and the old image is taken")
	}
	if err := os.WriteFile(c.path(file, "slice"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !ask(t, c, file, p) || ask(t, c, file, p) {
		t.Error("a damaged image is decoded again and then kept")
	}
}

func TestTheFolderKeepsToItsSize(t *testing.T) {
	dir := t.TempDir()
	one := int64(cachedHead + 200)
	first := diskCacheOf(t, filepath.Join(dir, "cache"), 3*one)
	var files []string
	var planes []*plane
	for n := range 6 {
		file, p := pixels(t, dir, n)
		files, planes = append(files, file), append(planes, p)
	}
	for n := range 4 {
		ask(t, first, files[n], planes[n])
	}
	if !ask(t, first, files[3], planes[3]) || ask(t, first, files[0], planes[0]) {
		t.Error("what a run uses stays, and what does not fit is not kept")
	}
	for n, age := range []time.Duration{1, 3, 2} { // 1 was used longest ago
		used := time.Now().Add(-age * time.Hour)
		if err := os.Chtimes(first.path(files[n], "slice"), used, used); err != nil {
			t.Fatal(err)
		}
	}
	second := diskCacheOf(t, first.dir, 3*one)
	if ask(t, second, files[2], planes[2]) || !ask(t, second, files[4], planes[4]) || !ask(t, second, files[5], planes[5]) {
		t.Error("a second run finds 2 and decodes 4 and 5")
	}
	for n, kept := range []bool{false, false, true, false, true, true} {
		if _, err := os.Stat(first.path(files[n], "slice")); (err == nil) != kept {
			t.Errorf("image %d: %v, want kept %t", n, err, kept)
		}
	}
}

func TestTwoProcessesWriteOneFolder(t *testing.T) {
	dir := t.TempDir()
	pixels(t, dir, 0)
	var group sync.WaitGroup
	for range 4 {
		c := diskCacheOf(t, filepath.Join(dir, "cache"), 1<<20)
		group.Go(func() {
			for n := range 20 {
				file := filepath.Join(dir, "0.png")
				want := int16(n)
				got, err := c.get(file, fmt.Sprint("slice ", n), func() (*plane, error) { return &plane{h: 1, w: 1, hu16: []int16{want}}, nil })
				if err != nil || got.hu16[0] != want {
					t.Errorf("%v, %v", got, err)
				}
			}
		})
	}
	group.Wait()
	left, err := filepath.Glob(filepath.Join(dir, "cache", "*", temporaryStart+"*"))
	if len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
	if _, err := openDiskCache(filepath.Join(dir, "0.png"), 1); err == nil {
		t.Error("a file is taken as the folder")
	}
}
