package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/alignedfusion/alignedfusion/host/report"
	"github.com/alignedfusion/alignedfusion/host/report/corpus"
	"github.com/alignedfusion/alignedfusion/host/report/llm"
	"github.com/alignedfusion/alignedfusion/host/report/rules"
	"github.com/alignedfusion/alignedfusion/host/report/schema"
	"github.com/alignedfusion/alignedfusion/internal/atomicfile"
)

// attributesJSONVersion is the schema_version of this command's JSON.
const attributesJSONVersion = 1

func attributesCommand() *cli.Command {
	return &cli.Command{
		Name:  "attributes",
		Usage: "choose attributes, read them from reports, measure how well",
		Subcommands: []*cli.Command{
			attributesSelectCommand(),
			attributesExtractCommand(),
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
		&cli.StringFlag{Name: "lexicon", Usage: "`NAME` of an embedded lexicon or a YAML or JSON file", Value: rules.ChestXRay},
		&cli.StringFlag{Name: "triggers", Usage: "trigger table `FILE` instead of the embedded one"},
	}
}

func llmFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "llm-url", Usage: "`BASE` of an OpenAI-compatible API, such as http://localhost:11434/v1"},
		&cli.StringFlag{Name: "llm-model", Usage: "`NAME` of the model"},
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

func reportsOf(c *cli.Context) ([]report.Report, error) {
	src := report.Source{Path: c.String("data"), ID: c.String("id")}
	for _, column := range strings.Split(c.String("text"), ",") {
		if column = strings.TrimSpace(column); column != "" {
			src.Text = append(src.Text, column)
		}
	}
	if only := c.String("only"); only != "" {
		column, value, ok := strings.Cut(only, "=")
		if !ok {
			return nil, usageError("--only %q: want COLUMN=VALUE", only)
		}
		src.Only = &[2]string{column, value}
	}
	reports, err := report.Read(src)
	return reports, dataError(err)
}

func rulesOf(c *cli.Context) (rules.Extractor, error) {
	lex, err := rules.OpenLexicon(c.String("lexicon"))
	if err != nil {
		return rules.Extractor{}, dataError(err)
	}
	engine, err := engineOf(c)
	return rules.Extractor{Lexicon: lex, Engine: engine}, err
}

func engineOf(c *cli.Context) (*rules.Engine, error) {
	if path := c.String("triggers"); path != "" {
		engine, err := rules.OpenTriggers(path)
		return engine, dataError(err)
	}
	return rules.DefaultEngine()
}

// clientOf returns nil when no endpoint is named.
func clientOf(c *cli.Context) (*llm.Client, error) {
	if c.String("llm-url") == "" {
		if c.IsSet("llm-model") || c.IsSet("dry-run") {
			return nil, usageError("--llm-model and --dry-run need --llm-url")
		}
		return nil, nil
	}
	if c.Int("llm-retries") < 0 || c.Int("llm-parallel") < 1 || c.Duration("llm-timeout") <= 0 {
		return nil, usageError("--llm-retries must be 0 or more, --llm-parallel at least 1 and --llm-timeout positive")
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
		BaseURL:  c.String("llm-url"),
		Model:    c.String("llm-model"),
		Key:      os.Getenv(c.String("llm-key-env")),
		Timeout:  c.Duration("llm-timeout"),
		Retries:  retries,
		CacheDir: cache,
		Parallel: c.Int("llm-parallel"),
	})
	if err != nil {
		return nil, usageError("%w", err)
	}
	return client, nil
}

// printEstimate says what is about to be sent.
func printEstimate(c *cli.Context, client *llm.Client, e llm.Estimate) {
	fmt.Fprintf(c.App.ErrWriter, "model %s at %s: %d requests (%d answers cached, %d empty reports), about %d input and %d output tokens",
		client.Model(), client.Endpoint(), e.Requests, e.Cached, e.Empty, e.InputTokens, e.OutputTokens)
	if c.IsSet("price-in") || c.IsSet("price-out") {
		cost := (float64(e.InputTokens)*c.Float64("price-in") + float64(e.OutputTokens)*c.Float64("price-out")) / 1e6
		fmt.Fprintf(c.App.ErrWriter, ", about %.2f at the prices given", cost)
	}
	fmt.Fprintln(c.App.ErrWriter)
}

func readSchema(path string) (*schema.Schema, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, dataError(err)
	}
	var s schema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, dataError(fmt.Errorf("%s: %w", path, err))
	}
	return &s, nil
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

