//go:build unix

// Package toy_test is a plugin by many names besides the tests of package toy.
package toy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-plugin"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest"
	"github.com/alignedfusion/alignedfusion/sdk/plugintest/toy"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

// TestMain serves the plugin that the program's name asks for, the toys by any other name.
func TestMain(m *testing.M) {
	name := regexp.MustCompile(`^alignedfusion-plugin-[a-z]+-`).ReplaceAllString(filepath.Base(os.Args[0]), "")
	served := map[string]func(){
		"linear": func() { serve.Plugin(toy.Linear()) }, "old": serveOld,
		"raw":       func() { serveVersion(sdk.ProtocolMajor, &raw{}, plugin.DefaultGRPCServer) },
		"version-9": func() { serveVersion(9, &raw{}, plugin.DefaultGRPCServer) },
		"faulty":    func() { serve.Plugin(faultyPlugin()) },
		"prints-first": func() {
			fmt.Println("[W] libfoo: hello from C")
			serve.Plugin(faultyPlugin())
		},
		"prints-megabyte": func() {
			_, _ = unix.Write(1, make([]byte, 1<<20))
			serve.Plugin(faultyPlugin())
		},
		"never-speaks": func() { time.Sleep(time.Hour) },
		"exits-at-once": func() {
			fmt.Fprintln(os.Stderr, "error while loading shared libraries: libfoo.so")
			os.Exit(127)
		},
	}
	rule, broken := strings.CutPrefix(name, "broken-")
	switch act := served[name]; {
	case filepath.Ext(name) == ".test":
		os.Exit(m.Run())
	case broken:
		serveBroken(rule)
	case act != nil:
		act()
	default:
		serve.Plugin(toys(name))
	}
}

// serveVersion serves without the SDK.
func serveVersion(major int, p plugin.Plugin, server func([]grpc.ServerOption) *grpc.Server) {
	plugin.Serve(&plugin.ServeConfig{HandshakeConfig: plugin.HandshakeConfig(serve.Handshake), GRPCServer: server,
		VersionedPlugins: map[int]plugin.PluginSet{major: {serve.GRPCName: p}}})
}

func serveOld() {
	p, err := newOld()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	serveVersion(sdk.ProtocolMajor, p, plugin.DefaultGRPCServer)
}

// noClient is the half of go-plugin that a plugin does not need.
type noClient struct{ plugin.NetRPCUnsupportedPlugin }

// GRPCClient is for hosts.
func (noClient) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("no client here")
}

// toys are the stages of a pipeline. The classifier of misfit wants a port in a shape that
// no stage gives; that of forgetful declares a loss that it never returns.
func toys(name string) sdk.Plugin {
	p := toy.Plugin()
	classifier, _ := p.Manifest.Stage("classifier")
	switch name {
	case "misfit":
		p.Manifest.Name, classifier.Inputs[1].Shape = name, []string{"N", "C", "2"}
	case "forgetful":
		p.Manifest.Name, classifier.Losses = name, append(classifier.Losses, "auxiliary")
	}
	return p
}

func TestToysKeepEveryRule(t *testing.T) {
	plugintest.Conformance(t, toy.Linear(), conformance.Options{Settings: map[string]map[string]string{"linear": {"in": "16"}}})
	plugintest.Conformance(t, toy.Plugin(), conformance.Options{Stages: []string{"encoder", "fusion", "detector", "classifier"}})
}
