package dataset

import (
	"container/list"
	"sync"

	"golang.org/x/sync/singleflight"
)

// Cache keeps decoded slices and pictures in memory, least recently used ones
// leaving first, and in a folder where it has one (OnDisk). It is safe for concurrent use
// and may serve several loaders.
type Cache struct {
	mu       sync.Mutex
	limit    int64
	used     int64
	order    *list.List // front: used last
	entries  map[string]*list.Element
	inFlight singleflight.Group
	disk     *diskCache
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

// OnDisk keeps what is decoded in a folder too, of at most limitBytes, that other runs may
// share. It fails where nothing can be written.
func (c *Cache) OnDisk(dir string, limitBytes int64) (err error) {
	c.disk, err = openDiskCache(dir, limitBytes)
	return err
}

// Bytes returns how much is kept.
func (c *Cache) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// decoded returns the image that decode makes of a file; how tells apart what else could be
// made of it.
func (c *Cache) decoded(file, how string, decode func() (*plane, error)) (*plane, error) {
	return c.image(how+"\x00"+file, func() (*plane, error) { return c.fromDisk(file, how, decode) })
}

// fromDisk is decoded for what is kept in memory otherwise.
func (c *Cache) fromDisk(file, how string, decode func() (*plane, error)) (*plane, error) {
	if c == nil {
		return decode()
	}
	return c.disk.get(file, how, decode)
}

// image is get for images.
func (c *Cache) image(key string, load func() (*plane, error)) (*plane, error) {
	v, err := c.get(key, func() (any, int64, error) {
		p, err := load()
		if err != nil {
			return nil, 0, err
		}
		return p, p.bytes(), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*plane), nil
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
