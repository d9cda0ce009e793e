package ports

import "fmt"

// State is what a report tells about an attribute: the numbers of the port report.state.
type State int8

// The four states.
const (
	Unmentioned State = 0
	Stated      State = 1
	Negated     State = 2
	Uncertain   State = 3
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Unmentioned:
		return "unmentioned"
	case Stated:
		return "stated"
	case Negated:
		return "negated"
	case Uncertain:
		return "uncertain"
	}
	return fmt.Sprintf("state(%d)", int8(s))
}
