// Command alignedfusion-plugin-selfattn serves the fusion baseline selfattn.
package main

import (
	"github.com/alignedfusion/alignedfusion/plugins/selfattn"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(selfattn.Plugin()) }
