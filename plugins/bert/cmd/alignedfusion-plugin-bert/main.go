// Command alignedfusion-plugin-bert serves a frozen BERT as the text stage.
package main

import (
	"github.com/alignedfusion/alignedfusion/plugins/bert"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(bert.Plugin()) }
