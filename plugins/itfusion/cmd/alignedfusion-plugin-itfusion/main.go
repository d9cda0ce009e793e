// Command alignedfusion-plugin-itfusion serves AlignedFusion's fusion stage.
package main

import (
	"github.com/alignedfusion/alignedfusion/plugins/itfusion"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(itfusion.Plugin()) }
