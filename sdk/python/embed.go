// Package python carries the Python SDK, for projects that are begun with it.
package python

import "embed"

// SDK holds the folder alignedfusion_sdk.
//
//go:embed alignedfusion_sdk/*.py alignedfusion_sdk/stage.binpb
var SDK embed.FS
