"""Reference values for itfusion, computed with PyTorch's own layers.

Run in this folder: /usr/bin/python3 reference.py
Written from the paper's Eq. 5-10 on nn.TransformerEncoderLayer and autograd; it
shares no code with the plugin. One file per configuration.
"""

import itertools
import json
import os
import sys

import torch
from torch import nn
from torch.nn import functional as F

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

TAU = 0.07
SCHEMA = {
    "schema_version": 1,
    "attributes": [
        {"name": "sex", "kind": "binary", "values": ["no", "yes"]},
        {"name": "age", "kind": "numeric", "values": ["under 30", "30 to 60", "60 or more"], "edges": [30, 60], "ordinal": True},
        {"name": "region", "kind": "categorical", "values": ["arm", "face", "back"]},
        {"name": "itch", "kind": "binary", "values": ["no", "yes"]},
    ],
}


class Fusion(nn.Module):
    def __init__(self, channels, embed, width=8, layers=2, heads=2, ffn=4, per_pair=1, share=False, start=0,
                 intermediate=True, two_pass=False, smoothing=0.1, reconstruct=True, residual=True):
        super().__init__()
        self.layers_n, self.start, self.two_pass, self.smoothing = layers, start, two_pass, smoothing
        self.intermediate, self.reconstruct, self.share = intermediate, reconstruct, share
        attributes = SCHEMA["attributes"]
        self.kinds = attributes
        self.residual = residual
        self.modalities = list(channels)
        self.streams = self.modalities + ["report"]
        self.text = nn.Linear(embed, width)
        self.text_norm = nn.LayerNorm(width)
        self.unmentioned = nn.Parameter(torch.randn(width))
        self.identity = nn.Parameter(torch.randn(len(attributes), width))
        self.input = nn.ModuleDict({m: nn.Sequential(nn.Linear(c, width), nn.LayerNorm(width)) for m, c in channels.items()})
        self.output = nn.ModuleDict({m: nn.Linear(width, c) for m, c in channels.items() if residual or c != width})
        self.norm = nn.ModuleDict({s: nn.LayerNorm(width) for s in self.streams})
        self.pairs = list(itertools.combinations(self.streams, 2))
        if intermediate:
            self.tokens = nn.ParameterDict({f"{a}+{b}": nn.Parameter(torch.randn(per_pair, width)) for a, b in self.pairs})
            self.inter_norm = nn.LayerNorm(width)

        def layer():
            return nn.TransformerEncoderLayer(width, heads, ffn * width, dropout=0.0, activation="gelu", batch_first=True,
                                              norm_first=True)

        names = (["shared"] if share else self.streams) if intermediate else ["joint"]
        self.layers = nn.ModuleList([nn.ModuleDict({s: layer() for s in names}) for _ in range(layers)])
        self.rec1 = nn.Linear(width, width)
        self.rec2 = nn.Linear(width, width)
        for p in self.parameters():  # random affine parameters too, so that every one matters
            with torch.no_grad():
                p.add_(0.1 * torch.randn_like(p))

    def names(self):
        """The plugin's name of every parameter."""
        out = {}

        def put(name, module):
            for n, p in module.named_parameters():
                out[name + "." + n] = p

        put("report.projection", self.text)
        put("report.norm", self.text_norm)
        out["report.unmentioned"] = self.unmentioned
        out["report.identity"] = self.identity
        for m in self.modalities:
            put(f"input.{m}.projection", self.input[m][0])
            put(f"input.{m}.norm", self.input[m][1])
            if m in self.output:
                put(f"output.{m}", self.output[m])
        for s in self.streams:
            put(f"norm.{s}", self.norm[s])
        if self.intermediate:
            put("norm.intermediate", self.inter_norm)
            for key, p in self.tokens.items():
                out["intermediate." + key] = p
        for i, group in enumerate(self.layers):
            for s, layer in group.items():
                put(f"layers.{i}.{s}", layer)
        if self.reconstruct:
            put("reconstruction.linear1", self.rec1)
            put("reconstruction.linear2", self.rec2)
        return out

    def attend(self, streams, inter):
        """Eq. 6-8 for every layer. streams: {name: [N,T,d]}."""
        streams, inter = dict(streams), {k: v for k, v in inter.items()}
        for i in range(self.layers_n):
            if not self.intermediate:
                x = torch.cat([streams[s] for s in self.streams], 1)
                x = self.layers[i]["joint"](x)
                parts = torch.split(x, [streams[s].shape[1] for s in self.streams], 1)
                streams = dict(zip(self.streams, parts))
                continue
            copies = {p: [] for p in self.pairs}
            for s in self.streams:
                layer = self.layers[i]["shared" if self.share else s]
                mine = [p for p in self.pairs if s in p] if i >= self.start else []
                x = torch.cat([streams[s]] + [inter[p] for p in mine], 1)
                x = layer(x)
                sizes = [streams[s].shape[1]] + [inter[p].shape[1] for p in mine]
                parts = torch.split(x, sizes, 1)
                streams[s] = parts[0]
                for p, t in zip(mine, parts[1:]):
                    copies[p].append(t)
            if i >= self.start:
                inter = {p: (c[0] + c[1]) / 2 for p, c in copies.items()}
        return streams, inter

    def forward(self, visual, embedding, state, value, value_embedding, mask):
        n, a, _ = embedding.shape
        project = lambda e: self.text_norm(self.text(e))  # noqa: E731
        known = ((state == 1) | (state == 2)) & (value >= 0)
        hidden = (state == 0) | (known & mask)
        token = torch.where(hidden[..., None], self.unmentioned.expand(n, a, -1), project(embedding)) + self.identity
        streams = {m: self.input[m](visual[m]) for m in self.modalities}
        streams["report"] = token
        inter = {p: self.tokens[f"{p[0]}+{p[1]}"].expand(n, -1, -1) for p in self.pairs} if self.intermediate else {}
        after, joint = self.attend(streams, inter)

        counts = torch.tensor([len(k["values"]) for k in self.kinds])
        k = value_embedding.shape[1]
        candidates = project(value_embedding)  # [A,K,d]
        result = {}
        if self.reconstruct:
            r = self.rec2(F.gelu(self.rec1(self.norm["report"](after["report"]))))
            logits = torch.einsum("nad,akd->nak", F.normalize(r, dim=-1), F.normalize(candidates, dim=-1)) / TAU
            logits = logits.masked_fill(torch.arange(k)[None] >= counts[:, None], -1e4)
            p = logits.softmax(-1)
            filled = torch.einsum("nak,akd->nad", p, candidates) + self.identity
            if self.two_pass:
                streams["report"] = torch.where(hidden[..., None], filled, token)
                after, joint = self.attend(streams, inter)
            else:
                after["report"] = torch.where(hidden[..., None], filled, after["report"])
            chosen = known & mask
            loss, number = 0.0, 0
            for b in range(n):
                for i in range(a):
                    if not chosen[b, i]:
                        continue
                    target = torch.zeros(k)
                    v = int(value[b, i])
                    if self.kinds[i].get("ordinal"):
                        near = [j for j in (v - 1, v + 1) if 0 <= j < counts[i]]
                        target[v] = 1 - self.smoothing
                        for j in near:
                            target[j] = self.smoothing / len(near)
                    else:
                        target[v] = 1
                    loss = loss - (target * logits[b, i].log_softmax(-1)).sum()
                    number += 1
            result["loss"] = loss / number if number else torch.zeros(())
            result["reconstruction"] = p
        for m in self.modalities:
            y = self.norm[m](after[m])
            y = self.output[m](y) if m in self.output else y
            result["tokens." + m] = visual[m] + y if self.residual else y
        result["tokens.report"] = self.norm["report"](after["report"])
        if self.intermediate:
            result["joint"] = torch.cat([self.inter_norm(joint[p].mean(1)) for p in self.pairs], 1)
        else:
            result["joint"] = torch.stack([self.norm[s](after[s]).mean(1) for s in self.streams], 1).mean(1)
        return result


