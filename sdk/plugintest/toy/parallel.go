package toy

import (
	"context"
	"encoding/gob"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// peers are a stage's connections in its group: of rank 0 to all others, of those to rank 0.
type peers struct {
	size    int
	hub     bool // rank 0
	decode  []*gob.Decoder
	encode  []*gob.Encoder
	pending chan error
}

// Join connects with rank 0, whose parameters all take over.
func (s *Stage) Join(ctx context.Context, req *sdk.JoinRequest) error {
	s.peers.size, s.peers.hub = req.Size, req.Rank == 0
	add := func(conn net.Conn) {
		s.peers.decode, s.peers.encode = append(s.peers.decode, gob.NewDecoder(conn)), append(s.peers.encode, gob.NewEncoder(conn))
	}
	if req.Rank == 0 {
		l, err := net.Listen("tcp", req.Store)
		if err != nil {
			return err
		}
		defer l.Close()
		for range req.Size - 1 {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			add(conn)
		}
	} else {
		for {
			conn, err := net.Dial("tcp", req.Store)
			if err == nil {
				add(conn)
				break
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if req.AveragedBy != nil {
		req.AveragedBy("rank 0 of the toy")
	}
	return s.exchange(func(p *param) []float64 { return p.v }, func(mine, _ [][]float64) [][]float64 { return mine })
}

// Average begins to average the gradients.
func (s *Stage) Average(context.Context) error {
	if s.peers.size == 0 {
		return sdk.Errorf(sdk.FailedPrecondition, "the stage is in no group")
	}
	s.peers.pending = make(chan error, 1)
	go func() {
		err := s.exchange(func(p *param) []float64 { return p.g }, func(sum, more [][]float64) [][]float64 {
			for i := range sum {
				for k := range sum[i] {
					sum[i][k] += more[i][k]
				}
			}
			return sum
		})
		for _, p := range s.params {
			for k := range p.g {
				p.g[k] /= float64(s.peers.size)
			}
		}
		s.peers.pending <- err
	}()
	return nil
}

// settle waits for an average that has begun.
func (s *Stage) settle() (err error) {
	if s.peers.pending != nil {
		err = <-s.peers.pending
		s.peers.pending = nil
	}
	return err
}

// exchange gives all members what rank 0 has folded of theirs.
func (s *Stage) exchange(of func(*param) []float64, fold func(all, more [][]float64) [][]float64) error {
	var own [][]float64
	names := slices.Sorted(maps.Keys(s.params))
	for _, name := range names {
		own = append(own, of(s.params[name]))
	}
	if !s.peers.hub {
		if err := s.peers.encode[0].Encode(own); err != nil {
			return err
		}
	}
	for _, d := range s.peers.decode {
		var more [][]float64
		if err := d.Decode(&more); err != nil {
			return err
		}
		if s.peers.hub {
			own = fold(own, more)
		} else {
			own = more
		}
	}
	for i, name := range names {
		copy(of(s.params[name]), own[i])
	}
	for _, e := range s.peers.encode {
		if s.peers.hub {
			if err := e.Encode(own); err != nil {
				return err
			}
		}
	}
	return nil
}
