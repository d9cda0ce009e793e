package pipeline

import (
	"path/filepath"

	"github.com/alignedfusion/alignedfusion/sdk"
)

// ResolveSettings is sdk.ResolveSettings for settings that a user gave: paths become
// absolute, for a plugin runs in a folder of its own.
func ResolveSettings(declared []sdk.Setting, given map[string]string) (sdk.Settings, error) {
	settings, err := sdk.ResolveSettings(declared, given)
	if err != nil {
		return nil, err
	}
	for _, s := range declared {
		if s.Type != "path" || settings[s.Name] == "" {
			continue
		}
		if settings[s.Name], err = filepath.Abs(settings[s.Name]); err != nil {
			return nil, err
		}
	}
	return settings, nil
}
