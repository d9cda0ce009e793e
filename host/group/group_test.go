package group

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alignedfusion/alignedfusion/host/fault"
)

// of is a getenv of NAME=value words.
func of(words string) func(string) string {
	return func(name string) string {
		for word := range strings.FieldsSeq(words) {
			if n, value, _ := strings.Cut(word, "="); n == name {
				return value
			}
		}
		return ""
	}
}

func TestTheEnvironmentSaysWhichProcessThisIs(t *testing.T) {
	const torchrun = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=n1 MASTER_PORT=500"
	const step = "SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4 SLURM_STEP_NUM_NODES=2 SLURM_LOCALID=0 SLURM_JOB_ID=7 SLURM_STEP_ID=1 SLURM_STEP_NODELIST="
	for environment, want := range map[string]string{
		"":                              "<nil>",
		"RANK=0 WORLD_SIZE=1":           "<nil>",
		"SLURM_PROCID=0 SLURM_NTASKS=4": "<nil>", // a batch script, no step
		torchrun:                        "&{3 4 1 2 n1 500 }",
		torchrun + " TORCHELASTIC_USE_AGENT_STORE=True": "&{3 4 1 2 n1 501 }",
		step + "n[07-12,20],m1":                         "&{2 4 0 2 n07 20113 }",
		"SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 SLURM_LOCALID=1 SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_STEP_NODELIST=m": "&{1 2 1 2 127.0.0.1 20112 }",
		step + "a,b MASTER_PORT=9": "&{2 4 0 2 a 9 }",
		"PET_NNODES=2 PET_NODE_RANK=1 PET_MASTER_ADDR=m PET_MASTER_PORT=8 PET_NPROC_PER_NODE=1": "&{1 2 0 1 m 8 }",
	} {
		w, err := FromEnvironment(of(environment))
		if got := fmt.Sprint(w); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", environment, got, err, want)
		}
	}
	for environment, want := range map[string]string{
		"RANK=1":              "$WORLD_SIZE is not set",
		"WORLD_SIZE=2":        "$RANK is not set",
		"RANK=x WORLD_SIZE=2": `$RANK is "x"`,
		"RANK=2 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=1":     "rank 2 of 2",
		"RANK=1 WORLD_SIZE=2":                                 "$MASTER_ADDR and $MASTER_PORT",
		"RANK=1 WORLD_SIZE=2 MASTER_PORT=-1":                  `$MASTER_PORT is "-1"`,
		"RANK=1 WORLD_SIZE=1":                                 "rank 1 of 1",
		"RANK=1 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65536": `given "a" and "65536"`,
		"PET_NNODES=2 PET_NPROC_PER_NODE=4":                   "torchrun",
		"PET_NNODES=2 PET_MASTER_PORT=8":                      `$PET_MASTER_ADDR and $PET_MASTER_PORT must say where rank 0 is: given "" and "8"`,
	} {
		if _, err := FromEnvironment(of(environment)); err == nil || !strings.Contains(err.Error(), want) || fault.Of(err) != fault.Usage {
			t.Errorf("%s: %v, want usage with %q", environment, err, want)
		}
	}
}

func TestADeviceIsThatOfTheLocalRank(t *testing.T) {
	w := &World{LocalRank: 3}
	for _, c := range []struct{ name, visible, want string }{
		{"cuda", "", "cuda:3"}, {"cuda", "4,5", "cuda:1"}, {"cuda", "7", "cuda:0"}, {"cuda:2", "", "cuda:2"}, {"cpu", "", "cpu"},
	} {
		if got := w.Device(c.name, of("CUDA_VISIBLE_DEVICES="+c.visible)); got != c.want {
			t.Errorf("%s of %q: %s, want %s", c.name, c.visible, got, c.want)
		}
	}
}

