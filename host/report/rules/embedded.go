package rules

import (
	"embed"
	"io/fs"
	"path"
	"strings"
	"sync"
)

// lexicons are the embedded ones besides ChestXRay, NAME.yaml each.
//
//go:embed lexicons/*.yaml
var lexicons embed.FS

// Names are those of the embedded lexicons.
func Names() []string {
	names := []string{ChestXRay}
	files, _ := fs.Glob(lexicons, "lexicons/*.yaml") // the pattern is well-formed
	for _, f := range files {
		names = append(names, strings.TrimSuffix(path.Base(f), ".yaml"))
	}
	return names
}

var opened sync.Map // of Lexicon by name: compiled once

// embeddedLexicon returns the embedded lexicon of that name; nil when there is none.
func embeddedLexicon(name string) (*Lexicon, error) {
	if name == ChestXRay {
		return builtin()
	}
	if c, ok := opened.Load(name); ok {
		return c.(*Lexicon), nil
	}
	data, err := lexicons.ReadFile("lexicons/" + name + ".yaml")
	if err != nil {
		return nil, nil
	}
	c, err := ParseLexicon(data)
	if err == nil {
		opened.Store(name, c)
	}
	return c, err
}
