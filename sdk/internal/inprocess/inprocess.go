// Package inprocess runs a server of the stage protocol and its client in one process.
package inprocess

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
)

// arenaBytes is the shared memory of a connection; it is sparse.
const arenaBytes = 1 << 30

// Connection is a server and the clients of it.
type Connection struct {
	Conn           *grpc.ClientConn
	InBand, Shared *client.Client
	arena          *client.Arena
	server         *grpc.Server
	closeServer    func()
}

// Connect serves what register registers. Both clients have the manifest, and the
// shared memory is attached.
func Connect(ctx context.Context, name string, register func(grpc.ServiceRegistrar) (closeAll func())) (*Connection, error) {
	listener := bufconn.Listen(1 << 20)
	c := &Connection{server: grpc.NewServer(wire.ServerOptions(nil)...)}
	c.closeServer = register(c.server)
	go func() { _ = c.server.Serve(listener) }()
	var err error
	c.Conn, err = grpc.NewClient("passthrough:///plugin", append(client.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, err
	}
	if c.arena, err = client.NewArena(arenaBytes); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.InBand = client.New(c.Conn, client.Options{Plugin: name})
	c.Shared = client.New(c.Conn, client.Options{Plugin: name, Arena: c.arena})
	for _, x := range []*client.Client{c.InBand, c.Shared} {
		if _, err := x.Describe(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if err := c.Shared.AttachPath(ctx, fmt.Sprintf("/proc/self/fd/%d", c.arena.File().Fd())); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends the server and gives the memory back.
func (c *Connection) Close() error {
	c.closeServer()
	err := c.Conn.Close()
	c.server.Stop()
	if c.arena != nil {
		err = errors.Join(err, c.arena.Close())
	}
	return err
}
