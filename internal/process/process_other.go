//go:build !unix

package process

import (
	"os"
	"syscall"
)

// PeakRSSBytes is 0: this system does not say.
func PeakRSSBytes() int64 { return 0 }

// Leader changes nothing: this system has no process groups.
func Leader() *syscall.SysProcAttr { return nil }

// KillGroup ends the process alone.
func KillGroup(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil // it has ended
	}
	return p.Kill()
}

// Alive reports whether a process exists.
func Alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	_ = p.Release()
	return true
}

// Owns is true: who may not remove a file cannot.
func Owns(string) bool { return true }

// Stops are the signals by which a person or a scheduler asks a process to stop.
var Stops = []os.Signal{os.Interrupt, syscall.SIGTERM}
