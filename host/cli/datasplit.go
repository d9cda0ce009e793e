package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/dataset"
	"github.com/alignedfusion/alignedfusion/host/dataset/split"
	"github.com/alignedfusion/alignedfusion/internal/table"
)

func dataSplitCommand() *cli.Command {
	return &cli.Command{
		Name:      "split",
		Usage:     "divide a data set into train, val and test or into folds, patients as a whole",
		ArgsUsage: "SPEC",
		Description: `Writes the column split into the table of a table:, boxes: or volumes: data set, or a copy of the table with --out.
The same seed and rows give the same split. With --folds K the splits are fold0 to foldK-1; train --fold k then leaves
fold k out of training and validates on it; --of train+val leaves a test split out of the folds.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "by", Usage: "the column whose values stay together", Value: "patient"},
			&cli.StringFlag{Name: "ratio", Usage: "shares of train, val and test", Value: "70,15,15"},
			&cli.IntFlag{Name: "folds", Usage: "folds instead of train, val and test"},
			&cli.StringFlag{Name: "of", Usage: "divide the rows of these splits alone, joined by +: the others keep theirs"},
			&cli.StringFlag{Name: "stratify", Usage: "a column whose values every split gets its share of, for example label"},
			&cli.Uint64Flag{Name: "seed", Usage: "seed"},
			&cli.StringFlag{Name: "out", Usage: "write a copy of the table here", TakesFile: true},
			&cli.BoolFlag{Name: "replace", Usage: "divide anew what has a split"},
			&cli.BoolFlag{Name: "json", Usage: "print a summary as JSON"},
		},
		Action: dataSplit,
	}
}

func dataSplit(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError("data split takes one data spec, %d were given; for example: alignedfusion data split volumes:DIR", c.NArg())
	}
	from, err := dataset.TableOf(c.Args().First())
	if err != nil {
		return err
	}
	if c.IsSet("folds") && c.IsSet("ratio") {
		return usageError("--folds and --ratio exclude each other")
	}
	o := split.Options{By: c.String("by"), Folds: c.Int("folds"), Stratify: c.String("stratify"), Seed: c.Uint64("seed"), Replace: c.Bool("replace")}
	if of := c.String("of"); of != "" {
		o.Of = strings.Split(of, "+")
	}
	if c.IsSet("folds") && o.Folds < 2 {
		return usageError("--folds %d, want at least 2", o.Folds)
	}
	ratio, err := table.Numbers(c.String("ratio"), 3)
	if err != nil || slices.Min(ratio) < 0 || ratio[0] == 0 {
		return usageError("--ratio %q, want three shares such as 70,15,15, the first above 0", c.String("ratio"))
	}
	o.Ratio = [3]float64(ratio)
	to := c.String("out")
	if err := checkOutput("out", to, nil); err != nil {
		return err
	}
	if to == "" {
		to = from
	}
	s, err := split.Write(from, to, o)
	if err == nil && to == from {
		err = split.Repeat(to)
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, s)
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.Rows)) {
		parts = append(parts, fmt.Sprintf("%s %d (%d of %s)", name, s.Rows[name], s.Groups[name], o.By))
	}
	fmt.Fprintf(c.App.ErrWriter, "%s: %s\n", s.File, strings.Join(parts, ", "))
	return nil
}
