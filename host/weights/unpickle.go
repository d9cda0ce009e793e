package weights

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// ErrUnsafe is returned when a pickle uses an instruction or a name that is not on
// the list of those that only build data.
var ErrUnsafe = errors.New("not a plain checkpoint")

// ErrFormat is returned when a file is not what PyTorch writes: truncated, wrong
// magic numbers, sizes that do not add up.
var ErrFormat = errors.New("broken checkpoint")

// Limits that keep a hostile file from taking all memory.
const (
	maxPickleBytes = 256 << 20
	maxItems       = 10_000_000
	maxDepth       = 200
)

// global is a name of Python that the file refers to.
type global string

// What a restricted pickle may refer to besides storages: containers and tensors.
var allowedGlobals = map[global]bool{
	"collections.OrderedDict":         true,
	"torch._utils._rebuild_tensor":    true,
	"torch._utils._rebuild_tensor_v2": true,
	"torch._utils._rebuild_parameter": true,
	"torch.Size":                      true,
}

// storageType returns the dtype of the storages that g is the class of.
func storageType(g global) (tensor.DType, bool) {
	class, ok := strings.CutPrefix(string(g), "torch.")
	named, known := tensor.FromStorage(class)
	return named.DType, ok && known
}

// Values of a pickle: nil, bool, int64, float64, string, []byte, tuple, *list, *dict,
// global, *storage and *torchTensor.
type (
	tuple []any
	list  struct{ items []any }
	dict  struct {
		keys   []any
		values []any
	}
	mark struct{}
)

func (d *dict) get(name string) (any, bool) {
	for i := len(d.keys) - 1; i >= 0; i-- {
		if k, ok := d.keys[i].(string); ok && k == name {
			return d.values[i], true
		}
	}
	return nil, false
}

// unpickler reads one pickle. persistent resolves the references to storages.
type unpickler struct {
	data       []byte
	at         int
	stack      []any
	memo       map[int]any
	items      int
	persistent func(id any) (any, error)
}

func unpickle(data []byte, persistent func(id any) (any, error)) (value any, rest []byte, err error) {
	u := &unpickler{data: data, memo: map[int]any{}, persistent: persistent}
	value, err = u.run()
	if err != nil {
		return nil, nil, fmt.Errorf("at byte %d of the pickle: %w", u.at, err)
	}
	return value, u.data[u.at:], nil
}

func (u *unpickler) take(n int) ([]byte, error) {
	if n < 0 || n > len(u.data)-u.at {
		return nil, fmt.Errorf("%w: %d bytes wanted, %d left", ErrFormat, n, len(u.data)-u.at)
	}
	b := u.data[u.at : u.at+n]
	u.at += n
	return b, nil
}

func (u *unpickler) line() (string, error) {
	for i := u.at; i < len(u.data); i++ {
		if u.data[i] == '\n' {
			s := string(u.data[u.at:i])
			u.at = i + 1
			return s, nil
		}
	}
	return "", fmt.Errorf("%w: a line does not end", ErrFormat)
}

// sized reads a little-endian count of width bytes and that many bytes.
func (u *unpickler) sized(width int) ([]byte, error) {
	n, err := u.uint(width)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(u.data)) {
		return nil, fmt.Errorf("%w: a string of %d bytes", ErrFormat, n)
	}
	return u.take(int(n))
}

func (u *unpickler) uint(width int) (uint64, error) {
	b, err := u.take(width)
	if err != nil {
		return 0, err
	}
	var full [8]byte
	copy(full[:], b)
	return binary.LittleEndian.Uint64(full[:]), nil
}

func (u *unpickler) push(v any) error {
	if u.items++; u.items > maxItems {
		return fmt.Errorf("%w: more than %d values", ErrFormat, maxItems)
	}
	u.stack = append(u.stack, v)
	return nil
}

func (u *unpickler) pop() (any, error) {
	if len(u.stack) == 0 {
		return nil, fmt.Errorf("%w: the stack is empty", ErrFormat)
	}
	v := u.stack[len(u.stack)-1]
	if _, ok := v.(mark); ok {
		return nil, fmt.Errorf("%w: a mark where a value belongs", ErrFormat)
	}
	u.stack = u.stack[:len(u.stack)-1]
	return v, nil
}

// popMark takes everything above the last mark, and the mark.
func (u *unpickler) popMark() ([]any, error) {
	for i := len(u.stack) - 1; i >= 0; i-- {
		if _, ok := u.stack[i].(mark); ok {
			items := append([]any(nil), u.stack[i+1:]...)
			u.stack = u.stack[:i]
			return items, nil
		}
	}
	return nil, fmt.Errorf("%w: no mark", ErrFormat)
}

func (u *unpickler) popTuple(n int) error {
	t := make(tuple, n)
	for i := n - 1; i >= 0; i-- {
		v, err := u.pop()
		if err != nil {
			return err
		}
		t[i] = v
	}
	return u.push(t)
}

