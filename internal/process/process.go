// Package process has what systems do in different ways about processes: groups of them,
// who lives, who owns, how much memory was used.
package process
