package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/attributes"
	"github.com/alignedfusion/alignedfusion/host/report/corpus"
	"github.com/alignedfusion/alignedfusion/host/report/llm"
	"github.com/alignedfusion/alignedfusion/host/report/review"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/host/workflow/predictions"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

func attributesCommand() *cli.Command {
	return &cli.Command{
		Name:  "attributes",
		Usage: "choose attributes, read them from reports, measure how well",
		Subcommands: []*cli.Command{
			attributesSelectCommand(),
			attributesExtractCommand(),
			attributesReviewCommand(),
			attributesLintCommand(),
			attributesEvaluateCommand(),
		},
	}
}

func reportFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data", Usage: "reports: a CSV `FILE` or a folder of .txt files", Required: true},
		&cli.StringFlag{Name: "id", Usage: "`COLUMN` that names the report (default: uid, id, report_id or case_id)"},
		&cli.StringFlag{Name: "text", Usage: "`COLUMNS` with text, comma-separated (default: findings, impression, report, text)"},
		&cli.StringFlag{Name: "only", Usage: "keep the rows with `COLUMN=VALUE`, such as split=train"},
		&cli.StringFlag{Name: "lexicon", Usage: "`NAME` of an embedded lexicon (" + strings.Join(rules.Names(), ", ") + ") or a YAML or JSON file", Value: rules.ChestXRay},
		&cli.StringFlag{Name: "triggers", Usage: "trigger table `FILE` instead of the embedded one"},
	}
}

func llmFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "llm-url", Usage: "`BASE` of an OpenAI-compatible API, such as http://localhost:11434/v1"},
		&cli.StringFlag{Name: "llm-model", Usage: "`NAME` of the model"},
		&cli.StringFlag{Name: "llm-proxy", Usage: "`URL` of a proxy that reports may pass through, or env for that of the environment (default: none)"},
		&cli.IntFlag{Name: "llm-max-tokens", Usage: "bound of one answer (default: 1024 and 100 for every attribute)"},
		&cli.StringFlag{Name: "llm-key-env", Usage: "environment `VARIABLE` that holds the key", Value: "OPENAI_API_KEY"},
		&cli.DurationFlag{Name: "llm-timeout", Usage: "longest wait for one answer", Value: 2 * time.Minute},
		&cli.IntFlag{Name: "llm-retries", Usage: "repetitions of a failed request", Value: 4},
		&cli.IntFlag{Name: "llm-parallel", Usage: "requests under way at once", Value: 4},
		&cli.StringFlag{Name: "llm-cache", Usage: "`FOLDER` that keeps answers (they quote reports; default: the user's cache folder)"},
		&cli.Float64Flag{Name: "price-in", Usage: "price of a million input tokens, for the estimate"},
		&cli.Float64Flag{Name: "price-out", Usage: "price of a million output tokens, for the estimate"},
		&cli.BoolFlag{Name: "dry-run", Usage: "print the estimate and send nothing"},
	}
}

// sourceOf says where the reports lie.
func sourceOf(c *cli.Context) (report.Source, error) {
	src := report.Source{Path: c.String("data"), ID: c.String("id"), Text: config.List(c.String("text"))}
	if only := c.String("only"); only != "" {
		column, value, ok := strings.Cut(only, "=")
		if !ok {
			return src, usageError("--only %q: want COLUMN=VALUE", only)
		}
		src.Only = &[2]string{column, value}
	}
	return src, nil
}

// rulesOf says what the rules work with.
func rulesOf(c *cli.Context) (rules.Options, error) {
	o := rules.Options{Lexicon: c.String("lexicon"), Triggers: c.String("triggers"), ProbableIsUncertain: c.String("probable") == "uncertain"}
	if p := c.String("probable"); p != "" && p != "stated" && p != "uncertain" {
		return o, usageError("--probable %q: want stated or uncertain", p)
	}
	return o, nil
}

