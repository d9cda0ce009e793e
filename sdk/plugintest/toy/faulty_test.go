//go:build unix

package toy_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/ports"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// faults are the values of the setting "fault".
var faults = []string{"none", "exit", "segfault", "kill", "panic", "hang", "stop", "stdout", "stderr", "stderr-line",
	"past-slot", "boxes", "nan", "shape", "undeclared", "error", "fork", "memory", "spin", "hang-close"}

// faultyPlugin is a detection head whose Forward does what the setting "fault" says.
func faultyPlugin() sdk.Plugin {
	return sdk.Plugin{
		Manifest: sdk.Manifest{
			Name: "faulty", Version: "0.0.1",
			Stages: []sdk.StageManifest{{
				Name: "faulty", Kind: sdk.KindHead, Summary: "misbehaves on demand",
				Inputs: []sdk.Port{{Name: "x", DType: tensor.FP32, Shape: []string{"N", "C"}, Required: true}},
				Outputs: []sdk.Port{
					{Name: "y", DType: tensor.FP32, Shape: []string{"N", "C"}, Required: true},
					ports.Boxes.Declare(),
				},
				Settings: []sdk.Setting{{Name: "fault", Type: "string", Default: "none", Choices: faults}},
			}},
		},
		Open: func(_ context.Context, req *sdk.OpenRequest) (sdk.Stage, *sdk.OpenResponse, error) {
			return &faulty{fault: req.Settings["fault"]}, nil, nil
		},
	}
}

type faulty struct {
	fault string
	kept  [][]byte
	spun  int
}

func (f *faulty) Forward(_ context.Context, req *sdk.ForwardRequest) (*sdk.ForwardResponse, error) {
	x := req.Inputs["x"]
	y, err := req.NewOutput("y", tensor.FP32, x.Shape...)
	if err != nil {
		return nil, err
	}
	copy(y.Data, x.Data)
	out := map[string]*tensor.Tensor{"y": y}
	switch f.fault {
	case "exit":
		fmt.Fprintln(os.Stderr, "faulty: about to exit with code 7")
		os.Exit(7)
	case "segfault":
		fmt.Fprintln(os.Stderr, "faulty: about to touch a bad address")
		unmapped, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return nil, err
		}
		address := &unmapped[0]
		if err := unix.Munmap(unmapped); err != nil {
			return nil, err
		}
		*address = 1 // an address Go does not know: a crash, not a panic
	case "kill":
		return nil, unix.Kill(os.Getpid(), unix.SIGKILL)
	case "panic":
		panic("a bug in the stage")
	case "hang":
		select {}
	case "stop":
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		time.Sleep(time.Second) // the signal takes a moment to stop every thread
	case "stdout":
		_, err := unix.Write(1, bytes.Repeat([]byte("x"), 1<<20))
		return &sdk.ForwardResponse{Outputs: out}, err
	case "stderr":
		line := []byte(strings.Repeat("noise ", 20) + "\n")
		for range 500_000 {
			if _, err := os.Stderr.Write(line); err != nil {
				return nil, err
			}
		}
	case "stderr-line":
		for range 20 {
			if _, err := os.Stderr.Write(bytes.Repeat([]byte("y"), 1<<20)); err != nil {
				return nil, err
			}
		}
	case "past-slot":
		past := unsafe.Slice(unsafe.SliceData(y.Data), 4<<20)
		for i := range past {
			past[i] = 0xee
		}
	case "boxes":
		if out[ports.Boxes.Name], err = tensor.New(tensor.FP32, 1_000_000, 4); err != nil {
			return nil, err
		}
	case "nan":
		values, err := y.Float32s()
		if err != nil {
			return nil, err
		}
		for i := range values {
			values[i] = float32(math.NaN())
		}
	case "shape":
		out["y"] = tensor.OfFloat32s([]float32{1, 2, 3}, 3)
	case "undeclared":
		out["z"] = tensor.OfFloat32s([]float32{1, 2, 3}, 3)
	case "error":
		return nil, &sdk.Error{Code: sdk.ResourceExhausted, Err: fmt.Errorf("out of memory"), Wanted: "123456 bytes"}
	case "fork":
		for _, newSession := range []bool{false, true} {
			child := exec.Command("sleep", "1000")
			child.SysProcAttr = &syscall.SysProcAttr{Setsid: newSession}
			child.Stdout, child.Stderr = os.Stdout, os.Stderr // keeps the plugin's pipes open
			if err := child.Start(); err != nil {
				return nil, err
			}
			fmt.Fprintf(os.Stderr, "child %d\n", child.Process.Pid)
		}
	case "spin":
		for n := 0; ; n++ {
			f.spun = n
		}
	case "memory":
		for {
			block := make([]byte, 64<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			f.kept = append(f.kept, block)
		}
	}
	return &sdk.ForwardResponse{Outputs: out}, nil
}

func (f *faulty) Close() error {
	if f.fault == "hang-close" {
		select {}
	}
	return nil
}
