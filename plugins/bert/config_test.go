package bert

import (
	"os"
	"path/filepath"
	"testing"
)

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"bert","vocab_size":64,"hidden_size":128,"num_hidden_layers":2,"num_attention_heads":2,"intermediate_size":512}`),
		[]byte(`{"do_lower_case":false}`))
	f.Add([]byte(`{"model_type":"distilbert","vocab_size":64,"dim":128,"n_layers":2,"n_heads":2,"hidden_dim":512}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, config, tokenizer []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"config.json": config, "tokenizer_config.json": tokenizer} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := readConfig(dir)
		if err == nil && (c.width < 1 || c.heads < 1 || c.width%c.heads != 0 || c.layers < 1 || c.positions < 1) {
			t.Fatalf("accepted %+v", c)
		}
	})
}
