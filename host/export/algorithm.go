package export

import (
	"fmt"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/runs"
)

// AlgorithmOf says what found the findings: the plugins of a run with their hashes, or, with
// nil, this program of a version.
func AlgorithmOf(m *runs.Manifest, version string) Algorithm {
	if m == nil {
		return Algorithm{Name: maker, Version: version}
	}
	a := Algorithm{Version: m.Version}
	var names []string
	for _, p := range m.Plugins {
		if name := p.Name; len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
		a.Parameters = append(a.Parameters, fmt.Sprintf("%s: %s %s, stage %s, sha256 %s", p.Role, p.Name, p.Version, p.Stage, p.SHA256))
	}
	a.Name = strings.TrimSpace(maker + " " + strings.Join(names, "+"))
	a.Parameters = append(a.Parameters, fmt.Sprintf("training: data sha256 %s, seed %d", m.DataSHA256, m.Seed))
	return a
}
