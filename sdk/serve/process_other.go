//go:build !unix

package serve

import "os"

// takeStdout makes what Go prints go to standard error; this system cannot move what
// libraries print.
func takeStdout() (*os.File, error) {
	kept := os.Stdout
	os.Stdout = os.Stderr
	return kept, nil
}

// holdLifeline has nothing to hold: hosts of this system start no plugins.
func holdLifeline() error { return nil }
