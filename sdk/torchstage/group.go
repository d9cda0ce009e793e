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
	// contexts hold what stays in the process of each, by name.
	contexts map[uint64]map[string]*resident
	// evalContext is the EVAL context whose residents are still kept.
	evalContext *uint64
}

// resident is a tensor that stays, the gradient that its consumers have left (nil: none has),
// and who made it.
type resident struct {
	value, grad *ts.Tensor
	maker       *stage
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
		g = &Group{name: name, objects: map[string]any{}, contexts: map[uint64]map[string]*resident{}}
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

func (g *Group) store(context uint64, name string, t *ts.Tensor, maker *stage) {
	if g.contexts[context] == nil {
		g.contexts[context] = map[string]*resident{}
	}
	g.contexts[context][name] = &resident{value: t, maker: maker}
}

// drop frees the residents of a context.
func (g *Group) drop(context uint64) { g.dropOf(context, nil) }

// dropOf frees those that one stage has made; nil: all.
func (g *Group) dropOf(context uint64, maker *stage) {
	r := g.contexts[context]
	for name, t := range r {
		if maker != nil && t.maker != maker {
			continue
		}
		_ = t.value.Drop()
		if t.grad != nil {
			_ = t.grad.Drop()
		}
		delete(r, name)
	}
	if len(r) == 0 {
		delete(g.contexts, context)
	}
}
