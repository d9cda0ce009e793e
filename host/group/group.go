package group

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// EnvSilence is how long a process of a group, or one of its plugins, may give no sign of
// life before it is taken for hung (a duration such as 45s).
const EnvSilence = "ALIGNEDFUSION_RANK_TIMEOUT"

const (
	defaultSilence = 30 * time.Second
	// joinTimeout is how long processes wait for each other at the start: nodes of a cluster
	// fetch images.
	joinTimeout = 10 * time.Minute
	// localJoinTimeout is the same where one process starts the others.
	localJoinTimeout = time.Minute
	// farewell is how long a process that ends waits for the others to have read why.
	farewell = 2 * time.Second
)

// Group is a process's connection with the others. The nil Group is a process alone.
//
// Rank 0 is the hub: every other process has one connection, to it. Each side says once in
// a while that it is alive.
type Group struct {
	World
	// Silence is the longest time without a sign of life.
	Silence time.Duration
	// addresses are where the ranks reach each other, names who they are.
	addresses, names []string

	stopped  func() bool // a signal asked this process to stop
	stopping bool        // one asked any, as of the last Gather
	listener net.Listener
	peers    map[int]*peer

	mu      sync.Mutex
	failure *Failure
	failed  chan struct{}
	closed  bool
}

// peer is the process at the other end of a connection.
type peer struct {
	rank  int
	who   string
	conn  net.Conn
	mu    sync.Mutex
	out   *gob.Encoder
	in    *gob.Decoder
	inbox chan message
	done  chan struct{} // nothing more will be read
}

type kind int

const (
	hello kind = iota
	welcome
	alive
	share
	failed
	bye
)

// message is what travels.
type message struct {
	Kind kind
	// Rank, Size, Token and Text of hello; Rank, Text and Fault of failed.
	Rank, Size  int
	Token, Text string
	Fault       fault.Kind
	// Names and Addresses of welcome, by rank.
	Names, Addresses []string
	// All holds what the ranks share: one value to rank 0, all of them back.
	All  [][]byte
	Stop bool
}

// Failure is why a group ended: one of its processes failed, died or hung.
type Failure struct {
	Rank int
	// Who names the process.
	Who, Text string
	Kind      fault.Kind
}

// Error formats as `rank 1 (process 4711 on node7): …`.
func (f *Failure) Error() string { return fmt.Sprintf("rank %d (%s): %s", f.Rank, f.Who, f.Text) }

// Fault is what the process itself said, or fault.Plugin.
func (f *Failure) Fault() fault.Kind {
	if f.Kind == fault.None {
		return fault.Plugin
	}
	return f.Kind
}

// Join meets the other processes of a world; nil gives the nil Group. ctx ends when this
// process is asked to stop: the others then learn of it (Stopping). wait is told now and then
// who is still missing; lost, which may be nil, gives why somebody will not come.
func Join(ctx context.Context, w *World, wait func(text string), lost <-chan error) (*Group, error) {
	if w == nil {
		return nil, nil
	}
	g := &Group{World: *w, Silence: defaultSilence, peers: map[int]*peer{}, failed: make(chan struct{}), stopped: func() bool { return ctx.Err() != nil }}
	if text := os.Getenv(EnvSilence); text != "" {
		var err error
		if g.Silence, err = time.ParseDuration(text); err != nil || g.Silence <= 0 {
			return nil, fault.Errorf(fault.Usage, "$%s is %q, want a duration such as 45s", EnvSilence, text)
		}
	}
	patience := joinTimeout
	if g.Token != "" {
		patience = localJoinTimeout
	}
	joining, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	if w.Rank == 0 {
		err = g.gatherPeers(joining, wait, lost)
	} else {
		err = g.findHub(joining)
	}
	if err != nil {
		g.hangUp()
		return nil, err
	}
	for _, p := range g.peers {
		go g.listen(p)
		go g.beat(p)
	}
	return g, nil
}

func newPeer(conn net.Conn) *peer {
	return &peer{conn: conn, out: gob.NewEncoder(conn), in: gob.NewDecoder(conn), inbox: make(chan message, 1), done: make(chan struct{})}
}