// clientOf returns nil when no endpoint is named.
func clientOf(c *cli.Context) (*llm.Client, error) {
	if c.String("llm-url") == "" {
		if c.IsSet("llm-model") || c.IsSet("dry-run") {
			return nil, usageError("--llm-model and --dry-run need --llm-url")
		}
		return nil, nil
	}
	if c.Int("llm-retries") < 0 || c.Int("llm-max-tokens") < 0 || c.Int("llm-parallel") < 1 || c.Duration("llm-timeout") <= 0 {
		return nil, usageError("--llm-retries and --llm-max-tokens must be 0 or more, --llm-parallel at least 1 and --llm-timeout positive")
	}
	cache := c.String("llm-cache")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return nil, usageError("--llm-cache: name a folder: %w", err)
		}
		cache = filepath.Join(dir, "alignedfusion", "llm")
	}
	retries := c.Int("llm-retries")
	if retries == 0 {
		retries = -1
	}
	client, err := llm.New(llm.Config{
		BaseURL:   c.String("llm-url"),
		Model:     c.String("llm-model"),
		Key:       os.Getenv(c.String("llm-key-env")),
		Proxy:     c.String("llm-proxy"),
		Timeout:   c.Duration("llm-timeout"),
		Retries:   retries,
		MaxTokens: c.Int("llm-max-tokens"),
		CacheDir:  cache,
		Parallel:  c.Int("llm-parallel"),
	})
	if err != nil {
		return nil, usageError("%w", err)
	}
	return client, nil
}

// confirm says what is about to be sent, and whether it is to be.
func confirm(c *cli.Context, client *llm.Client, e llm.Estimate) bool {
	fmt.Fprintf(c.App.ErrWriter, "model %s at %s: %d requests (%d answers cached, %d empty reports), about %d input and %d output tokens",
		client.Model(), client.Endpoint(), e.Requests, e.Cached, e.Empty, e.InputTokens, e.OutputTokens)
	if c.IsSet("price-in") || c.IsSet("price-out") {
		cost := (float64(e.InputTokens)*c.Float64("price-in") + float64(e.OutputTokens)*c.Float64("price-out")) / 1e6
		fmt.Fprintf(c.App.ErrWriter, ", about %.2f at the prices given", cost)
	}
	if route := client.Route(); route != "" {
		fmt.Fprintf(c.App.ErrWriter, " (%s)", route)
	}
	fmt.Fprintln(c.App.ErrWriter)
	return !c.Bool("dry-run")
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func writeJSONFile(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.WriteBytes(path, append(data, '\n'))
}

// writeRecord writes FILE.json beside what a command made.
func writeRecord(r *attributes.Record, out string) error {
	r.Out = out
	if err := writeJSONFile(out+".json", r); err != nil {
		return resourceError(fmt.Errorf("%s.json: %w", out, err))
	}
	return nil
}

func printCounts(w io.Writer, counts []schema.Count) {
	width := 0
	for _, c := range counts {
		width = max(width, len(c.Name))
	}
	fmt.Fprintf(w, "%-*s %8s %8s %9s %11s\n", width, "attribute", "stated", "negated", "uncertain", "unmentioned")
	for _, c := range counts {
		fmt.Fprintf(w, "%-*s %8d %8d %9d %11d\n", width, c.Name, c.Stated, c.Negated, c.Uncertain, c.Unmentioned)
	}
}

func attributesExtractCommand() *cli.Command {
	flags := append(reportFlags(),
		&cli.StringFlag{Name: "schema", Usage: "attribute schema `FILE`; by rules, its attributes must be in the lexicon (default: the lexicon's)"},
		&cli.StringFlag{Name: "table", Aliases: []string{"keep"}, Usage: "table `FILE` of an earlier run, perhaps corrected: its rows are kept, only other reports are read"},
		&cli.StringFlag{Name: "probable", Usage: "what likely findings count as: stated or uncertain", Value: "stated"},
		&cli.StringFlag{Name: "out", Usage: "CSV `FILE` to write; FILE.json beside it records how", Required: true},
		&cli.BoolFlag{Name: "json", Usage: "print the record to standard output"},
	)
	return &cli.Command{
		Name:  "extract",
		Usage: "fill the attribute table from reports, by rules or by a language model",
		Description: "Every cell is stated, negated, uncertain or (empty) unmentioned, with the evidence in a column of its own.\n" +
			"Binary attributes are 1, 0, -1 and empty. A corrected table goes back in with --table.",
		Flags:  append(flags, llmFlags()...),
		Action: attributesExtract,
	}
}

func attributesExtract(c *cli.Context) error {
	o, out := attributes.ExtractOptions{Corrected: c.String("table")}, c.String("out")
	err := checkFile("--out", out)
	if err != nil {
		return err
	}
	if o.Rules, err = rulesOf(c); err != nil {
		return err
	}
	if o.Client, err = clientOf(c); err != nil {
		return err
	}
	o.Confirm = func(e llm.Estimate) bool { return confirm(c, o.Client, e) }
	if path := c.String("schema"); path != "" {
		if o.Schema, err = attributes.ReadSchema(path); err != nil {
			return err
		}
	}
	if o.Source, err = sourceOf(c); err != nil {
		return err
	}
	record, err := attributes.Extract(c.Context, o, out)
	if err != nil || record == nil {
		return err
	}
	for _, w := range record.Warnings() {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	if err := writeRecord(record, out); err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, record)
	}
	printCounts(c.App.Writer, record.Attributes)
	return nil
}

