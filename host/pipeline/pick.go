package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// PickStage chooses the stage that plays a role: the named one, else the only one of the
// kind that is made for the task, else the one that is called like the role.
func PickStage(m sdk.Manifest, role sdk.Kind, name, task string) (*sdk.StageManifest, error) {
	var fitting, all []string
	var found *sdk.StageManifest
	for i := range m.Stages {
		s := &m.Stages[i]
		what := string(s.Kind)
		if len(s.Tasks) > 0 {
			what += " to " + strings.Join(s.Tasks, " or ")
		}
		all = append(all, fmt.Sprintf("%s (%s)", s.Name, what))
		if name != "" && s.Name == name {
			return s, nil // the port check says so when the kind is wrong
		}
		if name == "" && s.Kind == role && (len(s.Tasks) == 0 || slices.Contains(s.Tasks, task)) {
			if found == nil || s.Name == string(role) {
				found = s
			}
			fitting = append(fitting, s.Name)
		}
	}
	switch {
	case name != "":
		return nil, fmt.Errorf("the plugin has no stage %q; it has %s", name, strings.Join(all, ", "))
	case len(fitting) == 0:
		return nil, fmt.Errorf("the plugin has no %s for the task %s; it has %s", role, task, strings.Join(all, ", "))
	case len(fitting) > 1 && found.Name != string(role):
		return nil, fmt.Errorf("the plugin has several stages of that kind: %s; name one as %s:STAGE", strings.Join(fitting, ", "), m.Name)
	}
	return found, nil
}
