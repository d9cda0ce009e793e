// Package serve runs a plugin's program: its main function is one call of Plugin. It also
// has the names that a host and a plugin's process agree on.
package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/wire"
)

// Handshake is what a host and a plugin agree on before they speak, in the form of
// go-plugin's HandshakeConfig. The cookie only tells a program started by a host from one
// started by a person; it protects nothing.
var Handshake = struct {
	ProtocolVersion  uint // of go-plugin's older handshake: unused
	MagicCookieKey   string
	MagicCookieValue string
}{
	MagicCookieKey:   "ALIGNEDFUSION_PLUGIN",
	MagicCookieValue: "stage-protocol",
}

// GRPCName is the name of the stage service in the host's set of go-plugin's plugins.
const GRPCName = "stage"

// EnvLifeline names the environment variable with the file descriptor of the lifeline:
// a pipe whose other end the host holds open for as long as it lives.
const EnvLifeline = "ALIGNEDFUSION_LIFELINE_FD"

// DebugFlag makes a plugin serve without a host having started it, under a debugger for
// example. It prints the setting of EnvReattach that makes a host use it.
const DebugFlag = "--debug"

// EnvReattach names the environment variable with plugins that run already: JSON of a
// Reattach by plugin name.
const EnvReattach = "ALIGNEDFUSION_REATTACH"

// Reattach is where a plugin serves that no host has started.
type Reattach struct {
	Protocol int    `json:"protocol"`
	PID      int    `json:"pid"`
	Address  string `json:"address"` // of a unix socket
}

// DescribeFlag makes a plugin print its manifest as JSON and end, without a handshake.
const DescribeFlag = "--describe"

// Plugin runs a plugin program; it is the only statement of its main function. It
// returns when the host has ended the plugin.
//
// Its first act is to take standard output away from the process: the handshake needs
// it, and one line that a C library prints there would break the start. What the
// process prints goes to standard error, where the host reads it.
func Plugin(p sdk.Plugin) { Together(p, nil) }

// Together is Plugin for a program that is several plugins, each under a name of its own: a
// host may have the process serve the others besides (sdk.CapabilityTogether), by name.
func Together(p sdk.Plugin, others map[string]func() sdk.Plugin) {
	newServer := func() *wire.Server {
		s := wire.NewServer(p)
		s.Others = others
		return s
	}
	stdout, err := takeStdout()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: standard output: %v\n", p.Manifest.Name, err)
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == DescribeFlag {
		text, err := wire.ManifestJSON(newServer().Manifest())
		if err == nil {
			_, err = stdout.Write(append(text, '\n'))
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: describe: %v\n", p.Manifest.Name, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == DebugFlag {
		if err := serveDebug(newServer(), stdout); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", p.Manifest.Name, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(Handshake.MagicCookieKey) != Handshake.MagicCookieValue {
		fmt.Fprint(os.Stderr, friendly(p.Manifest))
		os.Exit(1)
	}
	if err := holdLifeline(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: lifeline: %v\n", p.Manifest.Name, err)
		os.Exit(1)
	}
	s := newServer()
	// The host ends the process through GRPCController; one that does not is not waited for.
	s.Exit = func() { time.AfterFunc(patience, func() { os.Exit(0) }) }
	if err := serveHost(s, stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Manifest.Name, err)
		os.Exit(1)
	}
}

// serveDebug serves until it is interrupted.
func serveDebug(s *wire.Server, stdout *os.File) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "alignedfusion")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server := newServer(s)
	listener, err := listen(dir)
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]Reattach{s.Manifest().Name: {Protocol: sdk.ProtocolMajor, PID: os.Getpid(), Address: listener.Addr().String()}})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "export %s='%s'\n", EnvReattach, text)
	context.AfterFunc(ctx, server.Stop)
	if err := server.Serve(listener); err != nil {
		return err
	}
	return s.CloseAll(context.Background())
}

// friendly is what a person reads who starts a plugin by hand.
func friendly(m sdk.Manifest) string {
	var b strings.Builder
	fmt.Fprintf(&b, "This is %s %s, a plugin of alignedfusion; the host starts it.\n", m.Name, m.Version)
	for _, s := range m.Stages {
		fmt.Fprintf(&b, "  %-8s %s: %s\n", s.Kind, s.Name, s.Summary)
	}
	fmt.Fprintf(&b, "Use it with `alignedfusion train --%s %s`, look at it with `%s %s`, debug it with `%s %s`.\n",
		firstKind(m), os.Args[0], os.Args[0], DescribeFlag, os.Args[0], DebugFlag)
	return b.String()
}

func firstKind(m sdk.Manifest) sdk.Kind {
	if len(m.Stages) == 0 {
		return sdk.KindHead
	}
	return m.Stages[0].Kind
}
