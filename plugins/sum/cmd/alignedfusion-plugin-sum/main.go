// Command alignedfusion-plugin-sum serves the fusion baseline sum.
package main

import (
	"github.com/alignedfusion/alignedfusion/plugins/sum"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(sum.Plugin()) }
