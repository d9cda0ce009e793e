package torchstage

import (
	"sync"

	"github.com/sugarme/gotch/ts"
)

// Group is what stages of one pipeline share inside one process: objects the
// author puts there, and the resident tensors of each context. All use is on the
// torch thread.
type Group struct {
	name    string
	users   int
	objects map[string]any
	// resident tensors by context, and the gradients their consumers left.
	contexts map[uint64]*residents
	// evalContext is the EVAL context whose residents are still kept.
	evalContext *uint64
}

type residents struct {
	values map[string]*ts.Tensor
	grads  map[string]*ts.Tensor
}

var groups = struct {
	sync.Mutex
	byName map[string]*Group
}{byName: map[string]*Group{}}

func joinGroup(name string) *Group {
	groups.Lock()
	defer groups.Unlock()
	g := groups.byName[name]
	if name == "" || g == nil {
		g = &Group{name: name, objects: map[string]any{}, contexts: map[uint64]*residents{}}
		if name != "" {
			groups.byName[name] = g
		}
	}
	g.users++
	return g
}

func (g *Group) leave() {
	groups.Lock()
	defer groups.Unlock()
	if g.users--; g.users == 0 {
		for id := range g.contexts {
			g.drop(id)
		}
		delete(groups.byName, g.name)
	}
}

// Put shares an object under a name.
func (g *Group) Put(name string, object any) { g.objects[name] = object }

// Get returns a shared object, nil when there is none.
func (g *Group) Get(name string) any { return g.objects[name] }

func (g *Group) store(context uint64, name string, t *ts.Tensor) {
	r := g.contexts[context]
	if r == nil {
		r = &residents{map[string]*ts.Tensor{}, map[string]*ts.Tensor{}}
		g.contexts[context] = r
	}
	r.values[name] = t
}

// drop frees the residents of a context.
func (g *Group) drop(context uint64) {
	r := g.contexts[context]
	if r == nil {
		return
	}
	for _, t := range r.values {
		_ = t.Drop()
	}
	for _, t := range r.grads {
		_ = t.Drop()
	}
	delete(g.contexts, context)
}
