package dataset

import (
	"container/list"
	"sync"

	"golang.org/x/sync/singleflight"
)

// Cache keeps decoded slices and pictures in memory, least recently used ones
// leaving first. It is safe for concurrent use and may serve several loaders.
type Cache struct {
	mu       sync.Mutex
	limit    int64
	used     int64
	order    *list.List // front: used last
	entries  map[string]*list.Element
	inFlight singleflight.Group
}

type cacheEntry struct {
	key   string
	value any
	bytes int64
}

// NewCache returns a cache of at most limitBytes.
func NewCache(limitBytes int64) *Cache {
	return &Cache{limit: limitBytes, order: list.New(), entries: map[string]*list.Element{}}
}

// Bytes returns how much is kept.
func (c *Cache) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// get returns the value of key, calling load at most once at a time per key. A nil
// cache only loads. The value is shared: nobody may write to it.
func (c *Cache) get(key string, load func() (any, int64, error)) (any, error) {
	if c == nil {
		v, _, err := load()
		return v, err
	}
	c.mu.Lock()
	if e, ok := c.entries[key]; ok {
		c.order.MoveToFront(e)
		c.mu.Unlock()
		return e.Value.(*cacheEntry).value, nil
	}
	c.mu.Unlock()
	v, err, _ := c.inFlight.Do(key, func() (any, error) {
		v, bytes, err := load()
		if err != nil {
			return nil, err
		}
		c.put(key, v, bytes)
		return v, nil
	})
	return v, err
}

func (c *Cache) put(key string, v any, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[key]; ok || bytes > c.limit {
		return
	}
	c.entries[key] = c.order.PushFront(&cacheEntry{key, v, bytes})
	for c.used += bytes; c.used > c.limit; {
		last := c.order.Back()
		e := last.Value.(*cacheEntry)
		c.order.Remove(last)
		delete(c.entries, e.key)
		c.used -= e.bytes
	}
}
