// Package validate runs the conformance suite on plugins as a host finds and starts them.
package validate

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/plughost"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
	"github.com/alignedfusion/alignedfusion/sdk/client"
	"github.com/alignedfusion/alignedfusion/sdk/conformance"
)

// callTimeout bounds a call of a plugin that is being checked, unless the options do.
const callTimeout = time.Minute

// Result is what was checked, and what came of it.
type Result struct {
	// Host is the program and its version that checked.
	Host     string    `json:"host"`
	Time     time.Time `json:"time"`
	Platform string    `json:"platform"`
	// Files are the SHA-256 of the plugin's files by path.
	Files map[string]string `json:"files"`
	*conformance.Report
}

// Run checks the plugin of a name or path, registered or not, against every rule; host is
// what Result says. Broken rules are no error. A plugin that is not there is of fault.Usage,
// one that cannot be started of fault.Plugin.
func Run(ctx context.Context, ref, host string, o plughost.Options, c conformance.Options) (*Result, error) {
	found, err := plughost.Find(ref, o.Dirs)
	if err != nil {
		return nil, fault.Wrap(fault.Usage, err)
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = callTimeout
	}
	o.AllowUnregistered, o.CallTimeout = true, c.CallTimeout
	report, err := conformance.Run(ctx, conformance.Target{
		Describe: func(ctx context.Context) ([]byte, error) { return plughost.DescribeJSON(ctx, found) },
		Connect:  func(ctx context.Context) (*conformance.Connection, error) { return connect(ctx, ref, o) },
	}, c)
	if unknown := (*conformance.UnknownStage)(nil); errors.As(err, &unknown) {
		return nil, fault.Wrap(fault.Usage, err)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Plugin, err)
	}
	files, err := found.Hashes()
	return &Result{host, time.Now().UTC(), plughost.System, files, report}, err
}

// WriteFile writes all that a reader needs to know what was checked, and to do it again.
func (r *Result) WriteFile(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, append(data, '\n'))
}

// connect starts a process of its own for the suite.
func connect(ctx context.Context, ref string, o plughost.Options) (*conformance.Connection, error) {
	host, err := plughost.New(o)
	if err != nil {
		return nil, err
	}
	p, err := host.Start(ctx, ref)
	if err != nil {
		return nil, errors.Join(err, host.Close())
	}
	out := &conformance.Connection{
		Conn: p.Conn(), InBand: client.New(p.Conn(), client.Options{Plugin: p.Name()}), PID: p.PID(),
		CutLifeline: p.CutLifeline, ShutDown: p.ShutDown, Exited: p.Exited(), Close: host.Close, TempDir: p.TempDir(),
	}
	if p.SharedMemory() {
		out.Shared = p.Client()
	}
	return out, nil
}
