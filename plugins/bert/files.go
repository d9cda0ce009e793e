package bert

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/alignedfusion/alignedfusion/plugins/bert/bpe"
	"github.com/alignedfusion/alignedfusion/plugins/bert/unigram"
	"github.com/alignedfusion/alignedfusion/plugins/bert/wordpiece"
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/torchstage"
)

// tokenizer turns a text into ids with those that stand around it.
type tokenizer struct {
	encode func(text string) ([]int32, error)
	pad    int64
	// entries is the number of ids.
	entries int
	// guessed says that nothing tells whether text is lower-cased.
	guessed bool
}

// openTokenizer reads vocab.txt (WordPiece), else tokenizer.json (WordPiece, byte-level BPE
// or Unigram).
func openTokenizer(dir string, c config) (tokenizer, error) {
	vocab, err := wordpiece.LoadVocab(filepath.Join(dir, "vocab.txt"))
	if err == nil {
		return wordPiece(vocab, c), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return tokenizer{}, err
	}
	var file bpe.File
	path := filepath.Join(dir, "tokenizer.json")
	found, err := readJSON(path, &file)
	switch {
	case err != nil:
		return tokenizer{}, err
	case !found:
		return tokenizer{}, errors.New("neither vocab.txt nor tokenizer.json (`AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)` writes it)")
	}
	switch file.Model.Type {
	case "WordPiece":
		var ids map[string]int32
		if err := file.Vocab(&ids); err != nil {
			return tokenizer{}, fmt.Errorf("%s: %w", path, err)
		}
		vocab, err := wordpiece.NewVocab(ids)
		if err != nil {
			return tokenizer{}, fmt.Errorf("%s: %w", path, err)
		}
		if n := file.Normalizer; n != nil && n.Type == "BertNormalizer" {
			if !c.lowercaseIsKnown && n.Lowercase != nil {
				c.lowercase, c.lowercaseIsKnown = *n.Lowercase, true
			}
			if c.stripAccents == nil {
				c.stripAccents = n.StripAccents
			}
		}
		return wordPiece(vocab, c), nil
	case "BPE":
		t, err := bpe.New(&file)
		if err != nil {
			return tokenizer{}, fmt.Errorf("%s: %w", path, err)
		}
		return padded(path, t)
	case "Unigram":
		return openUnigram(path)
	}
	return tokenizer{}, fmt.Errorf("%s: the tokenizer is %q, want WordPiece, byte-level BPE or Unigram", path, file.Model.Type)
}

func openUnigram(path string) (tokenizer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return tokenizer{}, err
	}
	t, err := unigram.New(data)
	if err != nil {
		return tokenizer{}, fmt.Errorf("%s: %w", path, err)
	}
	return padded(path, t)
}

// padded is a tokenizer with its padding.
func padded(path string, t interface {
	ID(piece string) (int32, bool)
	Len() int
	Encode(text string) ([]int32, error)
}) (tokenizer, error) {
	for _, name := range []string{"<pad>", "[PAD]"} {
		if pad, ok := t.ID(name); ok {
			return tokenizer{encode: t.Encode, pad: int64(pad), entries: t.Len()}, nil
		}
	}
	return tokenizer{}, fmt.Errorf("%s: the piece <pad> or [PAD] is missing", path)
}

func wordPiece(vocab *wordpiece.Vocab, c config) tokenizer {
	t := wordpiece.New(vocab, c.lowercase)
	if c.stripAccents != nil {
		t = t.StripAccents(*c.stripAccents)
	}
	pad, _ := vocab.ID(wordpiece.Padding)
	return tokenizer{
		encode: func(text string) ([]int32, error) { return t.Encode(text, 0) },
		pad:    int64(pad), entries: vocab.Len(), guessed: !c.lowercaseIsKnown,
	}
}

// loadWeights reads model.safetensors, or the shards that model.safetensors.index.json
// lists.
func loadWeights(b *torchstage.Build, dir string) error {
	single := filepath.Join(dir, "model.safetensors")
	if _, err := os.Stat(single); err == nil {
		return b.Params.LoadFile(b.S, single, torchstage.LoadOptions{Rename: rename})
	}
	var index struct {
		Shards map[string]string `json:"weight_map"`
	}
	found, err := readJSON(filepath.Join(dir, "model.safetensors.index.json"), &index)
	switch {
	case err != nil:
		return sdk.Errorf(sdk.InvalidArgument, "%w", err)
	case !found:
		return &sdk.Error{
			Code: sdk.InvalidArgument, Err: fmt.Errorf("model folder %s: no model.safetensors", dir),
			Advice: "`alignedfusion weights import` makes it of a pytorch_model.bin",
		}
	}
	var shards []string
	held := map[string]bool{}
	for name, shard := range index.Shards {
		held[rename(name)] = true
		if filepath.Base(shard) != shard {
			return sdk.Errorf(sdk.InvalidArgument, "model folder %s: shard %q, want a file beside the index", dir, shard)
		}
		if !slices.Contains(shards, shard) {
			shards = append(shards, shard)
		}
	}
	for _, name := range b.Params.Names() {
		if !held[name] {
			return sdk.Errorf(sdk.InvalidArgument, "model folder %s: no shard holds %s", dir, name)
		}
	}
	slices.Sort(shards)
	for _, shard := range shards {
		if err := b.Params.LoadFile(b.S, filepath.Join(dir, shard), torchstage.LoadOptions{Rename: rename, Missing: []string{"*"}}); err != nil {
			return err
		}
	}
	return nil
}
