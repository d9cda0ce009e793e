// Command linear serves the well-behaved test plugin.
package main

import (
	"github.com/alignedfusion/alignedfusion/sdk/internal/testplugins"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(testplugins.Linear()) }