// provenance says how a schema or table came about; it stands in the sidecar
// FILE.json.
type provenance struct {
	SchemaVersion int              `json:"schema_version"`
	Method        string           `json:"method"`
	Reports       int              `json:"reports"`
	Lexicon       string           `json:"lexicon,omitempty"`
	LexiconSHA256 string           `json:"lexicon_sha256,omitempty"`
	AttributeHash string           `json:"attributes_sha256"`
	Corrected     string           `json:"corrected_table_sha256,omitempty"`
	KeptRows      int              `json:"rows_kept_from_corrected_table,omitempty"`
	Endpoint      string           `json:"endpoint,omitempty"`
	Model         string           `json:"model,omitempty"`
	Prompt        string           `json:"prompt,omitempty"`
	Audit         *llm.Audit       `json:"audit,omitempty"`
	OtherLanguage []string         `json:"reports_in_another_language,omitempty"`
	Attributes    []attributeCount `json:"attributes,omitempty"`
	Out           string           `json:"out"`
}

type attributeCount struct {
	Name        string `json:"name"`
	Stated      int    `json:"stated"`
	Negated     int    `json:"negated"`
	Uncertain   int    `json:"uncertain"`
	Unmentioned int    `json:"unmentioned"`
}

func countStates(s schema.Schema, rows [][]schema.Cell) []attributeCount {
	counts := make([]attributeCount, len(s.Attributes))
	for i, a := range s.Attributes {
		counts[i].Name = a.Name
		for _, cells := range rows {
			switch cells[i].State {
			case schema.Stated:
				counts[i].Stated++
			case schema.Negated:
				counts[i].Negated++
			case schema.Uncertain:
				counts[i].Uncertain++
			default:
				counts[i].Unmentioned++
			}
		}
	}
	return counts
}

func printCounts(w io.Writer, counts []attributeCount) {
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
		&cli.StringFlag{Name: "table", Usage: "table `FILE` of an earlier run, perhaps corrected: its rows are kept, only other reports are read"},
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
	if p := c.String("probable"); p != "stated" && p != "uncertain" {
		return usageError("--probable %q: want stated or uncertain", p)
	}
	x, err := rulesOf(c)
	if err != nil {
		return err
	}
	x.ProbableIsUncertain = c.String("probable") == "uncertain"
	client, err := clientOf(c)
	if err != nil {
		return err
	}
	target := x.Lexicon.Schema
	if path := c.String("schema"); path != "" {
		s, err := readSchema(path)
		if err != nil {
			return err
		}
		target = *s
	}
	reports, err := reportsOf(c)
	if err != nil {
		return err
	}
	record := provenance{
		SchemaVersion: attributesJSONVersion,
		Reports:       len(reports),
		AttributeHash: target.Hash(),
		Out:           c.String("out"),
	}
	kept, err := keptRows(c, target, reports, &record)
	if err != nil {
		return err
	}
	var fresh []report.Report
	for _, r := range reports {
		if _, ok := kept[r.ID]; !ok {
			fresh = append(fresh, r)
		}
	}

	var rows [][]schema.Cell
	if client != nil {
		printEstimate(c, client, client.EstimateExtract(&target, fresh))
		if c.Bool("dry-run") {
			return nil
		}
		var audit llm.Audit
		if rows, audit, err = client.Extract(c.Context, &target, fresh); err != nil {
			return err
		}
		record.Method, record.Endpoint, record.Model = "llm", client.Endpoint(), client.Model()
		record.Prompt, record.Audit = llm.Prompt(&target), &audit
		if n := len(audit.Unreadable); n > 0 {
			fmt.Fprintf(c.App.ErrWriter, "warning: %d reports got no readable answer and are left unmentioned; the record names them\n", n)
		}
	} else {
		record.Method, record.Lexicon, record.LexiconSHA256 = "rules", x.Lexicon.Source.Name, x.Lexicon.Hash()
		if rows, err = extractByRules(c.Context, x, target, fresh); err != nil {
			return err
		}
		for _, r := range fresh {
			if rules.OtherLanguage(r) {
				record.OtherLanguage = append(record.OtherLanguage, r.ID)
			}
		}
		if n := len(record.OtherLanguage); n > 0 {
			fmt.Fprintf(c.App.ErrWriter, "warning: %d reports look like another language than English and are left unmentioned; the record names them\n", n)
		}
	}

	table := report.Table{Schema: target}
	next := 0
	for _, r := range reports {
		cells, ok := kept[r.ID]
		if !ok {
			cells = rows[next]
			next++
		}
		table.IDs = append(table.IDs, r.ID)
		table.Cells = append(table.Cells, cells)
	}
	record.Attributes = countStates(target, table.Cells)
	if err := table.WriteFile(record.Out); err != nil {
		return resourceError(fmt.Errorf("%s: %w", record.Out, err))
	}
	if err := writeJSONFile(record.Out+".json", record); err != nil {
		return resourceError(fmt.Errorf("%s.json: %w", record.Out, err))
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, record)
	}
	printCounts(c.App.Writer, record.Attributes)
	return nil
}