// three are the processes of a group.
func three(t *testing.T, stop func(rank int) context.Context) []*Group {
	t.Helper()
	w, err := Local(3, "token")
	if err != nil {
		t.Fatal(err)
	}
	out := make([]*Group, 3)
	var waiting sync.WaitGroup
	for rank := range out {
		own := *w
		own.Rank = rank
		waiting.Go(func() {
			var err error
			if out[rank], err = Join(stop(rank), &own, func(string) {}, nil); err != nil {
				t.Errorf("rank %d: %v", rank, err)
			}
		})
	}
	waiting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return out
}

// each runs f for every process at once.
func each(all []*Group, f func(g *Group)) {
	var waiting sync.WaitGroup
	for _, g := range all {
		waiting.Go(func() { f(g) })
	}
	waiting.Wait()
}

func TestAllSeeWhatEachSharesAndWhoWasAskedToStop(t *testing.T) {
	asked, ask := context.WithCancel(context.Background())
	defer ask()
	all := three(t, func(rank int) context.Context {
		if rank == 1 {
			return asked
		}
		return context.Background()
	})
	for round := range 3 {
		if round == 2 {
			ask()
		}
		each(all, func(g *Group) {
			got, err := Gather(g, g.Number()*10+round)
			if err != nil || fmt.Sprint(got) != fmt.Sprintf("[%d %d %d]", round, 10+round, 20+round) {
				t.Errorf("rank %d: %v, %v", g.Number(), got, err)
			}
			if stopping := g.Stopping(context.Background()); stopping != (round == 2) {
				t.Errorf("rank %d in round %d: stopping is %v", g.Number(), round, stopping)
			}
			text := fmt.Sprintf("a: 1\nb: %d\n", g.Number()/2)
			if err := Same(g, "the settings", text); err == nil || !strings.Contains(err.Error(), `rank 2 and rank 0 differ in the settings: "b: 1" and "b: 0"`) {
				t.Errorf("rank %d: %v", g.Number(), err)
			}
		})
	}
	each(all, func(g *Group) { g.Close(nil) })
	for _, g := range all {
		if err := g.Err(0); err != nil {
			t.Errorf("rank %d: %v after an end in order", g.Number(), err)
		}
	}
}

func TestAllLearnWhyOneFailed(t *testing.T) {
	for failing := range 3 {
		all := three(t, func(int) context.Context { return context.Background() })
		each(all, func(g *Group) {
			if g.Number() == failing {
				g.Close(fault.Errorf(fault.Data, "row 7 is empty"))
				return
			}
			_, err := Gather(g, 1)
			var why *Failure
			if !errors.As(err, &why) || why.Rank != failing || !strings.HasSuffix(err.Error(), ": row 7 is empty") || fault.Of(err) != fault.Data {
				t.Errorf("rank %d of a group in which %d failed: %v", g.Number(), failing, err)
			}
			g.Close(err)
		})
	}
}

func TestWhoIsSilentIsNamed(t *testing.T) {
	t.Setenv(EnvSilence, "200ms")
	all := three(t, func(int) context.Context { return context.Background() })
	all[2].peers[0].mu.Lock() // it says no more that it is alive
	select {
	case <-all[1].Failed():
	case <-time.After(20 * time.Second):
	}
	var why *Failure
	if err := all[1].Err(0); !errors.As(err, &why) || why.Rank != 2 || fault.Of(err) != fault.Plugin {
		t.Errorf("%v, want rank 2", err)
	}
	for _, g := range all {
		g.hangUp()
	}
}

func TestProcessesOfTwoTrainingsDoNotMix(t *testing.T) {
	w, err := Local(2, "ours")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	hub := make(chan error)
	go func() {
		_, err := Join(ctx, w, func(string) {}, nil)
		hub <- err
	}()
	for text, other := range map[string]World{"ended before": {Rank: 1, Size: 2, Token: "theirs"}, "rank 1 of 3": {Rank: 1, Size: 3, Token: "ours"}} {
		other.Address, other.Port = w.Address, w.Port
		if _, err := Join(ctx, &other, nil, nil); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
	}
	cancel()
	if err := <-hub; err == nil || !strings.Contains(err.Error(), "rank 1 have not come") {
		t.Errorf("%v, want who is missing", err)
	}
}