func (p *peer) send(m message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.conn.SetWriteDeadline(time.Now().Add(time.Minute))
	return p.out.Encode(m)
}

// gatherPeers waits, as rank 0, until everybody is there.
func (g *Group) gatherPeers(ctx context.Context, wait func(string), lost <-chan error) error {
	where := net.JoinHostPort("", strconv.Itoa(g.Port))
	if g.Address == "127.0.0.1" {
		where = net.JoinHostPort(g.Address, strconv.Itoa(g.Port))
	}
	l, err := net.Listen("tcp", where)
	if err != nil {
		return fmt.Errorf("rank 0 cannot listen for the %d others: %w; choose another $MASTER_PORT", g.Size-1, err)
	}
	g.listener = l
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	arrived := make(chan *peer)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(arrived)
				return
			}
			go g.greet(ctx, conn, arrived)
		}
	}()
	g.names, g.addresses = make([]string, g.Size), make([]string, g.Size)
	g.names[0] = self()
	remind := time.NewTicker(10 * time.Second)
	defer remind.Stop()
	for len(g.peers) < g.Size-1 {
		select {
		case p, open := <-arrived:
			if !open {
				return fmt.Errorf("%s after %w", g.missing(), context.Cause(ctx))
			}
			if g.peers[p.rank] != nil {
				return fault.Errorf(fault.Usage, "two processes say they are rank %d: %s and another", p.rank, g.names[p.rank])
			}
			g.peers[p.rank], g.names[p.rank] = p, p.who
		case <-remind.C:
			wait(g.missing())
		case err := <-lost:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", g.missing(), context.Cause(ctx))
		}
	}
	g.findAddresses()
	for _, p := range g.peers {
		if err := p.send(message{Kind: welcome, Names: g.names, Addresses: g.addresses}); err != nil {
			return fmt.Errorf("rank %d (%s): %w", p.rank, g.names[p.rank], err)
		}
	}
	return nil
}

func (g *Group) missing() string {
	var ranks []string
	for rank := 1; rank < g.Size; rank++ {
		if g.peers[rank] == nil {
			ranks = append(ranks, strconv.Itoa(rank))
		}
	}
	return fmt.Sprintf("of %d processes, those of rank %s have not come to %s port %d", g.Size, strings.Join(ranks, ", "), g.Address, g.Port)
}

// greet reads who has come. Strangers are sent away.
func (g *Group) greet(ctx context.Context, conn net.Conn, arrived chan<- *peer) {
	p := newPeer(conn)
	var m message
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if err := p.in.Decode(&m); err != nil || m.Kind != hello || m.Token != g.Token {
		_ = conn.Close()
		return
	}
	if m.Size != g.Size || m.Rank < 1 || m.Rank >= g.Size {
		text := fmt.Sprintf("it was started as rank %d of %d, rank 0 is one of %d", m.Rank, m.Size, g.Size)
		_ = p.send(message{Kind: failed, Rank: m.Rank, Text: text, Fault: fault.Usage})
		_ = conn.Close()
		return
	}
	p.rank, p.who = m.Rank, m.Text
	select {
	case arrived <- p:
	case <-ctx.Done():
		_ = conn.Close()
	}
}

// findAddresses says where every rank is reached: as rank 0 sees it, and where that is this
// machine while others are elsewhere, as the others see this machine.
func (g *Group) findAddresses() {
	hub := ""
	for _, p := range g.peers {
		own, _, _ := net.SplitHostPort(p.conn.LocalAddr().String())
		if hub == "" || !net.ParseIP(own).IsLoopback() {
			hub = own
		}
	}
	g.addresses[0] = hub
	for rank, p := range g.peers {
		g.addresses[rank], _, _ = net.SplitHostPort(p.conn.RemoteAddr().String())
		if net.ParseIP(g.addresses[rank]).IsLoopback() {
			g.addresses[rank] = hub
		}
	}
}

