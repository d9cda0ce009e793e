package dataset

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alignedfusion/alignedfusion/internal/interval"
	"github.com/alignedfusion/alignedfusion/internal/problem"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Loader delivers the batches of one epoch, made in the background. Close ends it.
type Loader struct {
	data  *Dataset
	cases []Case
	opt   LoaderOptions
	order []int
	// repeat counts, along order, how often the case has come before in this epoch.
	repeat []int
	// bounds are where along order the batches begin, and where the last one ends.
	bounds     []int
	modalities []string
	// spaced are the volumes whose spacing is wanted.
	spaced []string
	depth  int
	// netHeight and netWidth are fixed by the encoder's port, or 0.
	netHeight, netWidth int
	multiple            int
	intensity           map[string]*sdk.Intensity
	volumes             volumes
	// pool holds *[]float32, memory for slices.
	pool sync.Pool

	ctx    context.Context
	cancel context.CancelFunc
	ready  chan *pendingBatch
	group  sync.WaitGroup
	failed error
}

// pendingBatch is a batch whose samples are being rendered.
type pendingBatch struct {
	batch *Batch
	plans []*plan
	left  atomic.Int32
	done  chan struct{}
	errs  []error
}

// sendTime is what handing a batch to the first stage takes, and more.
const sendTime = 3 * time.Millisecond