// keptRows reads the corrected table, and checks its evidence against the
// reports.
func keptRows(c *cli.Context, target schema.Schema, reports []report.Report, record *provenance) (map[string][]schema.Cell, error) {
	path := c.String("table")
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, dataError(err)
	}
	table, err := report.ParseTable(data, path, target)
	if err != nil {
		return nil, dataError(err)
	}
	byID := map[string]report.Report{}
	for _, r := range reports {
		byID[r.ID] = r
	}
	kept := map[string][]schema.Cell{}
	for n, id := range table.IDs {
		r, ok := byID[id]
		if !ok {
			return nil, dataError(fmt.Errorf("%s: row %d: no report has this id", path, n+2))
		}
		for i, cell := range table.Cells[n] {
			if e := cell.Evidence; !e.IsZero() && !r.Holds(e) {
				return nil, dataError(fmt.Errorf("%s: row %d: the evidence for %q is not in the report; correct or clear it", path, n+2, target.Attributes[i].Name))
			}
		}
		kept[id] = table.Cells[n]
	}
	sum := sha256.Sum256(data)
	record.Corrected, record.KeptRows = hex.EncodeToString(sum[:]), len(kept)
	return kept, nil
}

func extractByRules(ctx context.Context, x rules.Extractor, target schema.Schema, reports []report.Report) ([][]schema.Cell, error) {
	if _, err := report.Project(x.Lexicon.Schema, x.Extract(report.Report{}), target); err != nil {
		return nil, dataError(fmt.Errorf("schema and lexicon: %w", err))
	}
	rows := make([][]schema.Cell, len(reports))
	for n, r := range reports {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		cells, err := report.Project(x.Lexicon.Schema, x.Extract(r), target)
		if err != nil {
			return nil, dataError(fmt.Errorf("report %q: %w", r.ID, err))
		}
		rows[n] = cells
	}
	return rows, nil
}

func attributesSelectCommand() *cli.Command {
	flags := append(reportFlags(),
		&cli.StringFlag{Name: "by", Usage: "hand (--from), frequency (lexicon over the training reports) or llm", Value: "frequency"},
		&cli.StringFlag{Name: "from", Usage: "with --by hand: a schema `FILE`, JSON or YAML"},
		&cli.Float64Flag{Name: "min-share", Usage: "with --by frequency: least share of reports that mention an attribute", Value: 0.01},
		&cli.IntFlag{Name: "bins", Usage: "with --by frequency: bins of numeric attributes, at training quantiles", Value: 5},
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
	record := provenance{SchemaVersion: attributesJSONVersion, Method: by, Out: c.String("out")}
	var chosen *schema.Schema
	var err error
	if by == "hand" {
		chosen, err = schemaByHand(c.String("from"))
	} else {
		if c.String("data") == "" {
			return usageError("--by %s needs --data with the training reports", by)
		}
		var reports []report.Report
		if reports, err = reportsOf(c); err != nil {
			return err
		}
		record.Reports = len(reports)
		if by == "frequency" {
			chosen, err = schemaByFrequency(c, reports, &record)
		} else {
			chosen, err = schemaByLLM(c, reports, &record)
		}
	}
	if err != nil || chosen == nil {
		return err
	}
	record.AttributeHash = chosen.Hash()
	if err := writeJSONFile(record.Out, chosen); err != nil {
		return resourceError(fmt.Errorf("%s: %w", record.Out, err))
	}
	if err := writeJSONFile(record.Out+".json", record); err != nil {
		return resourceError(fmt.Errorf("%s.json: %w", record.Out, err))
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, chosen)
	}
	for _, a := range chosen.Attributes {
		fmt.Fprintf(c.App.Writer, "%s (%s): %s\n", a.Name, a.Kind, strings.Join(a.Values, ", "))
	}
	return nil
}

// schemaByHand reads a schema from JSON, or from YAML with the same keys.
func schemaByHand(path string) (*schema.Schema, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, dataError(err)
	}
	if !json.Valid(data) {
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil, dataError(fmt.Errorf("%s: neither JSON nor YAML: %w", path, err))
		}
	}
	var s schema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, dataError(fmt.Errorf("%s: %w", path, err))
	}
	return &s, nil
}

