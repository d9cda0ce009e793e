package process

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

func TestPeakMemoryIsThatOfAGoProgram(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("this system does not say")
	}
	if peak := PeakRSSBytes(); peak < 1<<20 || peak > 4<<30 {
		t.Errorf("%d bytes: the unit is wrong", peak)
	}
}

func TestAGroupEndsWithItsChildren(t *testing.T) {
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no shell here")
	}
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo; wait")
	cmd.SysProcAttr = Leader()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1)) // the child runs
	if !Alive(cmd.Process.Pid) {
		t.Error("a running process is taken for dead")
	}
	if err := KillGroup(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1)) // ends when nobody holds the pipe: the child is gone
	_ = cmd.Wait()
	if Alive(cmd.Process.Pid) {
		t.Error("a process that has ended is taken for alive")
	}
	if err := KillGroup(cmd.Process.Pid); err != nil {
		t.Errorf("a group that has ended: %v", err)
	}
}

func TestFilesOfThisProcessAreItsUsers(t *testing.T) {
	if !Owns(t.TempDir()) {
		t.Error("a folder made here belongs to somebody else")
	}
	if runtime.GOOS != "windows" && os.Getuid() != 0 && Owns("/") {
		t.Error("the root folder is taken for ours")
	}
}