func attributesReviewCommand() *cli.Command {
	return &cli.Command{
		Name:  "review",
		Usage: "write a page in which a person accepts or corrects the cells of a table",
		Description: "One HTML file, which works offline: the reports with the evidence marked, every cell with state and value.\n" +
			"What it exports goes into `attributes extract --keep` and `train --reports`.",
		Flags: append(reportFlags(),
			&cli.StringFlag{Name: "table", Aliases: []string{"keep"}, Usage: "table `FILE` that extract wrote", Required: true},
			&cli.StringFlag{Name: "schema", Usage: "attribute schema `FILE` (default: that of the table's FILE.json, else the lexicon's)"},
			&cli.StringFlag{Name: "reconstruction", Usage: "`FILE`.json of predict --reconstruction: recovered values are shown beside how frequent they are in training"},
			&cli.StringFlag{Name: "out", Usage: "HTML `FILE` to write; it holds the reports, and only its owner may read it", Required: true},
		),
		Action: attributesReview,
	}
}

func attributesReview(c *cli.Context) error {
	o, out := attributes.ReviewOptions{Table: c.String("table")}, c.String("out")
	err := checkFile("--out", out)
	if err != nil {
		return err
	}
	if o.Rules, err = rulesOf(c); err != nil {
		return err
	}
	if o.Source, err = sourceOf(c); err != nil {
		return err
	}
	if path := c.String("schema"); path != "" {
		if o.Schema, err = attributes.ReadSchema(path); err != nil {
			return err
		}
	}
	if path := c.String("reconstruction"); path != "" {
		recovered, calibration, err := predictions.ReadReconstructions(path)
		if err != nil {
			return dataError(err)
		}
		o.Calibration, o.Recovered = calibration, map[string][]review.Recovered{}
		for id, all := range recovered {
			for _, r := range all {
				o.Recovered[id] = append(o.Recovered[id], review.Recovered{Attribute: r.Attribute, Values: r.Values, Probabilities: r.Probabilities, Prior: r.Prior})
			}
		}
	}
	page, warnings, err := attributes.Review(o)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	if err := atomicfile.WritePrivateBytes(out, page); err != nil {
		return resourceError(err)
	}
	fmt.Fprintf(c.App.ErrWriter, "%s: open it in a browser\n", out)
	return nil
}

func attributesLintCommand() *cli.Command {
	return &cli.Command{
		Name:  "lint",
		Usage: "try every phrase of a lexicon: unreachable, overlapping, without plural, non-X taken for X, misspelt",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "lexicon", Usage: "`NAME` of an embedded lexicon (" + strings.Join(rules.Names(), ", ") + ") or a YAML or JSON file", Required: true},
			&cli.BoolFlag{Name: "json", Usage: "print JSON to standard output"},
		},
		Action: func(c *cli.Context) error {
			lexicon, err := rules.OpenLexicon(c.String("lexicon"))
			if err != nil {
				return dataError(err)
			}
			remarks := lexicon.Lint()
			if c.Bool("json") {
				return writeJSON(c.App.Writer, struct {
					SchemaVersion int            `json:"schema_version"`
					Remarks       []rules.Remark `json:"remarks"`
				}{attributes.RecordVersion, remarks})
			}
			for _, r := range remarks {
				fmt.Fprintln(c.App.Writer, r)
			}
			fmt.Fprintf(c.App.ErrWriter, "%d remarks on %d attributes\n", len(remarks), len(lexicon.Schema.Attributes))
			return nil
		},
	}
}

