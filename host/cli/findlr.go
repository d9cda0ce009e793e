package cli

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/workflow"
)

// findRate is train --find-lr: it sweeps the learning rate, prints and writes what it found.
func findRate(c *cli.Context, o workflow.TrainOptions) error {
	if c.IsSet("log") {
		return usageError("--find-lr makes no run, so there is nothing that --log could go into")
	}
	for _, name := range []string{"train.lr", "train.schedule", "train.warmup_steps"} {
		if o.Config.Given(name) {
			return usageError("--find-lr tries learning rates of its own; %s cannot be given with it", name)
		}
	}
	out := c.String("out")
	if err := checkOutput("out", out, []string{".json"}); err != nil {
		return err
	}
	sweep, err := workflow.FindRate(c.Context, o)
	if err != nil {
		return err
	}
	if err := writeJSONFile(out, sweep); err != nil {
		return resourceError(err)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, sweep)
	}
	return printSweep(c.App.Writer, sweep, out)
}

// printSweep writes two rows per factor of ten, the course of the loss where a terminal can
// show it, and the suggestion.
func printSweep(out io.Writer, s *workflow.Sweep, path string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "learning rate\tloss\tsmoothed\t")
	next := 0.0
	losses := make([]float64, len(s.Points))
	low, high := math.Inf(1), math.Inf(-1)
	for i, p := range s.Points {
		losses[i], low, high = p.Smoothed, min(low, p.Smoothed), max(high, p.Smoothed)
		if p.LearningRate >= next || i == len(s.Points)-1 {
			fmt.Fprintf(w, "%.1e\t%.4f\t%.4f\t\n", p.LearningRate, p.Loss, p.Smoothed)
			next = p.LearningRate * math.Sqrt(10) * 0.999
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if drawsBlocks(out) && len(losses) > 1 {
		fmt.Fprintf(out, "loss %s %.3f to %.3f\n", sparkline(losses, low, high), low, high)
	}
	if s.Diverged {
		fmt.Fprintf(out, "after %d steps the loss diverged\n", len(s.Points))
	}
	if s.Suggested > 0 {
		_, err := fmt.Fprintf(out, "suggestion: --set train.lr=%.1g, a tenth of the rate with the lowest smoothed loss (%.1g); %s\n", s.Suggested, s.LowestRate, path)
		return err
	}
	_, err := fmt.Fprintf(out, "no suggestion: no rate lowered the loss by a hundredth; more steps (--set train.max_steps=N) may; %s\n", path)
	return err
}
