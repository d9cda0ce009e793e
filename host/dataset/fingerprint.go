package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/alignedfusion/alignedfusion/internal/table"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
)

// fingerprintBytes are read from the start and from the end of an image file: enough to
// tell images apart, and little beside reading volumes whole.
const fingerprintBytes = 1 << 18

// Fingerprints are those of cases (Fingerprint); what several of them show is read once.
func (d *Dataset) Fingerprints(cases []Case) ([]string, error) {
	sums := make([]string, len(cases))
	same := make([]int, len(cases)) // the first case that shows the same
	var shown table.Index
	var first []int
	for i := range cases {
		number, isNew := shown.Add(d.shown(&cases[i]))
		if isNew {
			first = append(first, i)
		}
		same[i] = first[number]
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, i := range first {
		group.Go(func() (err error) {
			sums[i], err = d.Fingerprint(&cases[i])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, k := range same {
		sums[i] = sums[k]
	}
	return sums, nil
}

// shown is equal for cases of equal fingerprints, as far as one knows without reading files.
func (d *Dataset) shown(c *Case) string {
	if len(c.Images) == 0 {
		return "\x00" + c.ID
	}
	var text []byte
	for _, modality := range d.Modalities {
		if path := c.Images[modality]; path != "" {
			v := c.sight(modality)
			text = append(append(append(append(text, modality...), 0), path...), 0)
			text = strconv.AppendInt(text, int64(v.key), 10)
			if v.crop != ([4]float64{}) {
				text = fmt.Append(text, v.crop)
			}
		}
	}
	return string(text)
}

// Fingerprint identifies what a case shows by the content of its image files, whatever
// they, the case or its data set are called. A case without images is identified by its
// name and labels.
func (d *Dataset) Fingerprint(c *Case) (string, error) {
	h := sha256.New()
	if len(c.Images) == 0 {
		fmt.Fprintf(h, "%s %v\n", c.ID, c.Labels)
	}
	for _, modality := range slices.Sorted(maps.Keys(c.Images)) {
		v := c.sight(modality)
		if s := d.stacks[v.stack]; s != nil && s.nifti != "" {
			fmt.Fprintf(h, "slice %d\n", v.key)
		}
		if v.crop != ([4]float64{}) { // another lesion of a slice shows something else
			fmt.Fprintf(h, "part %v\n", v.crop)
		}
		if err := hashEnds(h, c.Images[modality]); err != nil {
			return "", fmt.Errorf("%w: case %q: %w", ErrData, c.ID, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func hashEnds(h io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%d\n", info.Size())
	if _, err := io.CopyN(h, f, min(info.Size(), fingerprintBytes)); err != nil {
		return err
	}
	if info.Size() <= fingerprintBytes {
		return nil
	}
	_, err = io.Copy(h, io.NewSectionReader(f, max(fingerprintBytes, info.Size()-fingerprintBytes), fingerprintBytes))
	return err
}

// Flat counts the cases around whose slice there is nothing to see: they belong to no volume,
// or to one of a single slice, or it is not known how far apart its slices are, and the slice
// stands in for its neighbours.
func (d *Dataset) Flat(cases []Case) int {
	n := 0
	for i := range cases {
		c := &cases[i]
		flat := false
		shown := slices.DeleteFunc(slices.Collect(maps.Keys(c.Images)), func(m string) bool { return c.Images[m] == "" || !ports.Scan(m) })
		if c.Stack != "" && len(c.sights) == 0 {
			shown = []string{Volume}
		}
		for _, m := range shown {
			v := c.sight(m)
			s := d.stacks[v.stack]
			flat = flat || s == nil || max(len(s.files), s.depth) == 1 || v.spacingMM[0] <= 0 && v.low == v.top
		}
		if flat {
			n++
		}
	}
	return n
}