// findHub connects to rank 0, which may come later.
func (g *Group) findHub(ctx context.Context) error {
	where := net.JoinHostPort(g.Address, strconv.Itoa(g.Port))
	for {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", where)
		if err == nil {
			p := newPeer(conn)
			g.peers[0] = p
			return g.introduce(ctx, p)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("rank 0 at %s: %w; %w", where, err, context.Cause(ctx))
		}
	}
}

// introduce waits for the welcome, which comes when everybody is there.
func (g *Group) introduce(ctx context.Context, p *peer) error {
	if err := p.send(message{Kind: hello, Rank: g.Rank, Size: g.Size, Token: g.Token, Text: self()}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetReadDeadline(time.Now()) })
	defer stop()
	var m message
	if err := p.in.Decode(&m); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fault.Errorf(fault.Plugin, "rank 0 at %s ended before all %d processes were there: %w", g.Address, g.Size, err)
	}
	if m.Kind == failed {
		return &Failure{Rank: m.Rank, Who: self(), Text: m.Text, Kind: m.Fault}
	}
	g.names, g.addresses = m.Names, m.Addresses
	return nil
}

// beat says that this process is alive.
func (g *Group) beat(p *peer) {
	clock := time.NewTicker(min(time.Second, g.Silence/4))
	defer clock.Stop()
	for {
		select {
		case <-clock.C:
			_ = p.send(message{Kind: alive}) // the other end is watched by listen
		case <-p.done:
			return
		}
	}
}

// listen reads what the other end says, until there is nothing more to say.
func (g *Group) listen(p *peer) {
	defer close(p.done)
	defer p.conn.Close()
	for {
		var m message
		_ = p.conn.SetReadDeadline(time.Now().Add(g.Silence))
		err := p.in.Decode(&m)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			g.fail(p.rank, fmt.Sprintf("no sign of life for %v: it hangs, or cannot be reached", g.Silence), fault.Plugin)
			return
		case err != nil:
			g.fail(p.rank, "it has gone without a word: killed, or its machine is down", fault.Plugin)
			return
		case m.Kind == share:
			p.inbox <- m
		case m.Kind == failed:
			g.fail(m.Rank, m.Text, m.Fault)
			return
		case m.Kind == bye:
			return
		}
	}
}

// fail ends the group with the first failure; rank 0 tells the others.
func (g *Group) fail(rank int, text string, kind fault.Kind) {
	g.mu.Lock()
	first := g.failure == nil && !g.closed
	if first {
		g.failure = &Failure{Rank: rank, Who: g.names[rank], Text: text, Kind: kind}
		close(g.failed)
	}
	g.mu.Unlock()
	if !first {
		return
	}
	for _, p := range g.peers {
		if p.rank != rank {
			_ = p.send(message{Kind: failed, Rank: rank, Text: text, Fault: kind})
		}
	}
}

// Fail ends the group for a reason of this process's; nil is none.
func (g *Group) Fail(err error) {
	if g != nil && err != nil {
		g.fail(g.World.Rank, err.Error(), fault.Of(err))
	}
}

// Failed is closed when the group has failed; nil for a process alone.
func (g *Group) Failed() <-chan struct{} {
	if g == nil {
		return nil
	}
	return g.failed
}