func attributesSelectCommand() *cli.Command {
	flags := append(reportFlags(),
		&cli.StringFlag{Name: "by", Usage: "hand (--from), frequency (lexicon over the training reports) or llm", Value: "frequency"},
		&cli.StringFlag{Name: "from", Usage: "with --by hand: a schema `FILE`, JSON or YAML"},
		&cli.Float64Flag{Name: "min-share", Usage: "with --by frequency: least share of reports that mention an attribute", Value: attributes.DefaultMinShare},
		&cli.IntFlag{Name: "bins", Usage: "with --by frequency: bins of numeric attributes, at training quantiles", Value: attributes.DefaultBins},
		&cli.IntFlag{Name: "sample", Usage: "with --by llm: reports shown to the model", Value: 20},
		&cli.StringFlag{Name: "out", Usage: "schema `FILE` to write; FILE.json beside it records how", Required: true},
		&cli.BoolFlag{Name: "json", Usage: "print the schema to standard output"},
	)
	for _, f := range flags {
		if s, ok := f.(*cli.StringFlag); ok && s.Name == "data" {
			s.Required = false // not needed with --by hand
			s.Usage = "training reports only: a CSV `FILE` (see --only) or a folder of .txt files"
		}
	}
	return &cli.Command{
		Name:   "select",
		Usage:  "choose the attributes and their value sets, from training reports only",
		Flags:  append(flags, llmFlags()...),
		Action: attributesSelect,
	}
}

func attributesSelect(c *cli.Context) error {
	by := c.String("by")
	switch by {
	case "hand", "frequency", "llm":
	default:
		return usageError("--by %q: want hand, frequency or llm", by)
	}
	if (by == "hand") != (c.String("from") != "") {
		return usageError("--by hand and --from go together")
	}
	if by != "hand" && c.String("data") == "" {
		return usageError("--by %s needs --data with the training reports", by)
	}
	out := c.String("out")
	if err := checkFile("--out", out); err != nil {
		return err
	}
	chosen, record, err := selectBy(c, by)
	if err != nil || chosen == nil {
		return err
	}
	for _, w := range record.Warnings() {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
	}
	if err := writeJSONFile(out, chosen); err != nil {
		return resourceError(fmt.Errorf("%s: %w", out, err))
	}
	if err := writeRecord(record, out); err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, chosen)
	}
	for _, a := range chosen.Attributes {
		fmt.Fprintf(c.App.Writer, "%s (%s): %s\n", a.Name, a.Kind, strings.Join(a.Values, ", "))
	}
	return nil
}

// selectBy returns no schema after a dry run.
func selectBy(c *cli.Context, by string) (*schema.Schema, *attributes.Record, error) {
	src, err := sourceOf(c)
	if err != nil {
		return nil, nil, err
	}
	switch by {
	case "frequency":
		share, bins := c.Float64("min-share"), c.Int("bins")
		if !(share >= 0 && share <= 1) || bins < 2 {
			return nil, nil, usageError("--min-share must be 0 to 1 and --bins at least 2")
		}
		o, err := rulesOf(c)
		if err != nil {
			return nil, nil, err
		}
		return attributes.SelectByFrequency(c.Context, src, o, share, bins)
	case "llm":
		client, err := clientOf(c)
		if err != nil {
			return nil, nil, err
		}
		if client == nil {
			return nil, nil, usageError("--by llm needs --llm-url and --llm-model")
		}
		if c.Int("sample") < 1 {
			return nil, nil, usageError("--sample must be at least 1")
		}
		return attributes.SelectByModel(c.Context, src, client, c.Int("sample"), func(e llm.Estimate) bool { return confirm(c, client, e) })
	}
	s, err := attributes.ReadSchema(c.String("from"))
	if err != nil {
		return nil, nil, err
	}
	return s, &attributes.Record{SchemaVersion: attributes.RecordVersion, Method: by, AttributeHash: s.Hash()}, nil
}