def case(name, channels, tokens, settings, **kw):
    torch.manual_seed(len(name))
    n, a, k, e = 3, len(SCHEMA["attributes"]), 3, 10
    model = Fusion(channels, e, **kw)
    visual = {m: torch.randn(n, tokens[m], c) for m, c in channels.items()}
    state = torch.tensor([[1, 0, 1, 2], [0, 1, 3, 1], [2, 1, 0, 0]], dtype=torch.int8)
    value = torch.tensor([[1, -1, 2, 0], [-1, 1, 0, 1], [0, 2, -1, -1]])
    embedding = torch.randn(n, a, e) * (state != 0)[..., None]
    value_embedding = torch.randn(a, k, e)
    value_embedding[0, 2] = 0
    value_embedding[3, 2] = 0
    out = {"in.report.embedding": embedding, "in.report.state": state, "in.report.value": value,
           "constant.value.embedding": value_embedding}
    for m, v in visual.items():
        out[f"in.tokens.{m}"] = v.clone()
    for n_, p in model.names().items():
        out["param." + n_] = p.clone()
    for mode, masked in (("eval", False), ("train", True)):
        model.zero_grad()
        leaves = {m: v.clone().requires_grad_() for m, v in visual.items()}
        result = model(leaves, embedding, state, value, value_embedding, torch.full((n, a), masked))
        total = 0.7 * result["loss"] if "loss" in result else 0.0
        for key, v in result.items():
            out[f"{mode}.{'loss' if key == 'loss' else 'out.' + key}"] = v.clone()
            if key in ("loss", "reconstruction"):
                continue
            g = torch.randn_like(v)
            out[f"{mode}.grad.out.{key}"] = g
            total = total + (v * g).sum()
        if mode == "train":
            total.backward()
            for m, leaf in leaves.items():
                out[f"train.grad.in.tokens.{m}"] = leaf.grad
            for n_, p in model.names().items():
                out["train.grad.param." + n_] = p.grad if p.grad is not None else torch.zeros_like(p)
    base = {"width": 8, "heads": 2, "dropout": 0, "mask_probability": 1}
    base.update(settings)
    fixture.write(os.path.join(here, name + ".safetensors"), out,
                  {"settings": json.dumps({k: str(v).lower() for k, v in base.items()}), "schema": json.dumps(SCHEMA)})


if __name__ == "__main__":
    case("base", {"image": 6}, {"image": 5}, {"layers": 2})
    case("bottleneck", {"image": 8, "other": 5}, {"image": 4, "other": 3},
         {"layers": 3, "tokens_per_pair": 2, "share_weights": True, "start_layer": 1, "residual": False},
         layers=3, per_pair=2, share=True, start=1, residual=False)
    case("two_pass", {"image": 6}, {"image": 5}, {"layers": 2, "two_pass": True}, two_pass=True)
    case("direct", {"image": 6}, {"image": 5}, {"layers": 2, "intermediate": False}, intermediate=False)
