package loop

import (
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

// Progress is told what happens.
type Progress interface {
	// Start says how many steps there are in all and how many of them are done.
	Start(total, done int)
	Step(runs.Record)
	Validation(r runs.Record, v Validation, best bool)
	Warn(text string)
	// Close ends the display.
	Close()
}

// NewProgress shows a bar with the time left when w is a terminal, and lines
// elsewhere: one every lineEvery (0: ten seconds), and one per validation.
func NewProgress(w io.Writer, lineEvery time.Duration) Progress {
	if lineEvery == 0 {
		lineEvery = 10 * time.Second
	}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return &bar{w: w}
	}
	return &lines{w: w, every: lineEvery}
}

// All tells several.
type All []Progress

// Start implements Progress.
func (a All) Start(total, done int) {
	for _, p := range a {
		p.Start(total, done)
	}
}

// Step implements Progress.
func (a All) Step(r runs.Record) {
	for _, p := range a {
		p.Step(r)
	}
}

// Validation implements Progress.
func (a All) Validation(r runs.Record, v Validation, best bool) {
	for _, p := range a {
		p.Validation(r, v, best)
	}
}

// Warn implements Progress.
func (a All) Warn(text string) {
	for _, p := range a {
		p.Warn(text)
	}
}

// Close implements Progress.
func (a All) Close() {
	for _, p := range a {
		p.Close()
	}
}

type lines struct {
	w     io.Writer
	every time.Duration

	total, done int
	started     time.Time
	last        time.Time
}

func (l *lines) Start(total, done int) {
	l.total, l.done = total, done
	l.started, l.last = time.Now(), time.Now()
	if done > 0 {
		fmt.Fprintf(l.w, "continuing after step %d of %d\n", done, total)
	}
}

func (l *lines) Step(r runs.Record) {
	if r.Loss == nil || (time.Since(l.last) < l.every && r.Step < l.total) {
		return
	}
	l.last = time.Now()
	left := time.Duration(float64(time.Since(l.started)) / float64(r.Step-l.done) * float64(l.total-r.Step))
	head, tail := fmt.Sprintf("step %d/%d  epoch %d  loss %.4f", r.Step, l.total, r.Epoch, *r.Loss), fmt.Sprintf("  %.2f s/step  %s left", r.StepSec, left.Round(time.Second))
	each := lossText(r)
	if each != "" && len(head)+len(each)+len(tail)+3 <= columns {
		fmt.Fprintf(l.w, "%s (%s)%s\n", head, each, tail)
		return
	}
	fmt.Fprintln(l.w, head+tail)
	if each != "" {
		fmt.Fprintf(l.w, "  %s\n", each)
	}
}

// columns that a line of progress may take, where its losses have names of usual length.
const columns = 80

func (l *lines) Validation(r runs.Record, v Validation, best bool) {
	fmt.Fprintln(l.w, validationText(r, v, best))
}

func (l *lines) Warn(text string) { fmt.Fprintf(l.w, "warning: %s\n", text) }

func (l *lines) Close() {}

// lossText names each loss; "" where there is one only.
func lossText(r runs.Record) string {
	var each []string
	for _, name := range slices.Sorted(maps.Keys(r.Losses)) {
		each = append(each, fmt.Sprintf("%s %.4f", name, r.Losses[name]))
	}
	if len(each) < 2 {
		return ""
	}
	return strings.Join(each, ", ")
}

func validationText(r runs.Record, v Validation, best bool) string {
	text := fmt.Sprintf("epoch %d  step %d  validation %s ", r.Epoch, r.Step, v.Metric)
	if math.IsNaN(v.Value) {
		text += "undefined"
	} else {
		text += fmt.Sprintf("%.4f", v.Value)
	}
	if best {
		text += "  (best)"
	}
	return text
}

// bar draws on a terminal.
type bar struct {
	w        io.Writer
	progress *mpb.Progress
	bar      *mpb.Bar
	last     string
	since    time.Time
}

func (b *bar) Start(total, done int) {
	b.progress = mpb.New(mpb.WithOutput(b.w), mpb.WithWidth(24))
	b.bar = b.progress.AddBar(int64(total),
		mpb.PrependDecorators(decor.Name("training "), decor.CountersNoUnit("%d/%d"), decor.Name(" ")),
		mpb.AppendDecorators(
			decor.Name(" "), decor.EwmaETA(decor.ET_STYLE_GO, 30), decor.Name(" left  "),
			decor.Any(func(decor.Statistics) string { return b.last }),
		),
	)
	b.bar.SetCurrent(int64(done))
	b.since = time.Now()
}

func (b *bar) Step(r runs.Record) {
	if r.Loss != nil {
		b.last = fmt.Sprintf("loss %.4f", *r.Loss) // each stage's would not fit 80 columns
	}
	b.bar.EwmaIncrement(time.Since(b.since))
	b.since = time.Now()
}

func (b *bar) Validation(r runs.Record, v Validation, best bool) {
	fmt.Fprintln(b.progress, validationText(r, v, best))
	b.since = time.Now()
}

func (b *bar) Warn(text string) { fmt.Fprintf(b.progress, "warning: %s\n", text) }

func (b *bar) Close() {
	if b.progress == nil {
		return
	}
	if !b.bar.Completed() {
		b.bar.Abort(false)
	}
	b.progress.Wait()
}
