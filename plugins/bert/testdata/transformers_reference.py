"""Reference values for the text stage, from models of the transformers package.

Run in this folder, with torch, transformers, tokenizers: python3 transformers_reference.py
Weights follow fixture.formula: only their shapes and the embeddings are stored.
"""

import json
import os
import sys

import torch
from transformers import BertConfig, BertModel, DebertaV2Config, DebertaV2Model, ModernBertConfig, ModernBertModel, RobertaConfig, RobertaModel
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

TEXTS = ["itch: no.", "lesion size: under 30 mm.", "margin: possibly spiculated.", "arm", "It's the left lung, isn't it?"]


# Texts longer than a window of ModernBERT and than the buckets of DeBERTa.
LONG = TEXTS + ["A  spiculated   mass of the left upper lobe, 23 x 19 mm, invades the chest wall; no calcification is seen within it."]


def save(name, model, tokenizer, pool, texts=TEXTS):
    model = model.eval()
    shapes = fixture.fill(model)
    rows = []
    with torch.no_grad():
        for text in texts:
            x = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
            rows.append(x[0] if pool == "cls" else torch.nn.functional.normalize(x.mean(0), dim=0))
    fixture.write(os.path.join(here, name + ".safetensors"), {"embedding": torch.stack(rows)},
                  {"shapes": json.dumps(shapes), "config": json.dumps(model.config.to_dict()), "tokenizer": tokenizer.to_str(),
                   "texts": json.dumps(texts)})


if __name__ == "__main__":
    bpe = json.load(open(os.path.join(here, "..", "bpe", "testdata", "cases.json")))[0]["tokenizer"]
    save("roberta_2x32", RobertaModel(RobertaConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1), add_pooling_layer=True),
        Tokenizer.from_str(json.dumps(bpe)), "cls")
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    save("sentence_2x32", BertModel(BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=40), add_pooling_layer=False), t, "mean")
    # ModernBERT's make of tokenizer: byte-level BPE behind NFC, blanks in a row as added tokens.
    t = Tokenizer(models.BPE())
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.train_from_iterator(LONG, trainers.BpeTrainer(
        vocab_size=380, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.add_tokens([AddedToken("   ", normalized=True), AddedToken("  ", normalized=True)])
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    for name, more in {"modernbert_4x32": {}, "modernbert_biases_4x32": {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "global_attn_every_n_layers": 2}}.items():
        save(name, ModernBertModel(ModernBertConfig(
            vocab_size=400, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, max_position_embeddings=96, local_attention=8,
            pad_token_id=3, cls_token_id=1, bos_token_id=1, eos_token_id=2, sep_token_id=2, attn_implementation="eager", **more)), t, "cls" if more else "mean", LONG)
    # DeBERTa-v3's: Unigram.
    t = Tokenizer(models.Unigram())
    t.normalizer, t.pre_tokenizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC()]), pre_tokenizers.Metaspace()
    t.train_from_iterator(LONG, trainers.UnigramTrainer(vocab_size=150, special_tokens=["[PAD]", "[CLS]", "[SEP]", "[UNK]"], unk_token="[UNK]"))
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    sizes = {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 96}
    save("deberta_v3_3x32", DebertaV2Model(DebertaV2Config(
        **sizes, type_vocab_size=0, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, max_relative_positions=-1)), t, "cls", LONG)
    save("deberta_v2_3x32", DebertaV2Model(DebertaV2Config(
        **sizes, type_vocab_size=2, relative_attention=True, position_buckets=-1, share_att_key=False, pos_att_type=["c2p"],
        position_biased_input=True, max_relative_positions=24)), t, "mean", LONG)