func (u *unpickler) top() (any, error) {
	if len(u.stack) == 0 {
		return nil, fmt.Errorf("%w: the stack is empty", ErrFormat)
	}
	return u.stack[len(u.stack)-1], nil
}

func (u *unpickler) remember(key int) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	if _, ok := v.(mark); ok {
		return fmt.Errorf("%w: a mark is remembered", ErrFormat)
	}
	u.memo[key] = v
	return nil
}

func (u *unpickler) recall(key int) error {
	v, ok := u.memo[key]
	if !ok {
		return fmt.Errorf("%w: nothing is remembered under %d", ErrFormat, key)
	}
	return u.push(v)
}

func (u *unpickler) name(module, name string) error {
	g := global(module + "." + name)
	if _, storage := storageType(g); !storage && !allowedGlobals[g] {
		return fmt.Errorf("%w: it refers to %q", ErrUnsafe, string(g))
	}
	return u.push(g)
}

func (u *unpickler) setItems(items []any) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	d, ok := v.(*dict)
	if !ok || len(items)%2 != 0 {
		return fmt.Errorf("%w: %d entries set on %T", ErrFormat, len(items), v)
	}
	for i := 0; i < len(items); i += 2 {
		d.keys, d.values = append(d.keys, items[i]), append(d.values, items[i+1])
	}
	return nil
}

func (u *unpickler) appendItems(items []any) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	l, ok := v.(*list)
	if !ok {
		return fmt.Errorf("%w: entries appended to %T", ErrFormat, v)
	}
	l.items = append(l.items, items...)
	return nil
}

// run executes instructions up to STOP. Only those that build data are known.
func (u *unpickler) run() (any, error) {
	for {
		b, err := u.take(1)
		if err != nil {
			return nil, err
		}
		if b[0] == '.' {
			return u.pop()
		}
		if err := u.step(b[0]); err != nil {
			return nil, err
		}
	}
}

func (u *unpickler) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		b, err := u.take(1)
		if err == nil && b[0] > 5 {
			err = fmt.Errorf("%w: pickle protocol %d", ErrFormat, b[0])
		}
		return err
	case 0x95: // FRAME
		_, err := u.take(8)
		return err
	case '(':
		return u.push(mark{})
	case '0': // POP
		_, err := u.pop()
		return err
	case 'N':
		return u.push(nil)
	case 0x88, 0x89:
		return u.push(op == 0x88)
	case ']':
		return u.push(&list{})
	case '}':
		return u.push(&dict{})
	case ')':
		return u.push(tuple{})
	case 't', 'l', 'd':
		items, err := u.popMark()
		if err != nil {
			return err
		}
		switch op {
		case 't':
			return u.push(tuple(items))
		case 'l':
			return u.push(&list{items})
		}
		if err := u.push(&dict{}); err != nil {
			return err
		}
		return u.setItems(items)
	case 0x85, 0x86, 0x87:
		return u.popTuple(int(op) - 0x84)
	case 's':
		value, err := u.pop()
		if err != nil {
			return err
		}
		key, err := u.pop()
		if err != nil {
			return err
		}
		return u.setItems([]any{key, value})
	case 'u':
		items, err := u.popMark()
		if err != nil {
			return err
		}
		return u.setItems(items)
	case 'a':
		v, err := u.pop()
		if err != nil {
			return err
		}
		return u.appendItems([]any{v})
	case 'e':
		items, err := u.popMark()
		if err != nil {
			return err
		}
		return u.appendItems(items)
	case 'q', 'h', 'r', 'j':
		width := 1
		if op == 'r' || op == 'j' {
			width = 4
		}
		key, err := u.uint(width)
		if err != nil {
			return err
		}
		if op == 'q' || op == 'r' {
			return u.remember(int(key))
		}
		return u.recall(int(key))
	case 0x94: // MEMOIZE
		return u.remember(len(u.memo))
	case 'c':
		module, err := u.line()
		if err != nil {
			return err
		}
		name, err := u.line()
		if err != nil {
			return err
		}
		return u.name(module, name)
	case 0x93: // STACK_GLOBAL
		name, err := u.pop()
		if err != nil {
			return err
		}
		module, err := u.pop()
		if err != nil {
			return err
		}
		m, ok1 := module.(string)
		n, ok2 := name.(string)
		if !ok1 || !ok2 {
			return fmt.Errorf("%w: a name that is no string", ErrFormat)
		}
		return u.name(m, n)
	case 'R':
		return u.reduce()
	case 'b':
		return u.build()
	case 'Q':
		id, err := u.pop()
		if err != nil {
			return err
		}
		if u.persistent == nil {
			return fmt.Errorf("%w: a reference to outside data", ErrUnsafe)
		}
		v, err := u.persistent(id)
		if err != nil {
			return err
		}
		return u.push(v)
	}
	return u.literal(op)
}

