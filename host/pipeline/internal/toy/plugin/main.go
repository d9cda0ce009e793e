// Command plugin serves the toy stages to a host under test.
package main

import (
	"github.com/alignedfusion/alignedfusion/host/pipeline/internal/toy"
	"github.com/alignedfusion/alignedfusion/sdk"
)

func main() { sdk.Serve(toy.Plugin()) }
