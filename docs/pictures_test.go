package docs

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// caption is a line of text in an SVG, from left to right.
type caption struct {
	text              string
	left, right, base float64
}

// captions reads the texts of an SVG with the lengths that they are set to, and its width.
func captions(t *testing.T, path string) (found []caption, width float64) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	anchors := []string{""}
	d := xml.NewDecoder(file)
	for {
		token, err := d.Token()
		if err != nil {
			return found, width // io.EOF, or a picture that the test of its length finds empty
		}
		start, ok := token.(xml.StartElement)
		if _, end := token.(xml.EndElement); end {
			anchors = anchors[:len(anchors)-1]
		}
		if !ok {
			continue
		}
		anchor, number := anchors[len(anchors)-1], map[string]float64{}
		for _, a := range start.Attr {
			if a.Name.Local == "text-anchor" {
				anchor = a.Value
			}
			number[a.Name.Local], _ = strconv.ParseFloat(a.Value, 64)
			if a.Name.Local == "viewBox" {
				var box struct{ x, y, w, h float64 }
				if _, err := fmt.Sscan(a.Value, &box.x, &box.y, &box.w, &box.h); err != nil {
					t.Fatal(err)
				}
				width = box.w
			}
		}
		anchors = append(anchors, anchor)
		if start.Name.Local != "text" {
			continue
		}
		var text string
		if err := d.DecodeElement(&text, &start); err != nil {
			t.Fatal(err)
		}
		anchors = anchors[:len(anchors)-1]
		c := caption{text, number["x"], number["x"] + number["textLength"], number["y"]}
		if number["textLength"] == 0 {
			t.Errorf("%s: %q has no textLength: a wide font in the place of a missing one makes it collide", path, text)
		}
		if anchor == "middle" {
			c.left, c.right = c.left-number["textLength"]/2, c.right-number["textLength"]/2
		}
		found = append(found, c)
	}
}

// Texts of pictures are outlines, or have a set length: so they take the same place whichever
// font a reader has, and none may touch another or the border.
func TestCaptionsOfPicturesDoNotCollide(t *testing.T) {
	paths, err := filepath.Glob("explanation/froc/*.svg")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		found, width := captions(t, path)
		if width == 0 {
			t.Errorf("%s is no SVG with a viewBox", path)
		}
		for i, a := range found {
			if a.left < 0 || a.right > width {
				t.Errorf("%s: %q reaches from %v to %v, the picture to %v", path, a.text, a.left, a.right, width)
			}
			for _, b := range found[:i] {
				if a.base == b.base && a.left < b.right+4 && b.left < a.right+4 {
					t.Errorf("%s: %q and %q touch", path, a.text, b.text)
				}
			}
		}
	}
}
