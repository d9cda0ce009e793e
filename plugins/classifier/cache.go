package classifier

import (
	"container/list"
	"crypto/sha256"
	"unsafe"
)

// key is the digest of a picture's pixels.
type key [sha256.Size]byte

func keyOf(pixels []float32) key {
	if len(pixels) == 0 {
		return key{}
	}
	return sha256.Sum256(unsafe.Slice((*byte)(unsafe.Pointer(&pixels[0])), 4*len(pixels)))
}

// entry holds the tokens [T,C] of one picture.
type entry struct {
	values []float32
	shape  []int64
	key    key
}

// tokenCache keeps the tokens of pictures seen before, the least recently used
// leaving first. Pictures that are augmented anew each time never hit it.
type tokenCache struct {
	limit, used int64
	order       *list.List // of *entry, most recent first
	byKey       map[key]*list.Element
}

func newTokenCache(limit int64) *tokenCache {
	return &tokenCache{limit: limit, order: list.New(), byKey: map[key]*list.Element{}}
}

func (c *tokenCache) get(k key) *entry {
	el := c.byKey[k]
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*entry)
}

func (c *tokenCache) put(k key, e *entry) {
	size := int64(4 * len(e.values))
	if c.byKey[k] != nil || size > c.limit {
		return
	}
	// A row of a batch is a view: the copy lets the batch go.
	kept := &entry{values: append([]float32(nil), e.values...), shape: append([]int64(nil), e.shape...), key: k}
	c.byKey[k] = c.order.PushFront(kept)
	for c.used += size; c.used > c.limit; {
		last := c.order.Back()
		old := c.order.Remove(last).(*entry)
		delete(c.byKey, old.key)
		c.used -= int64(4 * len(old.values))
	}
}
