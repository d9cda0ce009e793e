package workflow

import (
	"path/filepath"
	"strings"

	"github.com/alignedfusion/alignedfusion/host/config"
	"github.com/alignedfusion/alignedfusion/host/dataset"
)

// absolutePaths makes the paths of a configuration absolute, so that its run directory
// works from any folder. Those among the settings of stages become so when the stages are
// opened, which is when it is known that they are paths.
func absolutePaths(c *config.Config) (err error) {
	if c.Data, err = dataset.AbsoluteSpec(c.Data); err != nil {
		return err
	}
	paths := []*string{&c.Init, &c.Reports, &c.Schema, &c.DataSettings.CacheDir}
	stages := []*config.Stage{&c.Encoder, &c.Fusion, &c.Head}
	if c.TextEncoder != nil {
		stages = append(stages, c.TextEncoder)
	}
	for _, s := range stages {
		if strings.ContainsRune(s.Plugin, filepath.Separator) { // else it is a name
			paths = append(paths, &s.Plugin)
		}
	}
	for _, p := range paths {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	return nil
}
