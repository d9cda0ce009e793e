"""Reference values for the stage sum. Run in this folder: /usr/bin/python3 reference.py"""

import json
import os
import sys

import torch
from torch import nn

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

torch.manual_seed(3)
N, T, C, A, E, D = 2, 3, 5, 3, 4, 6
schema = {"schema_version": 1, "attributes": [
    {"name": n, "kind": "binary", "values": ["no", "yes"]} for n in ("a", "b", "c")]}
parts = {
    "input.image.projection": nn.Linear(C, D), "input.image.norm": nn.LayerNorm(D),
    "report.projection": nn.Linear(E, D), "report.norm": nn.LayerNorm(D),
    "norm.image": nn.LayerNorm(D), "norm.report": nn.LayerNorm(D), "output.image": nn.Linear(D, C),
}
single = {"report.unmentioned": nn.Parameter(torch.randn(D)), "report.identity": nn.Parameter(torch.randn(A, D))}
params = {f"{k}.{n}": p for k, m in parts.items() for n, p in m.named_parameters()} | single
with torch.no_grad():
    for p in params.values():
        p.add_(0.2 * torch.randn_like(p))
image = torch.randn(N, T, C, requires_grad=True)
state = torch.tensor([[1, 0, 2], [0, 0, 3]], dtype=torch.int8)
value = torch.tensor([[1, -1, 0], [-1, -1, 1]])
embedding = torch.randn(N, A, E) * (state != 0)[..., None]

v = parts["norm.image"](parts["input.image.norm"](parts["input.image.projection"](image)))
token = parts["report.norm"](parts["report.projection"](embedding))
token = torch.where((state == 0)[..., None], single["report.unmentioned"].expand(N, A, D), token) + single["report.identity"]
token = parts["norm.report"](token)
out = {
    "tokens.image": image + parts["output.image"](v + token.mean(1, keepdim=True)),
    "tokens.report": token,
    "joint": (v.mean(1) + token.mean(1)) / 2,
}
tensors = {"in.tokens.image": image, "in.report.embedding": embedding, "in.report.state": state, "in.report.value": value}
total = 0.0
for name, y in out.items():
    tensors["out." + name] = y
    g = torch.randn_like(y)
    tensors["grad.out." + name] = g
    total = total + (y * g).sum()
total.backward()
tensors["grad.in.tokens.image"] = image.grad
for name, p in params.items():
    tensors["param." + name] = p
fixture.write(os.path.join(here, "sum.safetensors"), tensors,
              {"settings": json.dumps({"width": str(D)}), "schema": json.dumps(schema)})
