// Command faulty serves the plugin that misbehaves on demand. Under other names it
// misbehaves before the handshake.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/sdk/internal/testplugins"
	"github.com/alignedfusion/alignedfusion/sdk/serve"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "prints-first":
		fmt.Println("[W] libfoo: hello from C")
	case "prints-megabyte":
		_, _ = unix.Write(1, make([]byte, 1<<20))
	case "never-speaks":
		time.Sleep(time.Hour)
	case "exits-at-once":
		fmt.Fprintln(os.Stderr, "error while loading shared libraries: libfoo.so")
		os.Exit(127)
	}
	serve.Plugin(testplugins.Faulty())
}
