// Command alignedfusion-plugin-a3d serves the A3D detector's encoder and head.
package main

import (
	"github.com/alignedfusion/alignedfusion/plugins/a3d"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(a3d.Plugin()) }
