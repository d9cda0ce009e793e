"""Reference values for the text stage, from models of the transformers package.

Run in this folder, with torch, transformers, tokenizers: python3 transformers_reference.py
Weights follow fixture.formula: only their shapes and the embeddings are stored.
"""

import json
import os
import sys

import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel
from tokenizers import Tokenizer

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

TEXTS = ["itch: no.", "lesion size: under 30 mm.", "margin: possibly spiculated.", "arm", "It's the left lung, isn't it?"]


def save(name, model, tokenizer, pool):
    model = model.eval()
    shapes = fixture.fill(model)
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            x = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
            rows.append(x[0] if pool == "cls" else torch.nn.functional.normalize(x.mean(0), dim=0))
    fixture.write(os.path.join(here, name + ".safetensors"), {"embedding": torch.stack(rows)},
                  {"shapes": json.dumps(shapes), "config": json.dumps(model.config.to_dict()), "tokenizer": tokenizer.to_str(),
                   "texts": json.dumps(TEXTS)})


if __name__ == "__main__":
    bpe = json.load(open(os.path.join(here, "..", "bpe", "testdata", "cases.json")))[0]["tokenizer"]
    save("roberta_2x32", RobertaModel(RobertaConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1), add_pooling_layer=True),
        Tokenizer.from_str(json.dumps(bpe)), "cls")
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    save("sentence_2x32", BertModel(BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40), add_pooling_layer=False), t, "mean")