func attributesEvaluateCommand() *cli.Command {
	return &cli.Command{
		Name:  "evaluate",
		Usage: "measure the rules on a public corpus",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "corpus", Usage: "negex (sentences of the NegEx/ConText kit) or openi (findings of chest radiographs)", Required: true},
			&cli.StringFlag{Name: "data", Usage: "the corpus `FILE`; openi: the reports, or a table that extract wrote", Required: true},
			&cli.StringFlag{Name: "gold", Usage: "openi: CSV `FILE` of gold labels"},
			&cli.StringFlag{Name: "lexicon", Usage: "`NAME` of an embedded lexicon or a file", Value: rules.ChestXRay},
			&cli.StringFlag{Name: "triggers", Usage: "trigger table `FILE` instead of the embedded one"},
			&cli.StringFlag{Name: "probable", Usage: "what likely findings count as: stated or uncertain", Value: "stated"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON to standard output"},
		},
		Action: attributesEvaluate,
	}
}

func attributesEvaluate(c *cli.Context) error {
	o, err := rulesOf(c)
	if err != nil {
		return err
	}
	switch c.String("corpus") {
	case "negex":
		return evaluateNegEx(c, o)
	case "openi":
		return evaluateOpenI(c, o)
	}
	return usageError("--corpus %q: want negex or openi", c.String("corpus"))
}

func evaluateNegEx(c *cli.Context, o rules.Options) error {
	engine, err := rules.OpenTriggers(o.Triggers)
	if err != nil {
		return dataError(err)
	}
	items, err := corpus.ReadNegEx(c.String("data"))
	if err != nil {
		return dataError(err)
	}
	r := corpus.EvaluateNegEx(engine, items)
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int    `json:"schema_version"`
			Corpus        string `json:"corpus"`
			corpus.NegExResult
		}{attributes.RecordVersion, "negex", r})
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%d sentences\n", r.Sentences)
	printScore(w, "negation", r.Negation)
	printScore(w, "negation, possible as negated", r.WithPossible)
	printScore(w, "historical", r.Temporality.Historical)
	printScore(w, "hypothetical", r.Temporality.Hypothetical)
	printScore(w, "experiencer other", r.Experiencer.Other)
	fmt.Fprintf(w, "accuracy: temporality %.2f, experiencer %.2f\n", r.Temporality.Accuracy, r.Experiencer.Accuracy)
	return nil
}

func printScore(w io.Writer, name string, s corpus.Score) {
	fmt.Fprintf(w, "%-30s precision %6.2f  recall %6.2f  F1 %6.2f  (tp %d, fp %d, fn %d)\n", name, s.Precision, s.Recall, s.F1, s.TP, s.FP, s.FN)
}

func evaluateOpenI(c *cli.Context, o rules.Options) error {
	if c.String("gold") == "" {
		return usageError("--corpus openi needs --gold")
	}
	gold, err := corpus.ReadGold(c.String("gold"))
	if err != nil {
		return dataError(err)
	}
	table, err := corpus.TableOf(c.Context, c.String("data"), o)
	if err != nil {
		return dataError(err)
	}
	r, err := corpus.EvaluateFindings(*table, gold)
	if err != nil {
		return dataError(err)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int    `json:"schema_version"`
			Corpus        string `json:"corpus"`
			corpus.FindingsResult
		}{attributes.RecordVersion, "openi", r})
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%d reports with gold labels\n", r.Reports)
	for _, f := range r.PerFinding {
		printScore(w, f.Finding, f.Score)
	}
	printScore(w, "micro (without normal)", r.Micro)
	printScore(w, "micro, uncertain as present", r.MicroUncertain)
	fmt.Fprintf(w, "micro F1, 95 %% interval %.1f to %.1f; macro F1 %.2f\n", r.MicroCI[0], r.MicroCI[1], r.MacroF1)
	for k, f := range r.Folds {
		printScore(w, fmt.Sprintf("part %d (F1 %.1f to %.1f)", k, r.FoldCIs[k][0], r.FoldCIs[k][1]), f)
	}
	return nil
}
