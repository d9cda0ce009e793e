// Package nearest finds the name that somebody may have meant.
package nearest

// Name returns the known name with the smallest Levenshtein distance to the one
// given, the first of several; "" when none is near: more than half of the given
// name and one would have to change.
func Name(given string, known []string) string {
	best, bestDistance := "", len(given)/2+2
	for _, name := range known {
		if n := distance(given, name); n < bestDistance {
			best, bestDistance = name, n
		}
	}
	return best
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		previous := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := previous
			if a[i-1] != b[j-1] {
				cost++
			}
			previous = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
