// Command alignedfusion-plugin-classifier serves image encoders and a
// classification head.
package main

import (
	"github.com/alignedfusion/alignedfusion/plugins/classifier"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() { serve.Plugin(classifier.Plugin()) }
