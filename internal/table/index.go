package table

import "hash/maphash"

// Index numbers texts in the order in which they first come. The zero value has none.
type Index struct {
	// Texts are those that came, by their numbers.
	Texts []string

	seed maphash.Seed
	// slots hold 1 + the number of a text at the place of its hash or, where others lie there,
	// in the next free one; their count is a power of two. A map would take four times as much.
	slots []uint32
}

// Add returns the number of a text, and whether it came for the first time.
func (x *Index) Add(text string) (number int, isNew bool) {
	if 2*len(x.Texts) >= len(x.slots) {
		x.grow()
	}
	at := x.place(text)
	for x.slots[at] != 0 {
		if number = int(x.slots[at] - 1); x.Texts[number] == text {
			return number, false
		}
		at = (at + 1) & (len(x.slots) - 1)
	}
	x.Texts = append(x.Texts, text)
	x.slots[at] = uint32(len(x.Texts))
	return len(x.Texts) - 1, true
}

// place is where the search for a text begins.
func (x *Index) place(text string) int {
	return int(maphash.String(x.seed, text) & uint64(len(x.slots)-1))
}

func (x *Index) grow() {
	if x.slots == nil {
		x.seed = maphash.MakeSeed()
	}
	x.slots = make([]uint32, max(64, 4*len(x.slots)))
	for number, text := range x.Texts {
		at := x.place(text)
		for x.slots[at] != 0 {
			at = (at + 1) & (len(x.slots) - 1)
		}
		x.slots[at] = uint32(number + 1)
	}
}
