package frocio

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/alignedfusion/alignedfusion/internal/stat"
)

// fileEndings are those that an image id may carry or not.
var fileEndings = []string{".gz", ".nii", ".mha", ".mhd", ".nrrd", ".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy", ".npz",
	".svs", ".hdr", ".img", ".txt", ".csv", ".json", ".xml"}

// stem is an id without folder and ending.
func stem(id string) string {
	id = path.Base(strings.ReplaceAll(id, `\`, "/"))
	for {
		ending := strings.ToLower(path.Ext(id))
		if ending == id || !slices.Contains(fileEndings, ending) {
			return id
		}
		id = id[:len(id)-len(ending)]
	}
}

// likeness is what ids have in common that differ only by folder, ending, case, blanks and
// dashes, leading zeros, a decimal .0, nnU-Net's _0000, or by how Unicode writes a letter.
func likeness(id string) string {
	id = strings.TrimSuffix(strings.TrimSuffix(stem(strings.TrimSpace(id)), ".0"), "_0000")
	id = strings.Join(strings.FieldsFunc(norm.NFC.String(strings.ToLower(id)), func(c rune) bool {
		return c == '_' || c == '-' || unicode.IsSpace(c)
	}), "_")
	id = strings.Map(func(c rune) rune {
		if unicode.Is(unicode.Cf, c) {
			return -1 // without width
		}
		return c
	}, id)
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		// a zero that begins a number of more digits
		if id[i] == '0' && (i == 0 || !digit(id[i-1])) {
			for i+1 < len(id) && id[i] == '0' && digit(id[i+1]) {
				i++
			}
		}
		b.WriteByte(id[i])
	}
	return b.String()
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// near returns the known id that an unknown one is most like, see likeness; "" without one.
func (t *Truth) near(id string) string {
	if t.likeness == nil {
		t.likeness = map[string]string{}
		for _, known := range t.list {
			t.likeness[likeness(known)] = known
		}
	}
	if known := t.likeness[likeness(id)]; known != id {
		return known
	}
	return ""
}

// hint is near as the end of a message.
func (t *Truth) hint(id string) string {
	if known := t.near(id); known != "" {
		return fmt.Sprintf("; did you mean %q? The ids must be written alike", clip(known))
	}
	if len(t.Images) > 0 {
		return fmt.Sprintf("; its ids are written like %q", clip(t.Images[0].ID))
	}
	return ""
}

// alias notes an image's file, by which marks may call it instead of by its id. What several
// files are called is nobody's.
func (t *Truth) alias(file string, image int) {
	if file == "" {
		return
	}
	if t.aliases == nil {
		t.aliases = map[string]int{}
	}
	for _, name := range slices.Compact([]string{file, path.Base(file), stem(file)}) {
		of := image
		if other, twice := t.aliases[name]; twice && other != image {
			of = -1
		}
		t.aliases[name] = of
	}
}

// postfixes are what programs put behind an image's id in the names of its files: nnDetection,
// nnU-Net, PI-CAI and RibFrac.
var postfixes = []string{"_boxes", "_0000", "_detection_map", "_label", "-label", "_pred", "-pred"}

// withoutPostfix is the id of a file of a ground truth, in which all names may end with the same postfix.
func withoutPostfix(files []string) func(name string) string {
	for _, postfix := range []string{"_label", "-label"} {
		if !slices.ContainsFunc(files, func(name string) bool { return !strings.HasSuffix(stem(name), postfix) || stem(name) == postfix }) {
			return func(name string) string { return strings.TrimSuffix(stem(name), postfix) }
		}
	}
	return stem
}

// fileID is the image that a file stands for: the id as it is, or without folder and ending.
func (t *Truth) fileID(name string) string {
	ids := []string{name, path.Base(name), stem(name)}
	for _, postfix := range postfixes {
		ids = append(ids, strings.TrimSuffix(stem(name), postfix))
	}
	for _, id := range ids {
		if _, known := t.index[id]; known || t.left[id] {
			return id
		}
	}
	for _, known := range t.list {
		if stem(known) == stem(name) {
			return known
		}
	}
	return stem(name)
}

// warnNearIDs warns of images that are likely one and the same.
func (t *Truth) warnNearIDs(file string) {
	alike := make([]string, len(t.list))
	for i, id := range t.list {
		alike[i] = likeness(id)
	}
	if a, b, twice := stat.Twice(len(alike), func(i int) string { return alike[i] }); twice {
		t.warn("%s: the images %q and %q differ only by folder, ending, case, dashes or leading zeros; they are counted as two", file, clip(t.list[a]), clip(t.list[b]))
	}
}
