//go:build unix

package toy_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// serveBroken serves the well-behaved plugin and breaks one rule of a process. It stands
// beside the SDK's Serve, which keeps these rules for every plugin.
func serveBroken(rule string) {
	p := toy.Linear()
	if len(os.Args) == 2 && os.Args[1] == serve.DescribeFlag {
		if rule == "describe" {
			p.Manifest.Version += "-other"
		}
		serve.Plugin(p)
		return
	}
	b := &breaker{rule: rule}
	serveVersion(sdk.ProtocolMajor, &server{plugin: p}, func(options []grpc.ServerOption) *grpc.Server {
		return grpc.NewServer(append(options, grpc.UnaryInterceptor(b.intercept))...)
	})
}

// breaker stands before every call.
type breaker struct {
	rule  string
	kept  [][]byte
	files []*os.File
}

func (b *breaker) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	switch {
	case b.rule == "health" && info.FullMethod == grpc_health_v1.Health_Check_FullMethodName:
		return nil, status.Error(codes.NotFound, "unknown service")
	case b.rule == "shutdown" && strings.HasSuffix(info.FullMethod, "/Shutdown"):
		return nil, status.Error(codes.Unimplemented, "it ends when it likes")
	case b.rule == "memory" && info.FullMethod == stagev1.StageService_Forward_FullMethodName:
		block := make([]byte, 256<<10)
		for i := range block {
			block[i] = 1
		}
		b.kept = append(b.kept, block)
	case b.rule == "files" && info.FullMethod == stagev1.StageService_Forward_FullMethodName:
		f, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		b.files = append(b.files, f)
	case b.rule == "process" && info.FullMethod == stagev1.StageService_Open_FullMethodName:
		if _, given := req.(*stagev1.OpenRequest).GetSettings()["no-such-setting"]; given {
			fmt.Fprintln(os.Stderr, "KeyError: no-such-setting")
			os.Exit(1)
		}
	}
	return handler(ctx, req)
}

// server is the service in go-plugin's terms.
type server struct {
	noClient
	plugin sdk.Plugin
}

func (s *server) GRPCServer(_ *plugin.GRPCBroker, g *grpc.Server) error {
	wire.Register(g, s.plugin)
	return nil
}
