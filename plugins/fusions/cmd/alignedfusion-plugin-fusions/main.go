// Command alignedfusion-plugin-fusions serves a shelf of published fusions: under the name
// of one of them that one, otherwise all.
package main

import (
	"os"

	"github.com/alignedfusion/alignedfusion/plugins/fusions"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(fusions.Named(os.Args[0])) }
