"""Reference values for the text stage, from a BERT on nn.MultiheadAttention.

Run in this folder: /usr/bin/python3 reference.py
Weights follow fixture.formula: only their shapes and the embeddings are stored. The
words of the texts are entries of the vocabulary, so that ids are plain look-ups.
"""

import json
import os
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + "no itch : . possibly face arm elevation yes lesion size under 30 mm".split()
TEXTS = ["itch : no .", "lesion size : under 30 mm .", "elevation : possibly yes .", "arm", ". . . face face face arm arm arm : : :"]


class Norm(nn.LayerNorm):
    def __init__(self, n):
        super().__init__(n, eps=1e-12)


class Bert(nn.Module):
    """Names as in Hugging Face checkpoints; arithmetic by nn.MultiheadAttention."""

    def __init__(self, vocab, d, layers, heads, hidden, positions):
        super().__init__()
        self.heads = heads
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(vocab, d), "position_embeddings": nn.Embedding(positions, d),
            "token_type_embeddings": nn.Embedding(2, d), "LayerNorm": Norm(d)})

        def layer():
            return nn.ModuleDict({
                "attention": nn.ModuleDict({
                    "self": nn.ModuleDict({k: nn.Linear(d, d) for k in ("query", "key", "value")}),
                    "output": nn.ModuleDict({"dense": nn.Linear(d, d), "LayerNorm": Norm(d)})}),
                "intermediate": nn.ModuleDict({"dense": nn.Linear(d, hidden)}),
                "output": nn.ModuleDict({"dense": nn.Linear(hidden, d), "LayerNorm": Norm(d)})})

        self.encoder = nn.ModuleDict({"layer": nn.ModuleList([layer() for _ in range(layers)])})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(d, d)})

    def forward(self, ids):
        e = self.embeddings
        x = e["word_embeddings"](ids) + e["position_embeddings"].weight[: ids.shape[1]] + e["token_type_embeddings"].weight[0]
        x = e["LayerNorm"](x)
        for l in self.encoder["layer"]:
            a = l["attention"]
            y, _ = F.multi_head_attention_forward(
                x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1), x.shape[-1], self.heads,
                torch.cat([a["self"][k].weight for k in ("query", "key", "value")]),
                torch.cat([a["self"][k].bias for k in ("query", "key", "value")]),
                None, None, False, 0.0, a["output"]["dense"].weight, a["output"]["dense"].bias, training=False)
            x = a["output"]["LayerNorm"](x + y.transpose(0, 1))
            x = l["output"]["LayerNorm"](x + l["output"]["dense"](F.gelu(l["intermediate"]["dense"](x))))
        return x[:, 0]


def case(name, vocab, d, layers, heads, hidden, positions):
    model = Bert(vocab, d, layers, heads, hidden, positions).eval()
    shapes = fixture.fill(model)
    lookup = {w: i for i, w in enumerate(VOCAB)}
    with torch.no_grad():
        rows = [model(torch.tensor([[2] + [lookup[w] for w in t.split()] + [3]])) for t in TEXTS]
    config = {"model_type": "bert", "vocab_size": vocab, "hidden_size": d, "num_hidden_layers": layers,
              "num_attention_heads": heads, "intermediate_size": hidden, "max_position_embeddings": positions,
              "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    fixture.write(os.path.join(here, name + ".safetensors"), {"embedding": torch.cat(rows)},
                  {"shapes": json.dumps(shapes), "config": json.dumps(config), "vocab": json.dumps(VOCAB),
                   "texts": json.dumps(TEXTS)})


if __name__ == "__main__":
    case("bert_2x128", 64, 128, 2, 2, 512, 32)
    case("bert_12x768", 1000, 768, 12, 12, 3072, 128)
