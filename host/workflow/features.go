package workflow

import (
	"context"
	"errors"
	"fmt"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/workflow/feed"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// Features are the mean tokens of cases as a frozen encoder sees them, [cases][C], with
// several images one behind the other.
func Features(ctx context.Context, o Options, cases []dataset.Case) (_ [][]float64, err error) {
	c := *o.Config
	c.Fusion, c.Head = config.Stage{Plugin: config.None}, config.Stage{Plugin: config.None}
	o.Config, o.Schema, o.Train = &c, nil, false
	s, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if encoder := s.Feed.Encoder; !feed.Frozen(encoder) {
		return nil, &config.Error{Err: fmt.Errorf("encoder %s is not frozen: features of an untrained network say nothing; set encoder.frozen=true and its weights", encoder.Plugin)}
	}
	if s.Tokens != nil {
		if err := s.cacheTokens(ctx, cases); err != nil {
			return nil, err
		}
	}
	var out [][]float64
	var failed error
	err = s.Feed.Tokens(ctx, cases, func(b *dataset.Batch, tokens map[string]*tensor.Tensor) bool {
		rows, err := s.Feed.MeanTokens(tokens, len(b.Cases))
		out, failed = append(out, rows...), err
		return err == nil
	})
	return out, errors.Join(err, failed)
}
