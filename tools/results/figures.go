package main

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// definition names the cell that a figure of the prose stands in: a file of docs/results, what is
// made of it as in a block, the row and the column, and which figure of the cell it is (1 if
// nothing is said), between bars. "A minus B" is the difference of two cells of one column, B
// another row.
var definition = regexp.MustCompile(`(?m)^\[([^\]]+)\]: (\S+\.json) "(.+)"$`)

// oneFigure is a figure in a cell: .712, −.012 [−.034, .011], 18.1 %, 26.
var oneFigure = regexp.MustCompile(`[+−]?(?:\.\d+|\d+\.\d+|\d+)(?: %)?(?: \[[^\]]*\])?`)

// fillFigures writes the figures of a page's prose. The page chooses the form: where it has no
// interval none is given, where it has no sign, none either (".012 below").
func fillFigures(page string, read func(name string) ([]byte, error)) (string, error) {
	for _, d := range definition.FindAllStringSubmatch(page, -1) {
		value, err := cell(path.Base(d[2]), d[3], read)
		if err != nil {
			return "", fmt.Errorf("[%s]: %w", d[1], err)
		}
		use := regexp.MustCompile(`\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\[` + regexp.QuoteMeta(d[1]) + `\]`)
		used := false
		page = use.ReplaceAllStringFunc(page, func(link string) string {
			used = true
			return "[" + likened(use.FindStringSubmatch(link)[1], value) + "][" + d[1] + "]"
		})
		if !used {
			return "", fmt.Errorf("[%s]: no figure of the page uses it", d[1])
		}
	}
	return page, nil
}

// likened is the figure in the form of the one that stands there.
func likened(old, value string) string {
	if !strings.Contains(old, "[") {
		value, _, _ = strings.Cut(value, " [")
	}
	if !strings.HasPrefix(old, "+") && !strings.HasPrefix(old, "−") {
		value = strings.TrimLeft(value, "+−")
	}
	return value
}

// cell finds a figure by what its definition says.
func cell(name, where string, read func(name string) ([]byte, error)) (string, error) {
	parts := strings.Split(where, " | ")
	kind := strings.Fields(parts[0])
	if len(parts) < 3 || len(parts) > 4 || len(kind) == 0 {
		return "", fmt.Errorf("%q: want what is made of the file, row, column, and which figure of the cell if not the first, with bars between", where)
	}
	n := 1
	if len(parts) == 4 {
		var err error
		if n, err = strconv.Atoi(parts[3]); err != nil || n < 1 {
			return "", fmt.Errorf("figure %q of the cell: want 1 or more", parts[3])
		}
	}
	table, err := made(name, kind[0], kind[1:], read)
	if err != nil {
		return "", err
	}
	whole, other, differ := strings.Cut(parts[1], " minus ")
	value, err := figureAt(table, whole, parts[2], n)
	if err != nil || !differ {
		return value, err
	}
	less, err := figureAt(table, other, parts[2], n)
	if err != nil {
		return "", err
	}
	return difference3(value, less)
}

// figureAt is the nth figure in a cell of a table in Markdown.
func figureAt(table, row, column string, n int) (string, error) {
	plain := func(cell string) string {
		return strings.TrimSpace(strings.NewReplacer("`", "", "**", "").Replace(cell))
	}
	var head []string
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSuffix(line, "\n"), "|"), "|")
		if head == nil {
			for _, c := range cells {
				head = append(head, plain(c))
			}
			continue
		}
		if plain(cells[0]) != row {
			continue
		}
		for i, c := range cells {
			if i == 0 || i >= len(head) || head[i] != column {
				continue
			}
			figures := oneFigure.FindAllString(plain(c), -1)
			if n > len(figures) {
				return "", fmt.Errorf("row %q, column %q has %d figures, want figure %d", row, column, len(figures), n)
			}
			return figures[n-1], nil
		}
		return "", fmt.Errorf("no column %q; there are %s", column, strings.Join(head[1:], ", "))
	}
	return "", fmt.Errorf("no row %q", row)
}

// difference3 subtracts figures as the tables have them.
func difference3(a, b string) (string, error) {
	number := func(text string) (float64, error) {
		text, _, _ = strings.Cut(text, " ")
		return strconv.ParseFloat(strings.NewReplacer("−", "-", "+", "").Replace(text), 64)
	}
	x, err := number(a)
	if err != nil {
		return "", err
	}
	y, err := number(b)
	if err != nil {
		return "", err
	}
	sign := "+"
	if x < y {
		sign, x, y = "−", y, x
	}
	return sign + strings.TrimPrefix(fmt.Sprintf("%.3f", x-y), "0"), nil
}