// schemaByFrequency keeps the lexicon's attributes that enough training reports
// mention, orders categorical values by frequency and bins numbers at training
// quantiles.
func schemaByFrequency(c *cli.Context, reports []report.Report, record *provenance) (*schema.Schema, error) {
	share, bins := c.Float64("min-share"), c.Int("bins")
	if !(share >= 0 && share <= 1) || bins < 2 {
		return nil, usageError("--min-share must be 0 to 1 and --bins at least 2")
	}
	x, err := rulesOf(c)
	if err != nil {
		return nil, err
	}
	record.Lexicon, record.LexiconSHA256 = x.Lexicon.Source.Name, x.Lexicon.Hash()
	all := x.Lexicon.Schema
	rows, err := extractByRules(c.Context, x, all, reports)
	if err != nil {
		return nil, err
	}
	record.Attributes = countStates(all, rows)
	chosen := &schema.Schema{}
	for i, a := range all.Attributes {
		n := record.Attributes[i]
		mentioned := len(rows) - n.Unmentioned
		if mentioned == 0 || float64(mentioned) < share*float64(len(rows)) {
			continue
		}
		switch a.Kind {
		case schema.Categorical:
			count := make([]int, len(a.Values))
			for _, cells := range rows {
				if k := cells[i].Value; k >= 0 {
					count[k]++
				}
			}
			order := make([]int, 0, len(count))
			for k, n := range count {
				if n > 0 {
					order = append(order, k)
				}
			}
			sort.SliceStable(order, func(x, y int) bool { return count[order[x]] > count[order[y]] })
			values := make([]string, len(order))
			for p, k := range order {
				values[p] = a.Values[k]
			}
			if a.Values = values; len(values) < 2 {
				continue
			}
		case schema.Numeric:
			var measured []float64
			for _, cells := range rows {
				if v, err := strconv.ParseFloat(cells[i].Raw, 64); err == nil {
					measured = append(measured, v)
				}
			}
			if a.Edges = schema.QuantileEdges(measured, bins); len(a.Edges) == 0 {
				continue
			}
			a.Values = schema.BinLabels(a.Edges)
		}
		chosen.Attributes = append(chosen.Attributes, a)
	}
	if err := chosen.Validate(); err != nil {
		return nil, dataError(fmt.Errorf("no schema from %d reports with at least a share of %g: %w", len(reports), share, err))
	}
	return chosen, nil
}

// schemaByLLM returns nil after a dry run.
func schemaByLLM(c *cli.Context, reports []report.Report, record *provenance) (*schema.Schema, error) {
	client, err := clientOf(c)
	if err != nil {
		return nil, err
	}
	if client == nil {
		return nil, usageError("--by llm needs --llm-url and --llm-model")
	}
	if c.Int("sample") < 1 {
		return nil, usageError("--sample must be at least 1")
	}
	printEstimate(c, client, client.EstimateSelect(reports, c.Int("sample")))
	if c.Bool("dry-run") {
		return nil, nil
	}
	record.Endpoint, record.Model, record.Prompt = client.Endpoint(), client.Model(), llm.SelectPrompt
	return client.Select(c.Context, reports, c.Int("sample"))
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
	if p := c.String("probable"); p != "stated" && p != "uncertain" {
		return usageError("--probable %q: want stated or uncertain", p)
	}
	switch c.String("corpus") {
	case "negex":
		return evaluateNegEx(c)
	case "openi":
		return evaluateOpenI(c)
	}
	return usageError("--corpus %q: want negex or openi", c.String("corpus"))
}

func evaluateNegEx(c *cli.Context) error {
	engine, err := engineOf(c)
	if err != nil {
		return err
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
		}{attributesJSONVersion, "negex", r})
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

func evaluateOpenI(c *cli.Context) error {
	if c.String("gold") == "" {
		return usageError("--corpus openi needs --gold")
	}
	x, err := rulesOf(c)
	if err != nil {
		return err
	}
	x.ProbableIsUncertain = c.String("probable") == "uncertain"
	gold, err := corpus.ReadGold(c.String("gold"))
	if err != nil {
		return dataError(err)
	}
	table, err := report.ReadTable(c.String("data"), x.Lexicon.Schema)
	if err != nil { // not a table: the reports
		reports, rerr := report.Read(report.Source{Path: c.String("data")})
		if rerr != nil {
			return dataError(errors.Join(rerr, err))
		}
		table = report.Table{Schema: x.Lexicon.Schema}
		if table.Cells, err = extractByRules(c.Context, x, table.Schema, reports); err != nil {
			return err
		}
		for _, r := range reports {
			table.IDs = append(table.IDs, r.ID)
		}
	}
	r, err := corpus.EvaluateFindings(table, gold)
	if err != nil {
		return dataError(err)
	}
	if c.Bool("json") {
		return writeJSON(c.App.Writer, struct {
			SchemaVersion int    `json:"schema_version"`
			Corpus        string `json:"corpus"`
			corpus.FindingsResult
		}{attributesJSONVersion, "openi", r})
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%d reports with gold labels\n", r.Reports)
	for _, f := range r.PerFinding {
		printScore(w, f.Finding, f.Score)
	}
	printScore(w, "micro (without normal)", r.Micro)
	printScore(w, "micro, uncertain as present", r.MicroUncertain)
	fmt.Fprintf(w, "macro F1 %.2f\n", r.MacroF1)
	for k, f := range r.Folds {
		printScore(w, fmt.Sprintf("micro of part %d", k), f)
	}
	return nil
}