// NewLoader starts loading. It fails when the data do not have what the ports want,
// when a case has no targets although Options.Targets asks for them, and for options
// that contradict the ports. The loader stops when ctx ends.
func NewLoader(ctx context.Context, d *Dataset, cases []Case, opt LoaderOptions) (*Loader, error) {
	l := &Loader{data: d, cases: cases, opt: opt, intensity: map[string]*sdk.Intensity{}}
	if err := l.resolve(); err != nil {
		return nil, fmt.Errorf("load %s: %w", d.Spec, err)
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	l.ready = make(chan *pendingBatch, l.opt.Prefetch)
	type job struct {
		p *pendingBatch
		i int
	}
	jobs := make(chan job)
	for range l.opt.Workers {
		l.group.Go(func() {
			for j := range jobs {
				if l.ctx.Err() == nil {
					j.p.errs[j.i] = l.render(j.p, j.i)
				}
				if j.p.left.Add(-1) == 0 {
					close(j.p.done)
				}
			}
		})
	}
	l.group.Go(func() {
		defer close(l.ready)
		defer close(jobs)
		var before *pendingBatch
		for b := l.opt.Start; b < l.Len(); b++ {
			p := l.newPending(b)
			select {
			case l.ready <- p:
			case <-l.ctx.Done():
				return
			}
			// A place is free because a batch was taken. When the one before this is ready,
			// there is time: the core is left to whoever took it and is about to send it.
			if before != nil && before.left.Load() == 0 {
				time.Sleep(sendTime)
			}
			before = p
			// Memory is taken after the batch has found its place in the queue.
			if err := l.layOut(p); err != nil {
				p.errs[0] = err
				close(p.done)
				return
			}
			for i := range p.plans {
				select {
				case jobs <- job{p, i}:
				case <-l.ctx.Done():
					return
				}
			}
		}
	})
	return l, nil
}

// resolve fills in defaults and compares options, ports and data.
func (l *Loader) resolve() error {
	o := &l.opt
	defaultTo := func(v *int, value int) {
		if *v == 0 {
			*v = value
		}
	}
	defaultTo(&o.Batch, 1)
	defaultTo(&o.Ranks, 1)
	// Two cores stay free, for whoever computes with the batches and whoever hands them on.
	defaultTo(&o.Workers, max(1, cmp.Or(o.CPUs, runtime.GOMAXPROCS(0))-2))
	defaultTo(&o.Prefetch, max(2, (o.Workers+o.Batch-1)/max(1, o.Batch)))
	if o.Load.SliceSpacingMM == 0 {
		o.Load.SliceSpacingMM = 2
	}
	if o.Load.Zoom == 0 {
		o.Load.Zoom = 1
	}
	if o.Batch < 0 || o.Workers < 0 || o.Prefetch < 0 || o.Start < 0 || o.Load.Slices < 0 || o.Load.BagSize < 0 || o.Load.Size < 0 || o.Load.CropSize < 0 ||
		!(o.Load.SliceSpacingMM > 0) || !(o.Load.Zoom > 0) {
		return fmt.Errorf("%w: a size, a count or a distance is negative", ErrData)
	}
	if len(l.cases) == 0 {
		return fmt.Errorf("%w: no cases", ErrData)
	}
	if err := l.resolvePorts(); err != nil {
		return err
	}
	if o.Load.SizeMultiple > 0 {
		l.multiple = o.Load.SizeMultiple
	}
	defaultTo(&l.multiple, 1)
	for _, m := range l.modalities {
		if o.Load.Intensity != nil {
			l.intensity[m] = o.Load.Intensity
		}
		if l.intensity[m] == nil && !ports.Scan(m) {
			l.intensity[m] = &pictureIntensity
		}
		if in := l.intensity[m]; in != nil {
			if err := checkIntensity(m, in); err != nil {
				return err
			}
		}
	}
	if o.Targets {
		for i := range l.cases {
			if c := &l.cases[i]; !c.HasTargets {
				return fmt.Errorf("%w: case %q (%s) of split %q has no targets: they are unknown or withheld", ErrData, c.ID, c.at, c.Split)
			}
		}
	}
	l.order = make([]int, len(l.cases))
	for i := range l.order {
		l.order[i] = i
	}
	if o.Shuffle {
		rng := rand.New(rand.NewPCG(splitmix64(o.Load.Seed), splitmix64(uint64(o.Epoch))))
		rng.Shuffle(len(l.order), func(i, j int) { l.order[i], l.order[j] = l.order[j], l.order[i] })
		if o.Balance {
			l.order = balanced(l.cases, l.order)
			rng.Shuffle(len(l.order), func(i, j int) { l.order[i], l.order[j] = l.order[j], l.order[i] })
		}
	}
	seen := map[int]int{}
	for _, at := range l.order {
		l.repeat = append(l.repeat, seen[at])
		seen[at]++
	}
	return l.divide()
}

// divide finds the bounds of the batches.
func (l *Loader) divide() error {
	n, whole := len(l.order), l.opt.Batch*l.opt.Ranks
	if n < l.opt.Ranks {
		return fmt.Errorf("%w: %d cases cannot be shared by %d processes", ErrData, n, l.opt.Ranks)
	}
	if l.opt.DropLast {
		n -= n % whole
	}
	var size []int // of the batch under way
	for i := range n {
		var own []int
		if l.opt.SameSize {
			one, err := l.newPlan(l.order[i], l.repeat[i])
			if err != nil {
				return err
			}
			for _, m := range l.modalities {
				h, w := l.netSize([]*plan{one}, m)
				own = append(own, h, w)
			}
		}
		if len(l.bounds) == 0 || i-l.bounds[len(l.bounds)-1] == whole || !slices.Equal(own, size) {
			l.bounds, size = append(l.bounds, i), own
		}
	}
	l.bounds = append(l.bounds, n)
	return nil
}

// balanced draws from every class in turn, within a class in the given order and again from
// its start, as many cases as there are.
func balanced(cases []Case, order []int) []int {
	boxes := map[int]int{}
	for i := range cases {
		for _, b := range cases[i].Boxes {
			boxes[b.Class]++
		}
	}
	classOf := func(c *Case) int {
		class := -1
		for _, b := range c.Boxes {
			if class < 0 || boxes[b.Class] < boxes[class] || boxes[b.Class] == boxes[class] && b.Class < class {
				class = b.Class
			}
		}
		if len(c.Labels) > 0 {
			class = c.Labels[slices.Min(slices.Collect(maps.Keys(c.Labels)))]
		}
		return class
	}
	groups := map[int][]int{}
	for _, at := range order {
		k := classOf(&cases[at])
		groups[k] = append(groups[k], at)
	}
	classes := slices.Sorted(maps.Keys(groups))
	out := make([]int, len(order))
	for i := range out {
		group := groups[classes[i%len(classes)]]
		out[i] = group[i/len(classes)%len(group)]
	}
	return out
}

// resolvePorts finds out which modalities the encoders want, and how.
func (l *Loader) resolvePorts() error {
	o := &l.opt
	l.depth = o.Load.Slices
	if o.Ports == nil {
		l.modalities = l.data.Modalities
		l.spaced = slices.DeleteFunc(slices.Clone(l.modalities), func(m string) bool { return !ports.Scan(m) })
	}
	for _, port := range o.Ports {
		var wanted []string
		switch {
		case ports.Spacing.Has(port.Name) || ports.Spacings.Has(port.Name):
			for _, m := range l.data.Modalities {
				if ports.Scan(m) && matches(port.Name, ports.SpacingOf(m).Name) && !slices.Contains(l.spaced, m) {
					l.spaced = append(l.spaced, m)
				}
			}
			continue
		case ports.Pixels(port.Name):
			for _, m := range l.data.Modalities {
				if matches(port.Name, m) {
					wanted = append(wanted, m)
				}
			}
		default:
			continue // not made from pixels
		}
		if len(wanted) == 0 {
			if port.Required {
				return fmt.Errorf("%w: the encoder wants %q; the data have %s", ErrData, port.Name, problem.Quote(l.data.Modalities))
			}
			continue
		}
		for _, m := range wanted {
			if !slices.Contains(l.modalities, m) {
				l.modalities = append(l.modalities, m)
			}
			if port.Intensity != nil {
				l.intensity[m] = port.Intensity
			}
		}
		l.multiple = max(l.multiple, int(port.SizeMultiple))
		if err := l.resolveShape(port); err != nil {
			return err
		}
	}
	slices.Sort(l.modalities)
	if l.depth == 0 {
		l.depth = 1
	}
	return nil
}

// matches reports whether a name is the port's, or a member of its family.
func matches(port, name string) bool { return sdk.FindPort([]sdk.Port{{Name: port}}, name) != nil }

// resolveShape takes depth, height and width from a port that fixes them.
func (l *Loader) resolveShape(port sdk.Port) error {
	n := len(port.Shape)
	if n < 4 {
		return nil
	}
	if ports.Bags.Has(port.Name) { // the patches of a bag are drawn, whatever their number
		port.Shape = port.Shape[1:]
		n--
	}
	number := func(at int) int {
		v, err := strconv.Atoi(port.Shape[at])
		if err != nil || v < 1 {
			return 0
		}
		return v
	}
	if ports.Scan(port.Name) && n == 5 {
		if d := number(2); d > 0 {
			if l.depth > 0 && l.depth != d {
				return fmt.Errorf("the encoder's port %q is %s: it wants %d slices, %d are asked for", port.Name, tensor.FormatShape(port.Shape), d, l.depth)
			}
			l.depth = d
		}
	}
	h, w := number(n-2), number(n-1)
	if h == 0 || w == 0 {
		return nil
	}
	load := &l.opt.Load
	if load.Size == 0 && load.CropSize == 0 {
		load.Size = min(h, w)
	}
	if side := max(load.Size, load.CropSize); side > min(h, w) || load.CropSize > 0 && load.CropSize != h {
		return fmt.Errorf("the encoder's port %q is %s: images of %d pixels do not fit it", port.Name, tensor.FormatShape(port.Shape), side)
	}
	l.netHeight, l.netWidth = h, w
	return nil
}

// Len is the number of batches of the whole epoch.
func (l *Loader) Len() int { return len(l.bounds) - 1 }

// Next returns the next batch, io.EOF after the last, or the first error in the
// order of cases (wrapping ErrData where the data are bad). An error ends the loader.
func (l *Loader) Next() (*Batch, error) {
	if l.failed != nil {
		return nil, l.failed
	}
	b, err := l.next()
	if err != nil {
		l.failed = err
		l.Close()
	}
	return b, err
}

func (l *Loader) next() (*Batch, error) {
	p, more := <-l.ready
	if !more {
		if err := l.ctx.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	select {
	case <-p.done:
	case <-l.ctx.Done():
		return nil, l.ctx.Err()
	}
	for _, err := range p.errs {
		if err != nil {
			return nil, err
		}
	}
	return p.batch, p.fillAbsent(l.modalities)
}

// fillAbsent notes which cases lack a picture and puts that of another case in its place.
func (p *pendingBatch) fillAbsent(modalities []string) error {
	for _, m := range modalities {
		absent := make([]bool, len(p.plans))
		for i, one := range p.plans {
			absent[i] = one.c.Images[m] == ""
		}
		if !slices.Contains(absent, true) {
			continue
		}
		if p.batch.Absent == nil {
			p.batch.Absent = map[string][]bool{}
		}
		p.batch.Absent[m] = absent
		all, err := p.batch.Tensors[m].Float32s()
		if err != nil {
			return err
		}
		size := len(all) / len(absent)
		if from := slices.Index(absent, false); from >= 0 {
			for i, yes := range absent {
				if yes {
					copy(all[i*size:(i+1)*size], all[from*size:(from+1)*size])
				}
			}
		}
	}
	return nil
}

// Close stops loading and waits for the workers. It may be called more than once.
func (l *Loader) Close() {
	l.cancel()
	l.group.Wait()
}

func (l *Loader) newPending(index int) *pendingBatch {
	first, end := l.part(index)
	cases := l.order[first:end]
	// Losses are means over a batch: of one that the processes share unevenly, each counts
	// by its cases.
	weight := float64(len(cases)*l.opt.Ranks) / float64(l.bounds[index+1]-l.bounds[index])
	p := &pendingBatch{batch: &Batch{Index: index, Weight: weight, Tensors: map[string]*tensor.Tensor{}}, done: make(chan struct{}), errs: make([]error, len(cases))}
	p.left.Store(int32(len(cases)))
	return p
}

// part are the places along order of this process's cases of a batch.
func (l *Loader) part(batch int) (first, end int) {
	first, n := l.bounds[batch], l.bounds[batch+1]-l.bounds[batch]
	return first + n*l.opt.Rank/l.opt.Ranks, first + n*(l.opt.Rank+1)/l.opt.Ranks
}

// layOut plans the samples of a batch and allocates its tensors.
func (l *Loader) layOut(p *pendingBatch) error {
	first, _ := l.part(p.batch.Index)
	for i := range p.errs {
		at := l.order[first+i]
		one, err := l.newPlan(at, l.repeat[first+i])
		if err != nil {
			return err
		}
		p.plans = append(p.plans, one)
		p.batch.Cases = append(p.batch.Cases, l.cases[at])
	}
	n := int64(len(p.plans))
	for _, m := range l.modalities {
		h, w := l.netSize(p.plans, m)
		for _, one := range p.plans {
			one.geometry[m].NetHeight, one.geometry[m].NetWidth = h, w
			for _, patch := range one.patches {
				patch.geometry[m].NetHeight, patch.geometry[m].NetWidth = h, w
			}
		}
		shape := []int64{n, 3, int64(h), int64(w)}
		switch {
		case ports.Scan(m):
			shape = []int64{n, 1, int64(l.depth), int64(h), int64(w)}
		case ports.Bags.Has(m):
			shape = []int64{n, int64(len(p.plans[0].patches)), 3, int64(h), int64(w)}
		}
		t, err := tensor.New(tensor.FP32, shape...)
		if err != nil {
			return fmt.Errorf("load %s: %w", m, err)
		}
		p.batch.Tensors[m] = t
	}
	for _, one := range p.plans {
		var g Geometry
		if len(l.modalities) > 0 {
			g = *one.geometry[l.modalities[0]]
		}
		p.batch.Geometry = append(p.batch.Geometry, g)
		if one.picks != nil {
			p.batch.Bags = append(p.batch.Bags, one.picks)
		}
	}
	for _, m := range l.spaced {
		p.batch.Tensors[ports.SpacingOf(m).Name] = l.spacings(p.plans, m)
	}
	if l.opt.Targets {
		l.targets(p)
	}
	return nil
}

// netSize is the size of the network's input: what the port fixes, the side asked
// for, or the largest content of the batch; padded to the multiple.
func (l *Loader) netSize(plans []*plan, modality string) (h, w int) {
	if l.netHeight > 0 {
		return l.netHeight, l.netWidth
	}
	h, w = l.opt.Load.Size, l.opt.Load.Size
	if l.opt.Load.CropSize > 0 || h == 0 {
		h, w = 0, 0
		for _, one := range plans {
			h, w = max(h, one.contentHeight[modality]), max(w, one.contentWidth[modality])
		}
	}
	up := func(v int) int { return (v + l.multiple - 1) / l.multiple * l.multiple }
	return up(h), up(w)
}

func (l *Loader) spacings(plans []*plan, modality string) *tensor.Tensor {
	values := make([]float32, 0, 3*len(plans))
	for _, one := range plans {
		s := one.geometry[modality].scale()
		v := one.c.sight(modality)
		mm := v.spacingMM
		for k := 1; k < 3; k++ {
			if !(mm[k] > 0) {
				mm[k] = 1
			}
		}
		values = append(values, float32(v.distanceMM(l.depth, l.opt.Load.SliceSpacingMM)), float32(mm[1]/s), float32(mm[2]/s))
	}
	return tensor.OfFloat32s(values, int64(len(plans)), 3)
}

// labelTargets adds the targets of a label set, as what it asks wants them.
func (l *Loader) labelTargets(p *pendingBatch, set sdk.LabelSet) {
	out, sets, n := p.batch.Tensors, l.data.Labels, len(p.plans)
	if set.Question == sdk.AsksNumber {
		values := make([]float32, n)
		for i, one := range p.plans {
			values[i] = float32(math.NaN())
			if m, ok := one.c.Measured[set.Name]; ok {
				values[i] = float32((m.Value - set.Mean) / set.SD)
			}
		}
		out[ports.NumberTarget(sets, set.Name).Name] = tensor.OfFloat32s(values, int64(n))
		return
	}
	labels, censored := make([]int64, n), make([]int8, n)
	for i, one := range p.plans {
		m, measured := one.c.Measured[set.Name]
		switch {
		case set.Classed():
			labels[i] = int64(one.c.Labels[set.Name])
		case measured:
			bounds, _ := interval.Bounds(set.Classes) // Scale made them, or the run
			labels[i], censored[i] = timeTarget(bounds, m)
		default:
			labels[i] = -1
		}
	}
	out[ports.LabelTarget(sets, set.Name).Name] = tensor.OfInt64s(labels)
	if set.Question == sdk.AsksTime {
		out[ports.CensoredTarget(sets, set.Name).Name] = tensor.OfInt8s(censored, int64(n))
	}
}

// targets adds the target.* tensors.
func (l *Loader) targets(p *pendingBatch) {
	out := p.batch.Tensors
	if l.data.Task == Classify {
		for _, set := range l.data.Labels {
			l.labelTargets(p, set)
		}
		return
	}
	var boxes, recist, ignore []float32
	var image, ignoreImage []int32
	var class []int64
	for i, one := range p.plans {
		for k := range one.boxes {
			boxes = append(boxes, one.boxes[k][:]...)
			recist = append(recist, one.recist[k][:]...)
			class = append(class, one.classes[k])
			image = append(image, int32(i))
		}
		for _, region := range one.ignore {
			ignore = append(ignore, region[:]...)
			ignoreImage = append(ignoreImage, int32(i))
		}
	}
	m, k := int64(len(image)), int64(len(ignoreImage))
	out[ports.TargetBoxes.Name] = tensor.OfFloat32s(boxes, m, 4)
	out[ports.TargetRECIST.Name] = tensor.OfFloat32s(recist, m, 8)
	out[ports.TargetClass.Name] = tensor.OfInt64s(class, m)
	out[ports.TargetImage.Name] = tensor.OfInt32s(image, m)
	out[ports.TargetIgnore.Name] = tensor.OfFloat32s(ignore, k, 4)
	out[ports.TargetIgnoreImage.Name] = tensor.OfInt32s(ignoreImage, k)
}

// render fills one sample's place in the batch.
func (l *Loader) render(p *pendingBatch, i int) error {
	one := p.plans[i]
	for _, m := range l.modalities {
		if one.c.Images[m] == "" {
			continue // fillAbsent
		}
		all, err := p.batch.Tensors[m].Float32s()
		if err != nil {
			return err
		}
		size := len(all) / len(p.plans)
		mine := all[i*size : (i+1)*size]
		switch {
		case ports.Scan(m):
			err = l.renderVolume(one, m, mine)
		case len(one.patches) > 0:
			size = len(mine) / len(one.patches)
			for k := 0; k < len(one.patches) && err == nil; k++ {
				err = l.renderPicture(one.patches[k], m, mine[k*size:(k+1)*size])
			}
		default:
			err = l.renderPicture(one, m, mine)
		}
		if err != nil {
			return fmt.Errorf("case %q (%s): %w", one.c.ID, one.c.at, err)
		}
	}
	return nil
}
