// Command linear serves the well-behaved test plugin.
package main

import (
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/internal/testplugins"
)

func main() { sdk.Serve(testplugins.Linear()) }
