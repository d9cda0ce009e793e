// Package group holds the processes of one training together: they find each other, share
// small values step by step, and end together. The gradients do not travel here: the stages
// average them among themselves.
package group

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// World is one process's place among those that train together.
type World struct {
	// Rank counts the processes from 0; Size is their number.
	Rank, Size int
	// LocalRank and LocalSize are the same within this machine.
	LocalRank, LocalSize int
	// Address is the machine of rank 0, Port where it listens.
	Address string
	Port    int
	// Token is what the others must know, "" where nobody could tell them.
	Token string
}

// EnvToken hands World.Token to processes that this program starts.
const EnvToken = "ALIGNEDFUSION_GROUP_TOKEN"

// Threads is the share of the machine's processors that one of its processes has.
func (w *World) Threads() int {
	if w == nil {
		return runtime.GOMAXPROCS(0)
	}
	return max(1, runtime.GOMAXPROCS(0)/max(1, w.LocalSize))
}

// Device resolves "cuda", the device of this process: the one of its local rank among those
// that $CUDA_VISIBLE_DEVICES leaves. Other names are as they are.
func (w *World) Device(name string, getenv func(string) string) string {
	if w == nil || name != "cuda" {
		return name
	}
	index := w.LocalRank
	if visible := getenv("CUDA_VISIBLE_DEVICES"); visible != "" {
		index %= len(strings.Split(visible, ","))
	}
	return fmt.Sprintf("cuda:%d", index)
}

// Local is the world of n processes of this machine, of which this one is rank 0.
func Local(n int, token string) (*World, error) {
	port, err := FreePort("127.0.0.1")
	return &World{Size: n, LocalSize: n, Address: "127.0.0.1", Port: port, Token: token}, err
}

// Environment is what a process of w's machine with a rank is started with.
func (w *World) Environment(rank int) []string {
	set := func(name string, value any) string { return fmt.Sprintf("%s=%v", name, value) }
	return []string{set("RANK", rank), set("WORLD_SIZE", w.Size), set("LOCAL_RANK", rank), set("LOCAL_WORLD_SIZE", w.LocalSize),
		set("MASTER_ADDR", w.Address), set("MASTER_PORT", w.Port), set(EnvToken, w.Token)}
}

// FreePort is a port of an address that nobody listens on.
func FreePort(address string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// variables are read one by one, and the first that cannot be understood is kept.
type variables struct {
	getenv func(string) string
	err    error
}

// number is a whole number of at least least; other, if the variable is not set.
func (v *variables) number(name string, least, other int) int {
	text := v.getenv(name)
	if text == "" {
		return other
	}
	n, err := strconv.Atoi(text)
	if err == nil && n >= least {
		return n
	}
	if v.err == nil {
		v.err = refuse("$%s is %q, want a whole number from %d on", name, text, least)
	}
	return other
}

func refuse(format string, args ...any) error {
	return fault.Errorf(fault.Usage, format+"; --nproc 1 trains in this process alone", args...)
}

// FromEnvironment is the world that torchrun, srun or Kubernetes says this process is of; nil
// where none does, or where it is the only one. getenv is os.Getenv.
func FromEnvironment(getenv func(string) string) (*World, error) {
	v := &variables{getenv: getenv}
	where := "MASTER"
	w := &World{Address: getenv("MASTER_ADDR"), Port: v.number("MASTER_PORT", 1, 0), Token: getenv(EnvToken)}
	switch {
	case getenv("RANK") != "" || getenv("WORLD_SIZE") != "": // torchrun, PyTorchJob, by hand
		for _, name := range []string{"RANK", "WORLD_SIZE"} {
			if getenv(name) == "" {
				return nil, refuse("of $RANK and $WORLD_SIZE, which make this process one of several, $%s is not set", name)
			}
		}
		w.Rank, w.Size = v.number("RANK", 0, 0), v.number("WORLD_SIZE", 1, 1)
		w.LocalRank, w.LocalSize = v.number("LOCAL_RANK", 0, 0), v.number("LOCAL_WORLD_SIZE", 1, 1)
		if getenv("TORCHELASTIC_USE_AGENT_STORE") == "True" {
			w.Port++ // torchrun itself listens on the port
		}
	case v.number("SLURM_STEP_NUM_TASKS", 1, 1) > 1 && getenv("SLURM_PROCID") != "":
		w.Rank, w.Size = v.number("SLURM_PROCID", 0, 0), v.number("SLURM_STEP_NUM_TASKS", 1, 1)
		nodes := v.number("SLURM_STEP_NUM_NODES", 1, 1)
		w.LocalRank, w.LocalSize = v.number("SLURM_LOCALID", 0, 0), (w.Size+nodes-1)/nodes
		switch {
		case w.Address != "":
		case nodes == 1: // whose name it may not know itself
			w.Address = "127.0.0.1"
		default:
			w.Address = firstNode(getenv("SLURM_STEP_NODELIST"))
		}
		if w.Port == 0 { // a step's own, so that two on one node do not meet
			w.Port = 20000 + (v.number("SLURM_JOB_ID", 0, 0)*16+v.number("SLURM_STEP_ID", 0, 0))%20000
		}
	case v.number("PET_NNODES", 1, 1) > 1: // Kubeflow's TrainJob
		if n := getenv("PET_NPROC_PER_NODE"); n != "" && n != "1" {
			return nil, refuse("$PET_NPROC_PER_NODE is %q: torchrun starts several processes a node (torchrun --no-python alignedfusion train …)", n)
		}
		w.Rank, w.Size, w.LocalSize = v.number("PET_NODE_RANK", 0, 0), v.number("PET_NNODES", 1, 1), 1
		where = "PET_MASTER"
		w.Address, w.Port = getenv("PET_MASTER_ADDR"), v.number("PET_MASTER_PORT", 1, 0)
	default:
		return nil, v.err
	}
	switch {
	case v.err != nil:
		return nil, v.err
	case w.Rank >= w.Size:
		return nil, refuse("this process is said to be rank %d of %d; ranks count from 0", w.Rank, w.Size)
	case w.Size == 1:
		return nil, nil
	case w.Address == "" || w.Port == 0 || w.Port > 65535:
		return nil, refuse("this process is said to be rank %d of %d, and $%s_ADDR and $%[3]s_PORT must say where rank 0 is: given %q and %q",
			w.Rank, w.Size, where, getenv(where+"_ADDR"), getenv(where+"_PORT"))
	}
	return w, nil
}

// firstNode is the first name of Slurm's list of nodes: n7, n[07-12,20],m1.
func firstNode(list string) string {
	name, rest, ranged := strings.Cut(list, "[")
	if comma, _, several := strings.Cut(name, ","); several || !ranged {
		return comma
	}
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		return ""
	}
	return name + rest[:digits]
}

// self names this process for people.
func self() string {
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	return fmt.Sprintf("process %d on %s", os.Getpid(), host)
}