// Err is why the group failed, if it has; within a moment, when wait is set: who only
// notices that another process is gone learns of the reason a little later.
func (g *Group) Err(wait time.Duration) error {
	if g == nil {
		return nil
	}
	if wait > 0 {
		select {
		case <-g.failed:
		case <-time.After(wait):
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failure == nil {
		return nil
	}
	return g.failure
}

// Close leaves the group; with an error that is this process's own the others end as well.
func (g *Group) Close(err error) {
	if g == nil {
		return
	}
	if err != nil && g.Err(0) == nil {
		g.Fail(err)
	}
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	var group sync.WaitGroup
	for _, p := range g.peers {
		group.Go(func() {
			_ = p.send(message{Kind: bye})
			if c, ok := p.conn.(*net.TCPConn); ok {
				_ = c.CloseWrite() // what was sent arrives: closing at once could throw it away
			}
			select {
			case <-p.done:
			case <-time.After(farewell):
			}
		})
	}
	group.Wait()
	g.hangUp()
}

func (g *Group) hangUp() {
	if g.listener != nil {
		_ = g.listener.Close()
	}
	for _, p := range g.peers {
		_ = p.conn.Close()
	}
}

// ErrLeft is returned by Gather after another process has left in order.
var ErrLeft = errors.New("a process has left the group")

// gather shares one value of each rank with all.
func (g *Group) gather(mine []byte) ([][]byte, error) {
	own := message{Kind: share, All: [][]byte{mine}, Stop: g.stopped()}
	if g.World.Rank > 0 {
		if err := g.peers[0].send(own); err != nil && g.Err(0) == nil {
			return nil, err
		}
		m, err := g.receive(g.peers[0])
		g.stopping = m.Stop
		return m.All, err
	}
	all := make([][]byte, g.Size)
	all[0] = mine
	for rank := 1; rank < g.Size; rank++ {
		m, err := g.receive(g.peers[rank])
		if err != nil {
			return nil, err
		}
		all[rank], own.Stop = m.All[0], own.Stop || m.Stop
	}
	own.All, g.stopping = all, own.Stop
	for _, p := range g.peers {
		if err := p.send(own); err != nil && g.Err(0) == nil {
			return nil, err
		}
	}
	return all, nil
}

func (g *Group) receive(p *peer) (message, error) {
	select {
	case m := <-p.inbox:
		return m, nil
	case <-g.failed:
		return message{}, g.Err(0)
	case <-p.done:
		if err := g.Err(0); err != nil {
			return message{}, err
		}
		return message{}, fmt.Errorf("rank %d: %w", p.rank, ErrLeft)
	}
}

// Gather shares a value of each rank with all of them, in the order of ranks. All processes
// call it the same number of times. The values must be what encoding/gob takes.
func Gather[T any](g *Group, mine T) ([]T, error) {
	if g == nil {
		return []T{mine}, nil
	}
	var buffer bytes.Buffer
	if err := gob.NewEncoder(&buffer).Encode(&mine); err != nil {
		return nil, err
	}
	all, err := g.gather(buffer.Bytes())
	if err != nil {
		return nil, err
	}
	out := make([]T, len(all))
	for i, data := range all {
		if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&out[i]); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("what rank %d shared: %w", i, err)
		}
	}
	return out, nil
}

// Wait waits until all processes are here.
func (g *Group) Wait() error {
	_, err := Gather(g, true)
	return err
}

// Stopping reports whether a signal has asked any of the processes to stop, as they all knew
// at the last Gather; of a process alone, whether ctx has ended.
func (g *Group) Stopping(ctx context.Context) bool {
	if g == nil {
		return ctx.Err() != nil
	}
	return g.stopping
}

// Count is the number of processes, Number this one's rank.
func (g *Group) Count() int {
	if g == nil {
		return 1
	}
	return g.Size
}

// Number is this process's rank.
func (g *Group) Number() int {
	if g == nil {
		return 0
	}
	return g.World.Rank
}

// Where is the address at which the others reach a rank.
func (g *Group) Where(rank int) string { return g.addresses[rank] }

// Same refuses processes whose texts about a thing differ.
func Same(g *Group, what, mine string) error {
	all, err := Gather(g, mine)
	if err != nil {
		return err
	}
	if rank := slices.IndexFunc(all, func(other string) bool { return other != all[0] }); rank > 0 {
		return fault.Errorf(fault.Usage, "rank %d and rank 0 differ in %s: %s", rank, what, difference(all[rank], all[0]))
	}
	return nil
}

// difference are the first lines in which two texts differ.
func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(x), len(y)) {
		line := func(lines []string) string {
			if i < len(lines) {
				return strings.TrimSpace(lines[i])
			}
			return ""
		}
		if line(x) != line(y) {
			return fmt.Sprintf("%q and %q", line(x), line(y))
		}
	}
	return ""
}
