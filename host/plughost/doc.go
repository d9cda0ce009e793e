// Package plughost is the host's side of plugins: it finds them, checks what they are
// made of, starts them as processes of their own, watches them and takes them down.
// All of go-plugin's client side lives here.
//
//	host, err := plughost.New(plughost.Options{})
//	defer host.Close()
//	p, err := host.Start(ctx, "itfusion")
//	inst, opened, err := p.Open(ctx, &sdk.OpenRequest{Stage: "itfusion", …})
//	resp, cost, err := inst.Forward(ctx, &sdk.ForwardRequest{…})
//
// An error about a request is an *sdk.Error. An error about the plugin itself (it died,
// hung, broke the protocol, did not start) is a *Failure.
package plughost
