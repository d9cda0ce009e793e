package serve

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/alignedfusion/alignedfusion/internal/process"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
)

// A plugin's side of go-plugin's handshake is a line and two small services
// (docs/reference/protocol.md). go-plugin's own server would bring net/rpc into every plugin, whose
// reflection keeps the linker from leaving anything out.

// patience is how long calls in flight are waited for when the host ends the plugin.
const patience = time.Second

// serveHost serves the host that has started the process, until the host ends it.
func serveHost(s *wire.Server, stdout *os.File) error {
	listener, err := listen(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"))
	if err != nil {
		return err
	}
	// What asks to stop is the host's to handle, which finishes the step first; Slurm sends it
	// to every process of a job.
	signal.Notify(make(chan os.Signal, 1), process.Stops...)
	// A host that does not speak this major says so itself.
	if _, err := fmt.Fprintf(stdout, "1|%d|unix|%s|grpc|\n", sdk.ProtocolMajor, listener.Addr()); err != nil {
		return err
	}
	return newServer(s).Serve(listener)
}

// listen listens on a new unix socket in dir, by default the system's folder for
// temporary files.
func listen(dir string) (net.Listener, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	return net.Listen("unix", filepath.Join(dir, fmt.Sprintf("go%d", os.Getpid())))
}

// newServer serves the stages, a health check, and go-plugin's request to end.
func newServer(s *wire.Server) *grpc.Server {
	server := grpc.NewServer(wire.ServerOptions(os.Stderr)...)
	stagev1.RegisterStageServiceServer(server, s)
	checks := health.NewServer()
	checks.SetServingStatus("plugin", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, checks)
	server.RegisterService(&controller, server)
	return server
}

// controller is go-plugin's plugin.GRPCController: its Shutdown ends the server.
var controller = grpc.ServiceDesc{
	ServiceName: "plugin.GRPCController",
	HandlerType: (*interface{ Stop() })(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Shutdown",
		Handler: func(server any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := decode(new(emptypb.Empty)); err != nil {
				return nil, err
			}
			s := server.(*grpc.Server)
			time.AfterFunc(patience, s.Stop)
			go s.GracefulStop()
			return new(emptypb.Empty), nil
		},
	}},
}
