//go:build !unix

package wire

import (
	"runtime"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/proto/stagev1"
)

// mapShared refuses: a host that is told so sends tensors in the messages.
func mapShared(*stagev1.AttachRequest) ([]byte, error) {
	return nil, sdk.Errorf(sdk.Unimplemented, "no shared memory on %s", runtime.GOOS)
}

func unmapShared([]byte) error { return nil }