// literal reads numbers and strings.
func (u *unpickler) literal(op byte) error {
	switch op {
	case 'K', 'M':
		width := 1
		if op == 'M' {
			width = 2
		}
		v, err := u.uint(width)
		if err != nil {
			return err
		}
		return u.push(int64(v))
	case 'J':
		v, err := u.uint(4)
		if err != nil {
			return err
		}
		return u.push(int64(int32(v)))
	case 'I':
		s, err := u.line()
		if err != nil {
			return err
		}
		if s == "00" || s == "01" {
			return u.push(s == "01")
		}
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%w: number %q", ErrFormat, s)
		}
		return u.push(v)
	case 'L':
		s, err := u.line()
		if err != nil {
			return err
		}
		v, err := strconv.ParseInt(strings.TrimSuffix(s, "L"), 10, 64)
		if err != nil {
			return fmt.Errorf("%w: number %q", ErrFormat, s)
		}
		return u.push(v)
	case 0x8a, 0x8b: // LONG1, LONG4
		width := 1
		if op == 0x8b {
			width = 4
		}
		b, err := u.sized(width)
		if err != nil {
			return err
		}
		if len(b) > 16 {
			return fmt.Errorf("%w: an integer of %d bytes", ErrFormat, len(b))
		}
		return u.push(long(b))
	case 'G':
		b, err := u.take(8)
		if err != nil {
			return err
		}
		return u.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 'F':
		s, err := u.line()
		if err != nil {
			return err
		}
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%w: number %q", ErrFormat, s)
		}
		return u.push(v)
	case 'U', 0x8c, 'T', 'X', 0x8d:
		width := map[byte]int{'U': 1, 0x8c: 1, 'T': 4, 'X': 4, 0x8d: 8}[op]
		b, err := u.sized(width)
		if err != nil {
			return err
		}
		return u.push(string(b))
	case 'C', 'B', 0x8e:
		width := map[byte]int{'C': 1, 'B': 4, 0x8e: 8}[op]
		b, err := u.sized(width)
		if err != nil {
			return err
		}
		return u.push(b)
	}
	return fmt.Errorf("%w: instruction 0x%02x does more than build data", ErrUnsafe, op)
}

// long is a little-endian two's complement integer: int64 where it fits, else its bytes
// (PyTorch's magic number).
func long(b []byte) any {
	if len(b) > 8 {
		return append([]byte(nil), b...)
	}
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	if n := len(b); n > 0 && n < 8 && b[n-1]&0x80 != 0 {
		v |= ^uint64(0) << (8 * n)
	}
	return int64(v)
}

// reduce calls one of the allowed names.
func (u *unpickler) reduce() error {
	arguments, err := u.pop()
	if err != nil {
		return err
	}
	callee, err := u.pop()
	if err != nil {
		return err
	}
	args, ok1 := arguments.(tuple)
	name, ok2 := callee.(global)
	if !ok1 || !ok2 {
		return fmt.Errorf("%w: a call of %T", ErrUnsafe, callee)
	}
	switch name {
	case "collections.OrderedDict":
		d := &dict{}
		if len(args) == 1 {
			pairs, ok := args[0].(*list)
			if !ok {
				return fmt.Errorf("%w: OrderedDict of %T", ErrFormat, args[0])
			}
			for _, p := range pairs.items {
				pair, ok := pairOf(p)
				if !ok {
					return fmt.Errorf("%w: OrderedDict of something other than pairs", ErrFormat)
				}
				d.keys, d.values = append(d.keys, pair[0]), append(d.values, pair[1])
			}
		}
		return u.push(d)
	case "torch.Size":
		if len(args) != 1 {
			return fmt.Errorf("%w: torch.Size of %d values", ErrFormat, len(args))
		}
		return u.push(args[0])
	case "torch._utils._rebuild_parameter":
		if len(args) < 1 {
			return fmt.Errorf("%w: a parameter of nothing", ErrFormat)
		}
		t, ok := args[0].(*torchTensor)
		if !ok {
			return fmt.Errorf("%w: a parameter of %T", ErrFormat, args[0])
		}
		return u.push(t)
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2":
		t, err := rebuildTensor(args)
		if err != nil {
			return err
		}
		return u.push(t)
	}
	return fmt.Errorf("%w: a call of %s", ErrUnsafe, name)
}

func pairOf(v any) ([]any, bool) {
	switch p := v.(type) {
	case tuple:
		return p, len(p) == 2
	case *list:
		return p.items, len(p.items) == 2
	}
	return nil, false
}

// build sets attributes. OrderedDict's state (state dicts carry _metadata) is dropped.
func (u *unpickler) build() error {
	if _, err := u.pop(); err != nil {
		return err
	}
	v, err := u.top()
	if err != nil {
		return err
	}
	if _, ok := v.(*dict); !ok {
		return fmt.Errorf("%w: attributes set on %T", ErrUnsafe, v)
	}
	return nil
}
