package plughost

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

const (
	ringLines    = 200
	ringLineSize = 4 << 10
)

// logRing keeps the last lines a plugin wrote. A line without end costs no more than
// ringLineSize. Lines also go to tee, when there is one, with the plugin's name.
type logRing struct {
	mu    sync.Mutex
	lines []string
	// headline is the first line of a crash report, whose length may exceed the ring's.
	headline string
	partial  []byte
	name     string
	tee      io.Writer
}

// Write takes text in pieces of any size; it never fails.
func (r *logRing) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		piece := p
		if end >= 0 {
			piece, p = p[:end], p[end+1:]
		} else {
			p = nil
		}
		if room := ringLineSize - len(r.partial); len(piece) > room {
			piece = piece[:room]
		}
		r.partial = append(r.partial, piece...)
		if end >= 0 {
			r.flush()
		}
	}
	return n, nil
}

func (r *logRing) flush() {
	line := printable(string(bytes.TrimRight(r.partial, "\r")))
	r.partial = r.partial[:0]
	if len(r.lines) == ringLines {
		copy(r.lines, r.lines[1:])
		r.lines = r.lines[:ringLines-1]
	}
	r.lines = append(r.lines, line)
	if r.headline == "" && slices.ContainsFunc(crashHeadlines, func(h string) bool { return strings.HasPrefix(line, h) }) {
		r.headline = line
	}
	if r.tee != nil {
		fmt.Fprintf(r.tee, "%s: %s\n", r.name, line)
	}
}

// crashHeadlines start the reports of crashes in Go and C++. Python's say the error in
// their last line.
var crashHeadlines = []string{"panic: ", "fatal error: ", "unexpected fault address", "terminate called", "runtime: out of memory"}

// tail returns the last n lines, with the headline of a crash report before them.
func (r *logRing) tail(n int) []string {
	lines := r.last()
	lines = lines[max(0, len(lines)-n):]
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.headline != "" && !slices.Contains(lines, r.headline) {
		lines = append([]string{r.headline, "…"}, lines...)
	}
	return lines
}

// last returns the lines there are, an unfinished one included.
func (r *logRing) last() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := append([]string(nil), r.lines...)
	if len(r.partial) > 0 {
		out = append(out, printable(string(r.partial)))
	}
	return out
}
