package cli

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/fault"
	"github.com/alignedfusion/alignedfusion/host/group"
)

// joinGroup meets the processes that train together: those of --nproc, which it starts, or
// those that torchrun, srun or Kubernetes has started. The group is nil for one alone. done
// waits for what was started.
func joinGroup(c *cli.Context) (g *group.Group, done func(), err error) {
	done = func() {}
	end := func(time.Duration) {}
	n := c.Int("nproc")
	if c.IsSet("nproc") && n < 1 {
		return nil, done, usageError("--nproc is %d, want 1 (this process alone) or more", n)
	}
	if most := max(8, 2*runtime.NumCPU()); n > most {
		return nil, done, usageError("--nproc is %d, want %d at most: this machine has %d processors, and each process has plugins of its own", n, most, runtime.NumCPU())
	}
	if n == 1 || c.Bool("find-lr") {
		return nil, done, nil
	}
	world, err := group.FromEnvironment(os.Getenv)
	if err != nil {
		return nil, done, err
	}
	if (world != nil || n > 1) && c.Bool("plugin-no-network") {
		return nil, done, usageError("--plugin-no-network: plugins of several processes average their gradients over the network; leave it out, or train in one (--nproc 1)")
	}
	var lost chan error
	if n > 1 && (world == nil || world.Token == "") {
		if world != nil {
			return nil, done, usageError("--nproc %d: the environment says that this process is rank %d of %d already; leave out --nproc", n, world.Rank, world.Size)
		}
		if world, err = group.Local(n, rand.Text()); err != nil {
			return nil, done, err
		}
		lost = make(chan error, n)
		if end, err = startRanks(c.Context, world, c.App.ErrWriter, lost); err != nil {
			end(0)
			return nil, done, err
		}
	}
	say := func(text string) { fmt.Fprintf(c.App.ErrWriter, "waiting: %s\n", text) }
	if g, err = group.Join(c.Context, world, say, lost); err != nil {
		end(0)
	}
	return g, func() { end(patienceWithRanks) }, err
}

// startRanks starts this command again for every rank but 0. Their last words, line by line,
// are written to stderr. done waits for their end, which they find by themselves when this
// process has left the group, and kills those that take longer.
func startRanks(ctx context.Context, w *group.World, stderr io.Writer, lost chan<- error) (done func(time.Duration), err error) {
	program, err := os.Executable()
	if err != nil {
		return func(time.Duration) {}, err
	}
	killing, kill := context.WithCancel(context.WithoutCancel(ctx))
	var ended []chan struct{}
	done = func(longest time.Duration) {
		patience := time.AfterFunc(longest, kill)
		for _, one := range ended {
			<-one
		}
		patience.Stop()
		kill()
	}
	for rank := 1; rank < w.Size; rank++ {
		cmd := exec.CommandContext(killing, program)
		cmd.Args, cmd.Env = os.Args, append(os.Environ(), w.Environment(rank)...)
		words, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return done, fmt.Errorf("start rank %d: %w", rank, err)
		}
		end := make(chan struct{})
		ended = append(ended, end)
		go func() {
			defer close(end)
			for lines := bufio.NewScanner(words); lines.Scan(); {
				fmt.Fprintf(stderr, "[rank %d] %s\n", rank, lines.Text())
			}
			err := cmd.Wait()
			if err == nil {
				err = fmt.Errorf("exit code 0")
			}
			lost <- fault.Errorf(fault.Plugin, "rank %d ended before all processes were there: %w", rank, err)
		}()
	}
	return done, nil
}

// patienceWithRanks is how long ranks may take to end after rank 0 is done.
const patienceWithRanks = 20 * time.Second
