// Package interval names intervals of time, which are the classes of a question after the
// time to an event: 0-6, 6-24, 24- are three, of which the last has no end. A bound belongs to
// the interval that begins with it.
package interval

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Names are the intervals that bounds, which rise from more than 0, make: one more than them.
func Names(bounds []float64) []string {
	out, from := make([]string, 0, len(bounds)+1), "0"
	for _, b := range bounds {
		to := strconv.FormatFloat(b, 'f', -1, 64)
		out, from = append(out, from+"-"+to), to
	}
	return append(out, from+"-")
}

// Bounds are what Names was given.
func Bounds(names []string) ([]float64, error) {
	var bounds []float64
	for i, name := range names {
		_, to, _ := strings.Cut(name, "-")
		if to == "" && i == len(names)-1 {
			break
		}
		b, err := strconv.ParseFloat(to, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is no interval of time such as 0-6; the last is such as 24-", name)
		}
		bounds = append(bounds, b)
	}
	rises := slices.IsSortedFunc(bounds, func(a, b float64) int { return cmp.Or(cmp.Compare(a, b), 1) })
	if len(names) < 2 || !rises || bounds[0] <= 0 || !slices.Equal(Names(bounds), names) {
		return nil, fmt.Errorf("%s are no intervals of time that follow each other from 0 on, the last without an end", strings.Join(names, ", "))
	}
	return bounds, nil
}

// Of is the interval that a time, 0 or more, lies in.
func Of(bounds []float64, time float64) int {
	i, found := slices.BinarySearch(bounds, time)
	if found {
		i++
	}
	return i
}

// Between are bounds of as many intervals as wanted, at most, with as many of the times in each
// as can be. They have four digits.
func Between(times []float64, wanted int) []float64 {
	sorted := slices.Sorted(slices.Values(times))
	var bounds []float64
	for k := 1; k < wanted; k++ {
		at := sorted[min(len(sorted)-1, k*len(sorted)/wanted)]
		b, err := strconv.ParseFloat(strconv.FormatFloat(at, 'g', 4, 64), 64)
		if err == nil && b > 0 && (len(bounds) == 0 || b > bounds[len(bounds)-1]) {
			bounds = append(bounds, b)
		}
	}
	return bounds
}
