"""Reference values for the fusions of the shelf, one file each. Run in this folder:
/usr/bin/python3 reference.py. The equations are written down case by case, without the
vectorised forms of the Go side."""

import json
import os
import sys

import torch
from torch import nn
from torch.nn import functional as F

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

N, A, E, D, HEADS, RANK, B = 3, 3, 4, 6, 2, 3, 2
SIZES = {"photo": (4, 5), "scan": (2, 7)}  # modality: tokens, channels
STREAMS = ["photo", "scan", "report"]
CLASSES = 3
schema = {"schema_version": 1, "attributes": [
    {"name": n, "kind": "binary", "values": ["no", "yes"]} for n in ("a", "b", "c")]}


class Model:
    """The frame: projections to one width, and back with a residual."""

    def __init__(self):
        self.params = {}
        for m, (_, c) in SIZES.items():
            self.linear(f"input.{m}.projection", c, D), self.norm(f"input.{m}.norm"), self.linear(f"output.{m}", D, c)
        self.linear("report.projection", E, D), self.norm("report.norm")
        self.single("report.unmentioned", D), self.single("report.identity", A, D)
        for s in STREAMS:
            self.norm("norm." + s)

    def single(self, name, *shape):
        self.params[name] = nn.Parameter(0.5 * torch.randn(*shape))

    def linear(self, name, i, o):
        self.params[name + ".weight"] = nn.Parameter(torch.randn(o, i) / i ** 0.5)
        self.single(name + ".bias", o)

    def norm(self, name):
        self.params[name + ".weight"] = nn.Parameter(1 + 0.2 * torch.randn(D))
        self.single(name + ".bias", D)

    def lin(self, name, x):
        return x @ self.params[name + ".weight"].T + self.params[name + ".bias"]

    def ln(self, name, x):
        return F.layer_norm(x, (D,), self.params[name + ".weight"], self.params[name + ".bias"], 1e-5)

    def read(self, i):
        """Streams of case i, each [T,D]."""
        out = [self.ln(f"input.{m}.norm", self.lin(f"input.{m}.projection", inputs[m][i])) for m in SIZES]
        token = self.ln("report.norm", self.lin("report.projection", embedding[i]))
        token = torch.where((state[i] == 0)[:, None], self.params["report.unmentioned"].expand(A, D), token)
        return out + [token + self.params["report.identity"]]

    def finish(self, i, streams):
        """Outputs of case i and the mean of the streams' means."""
        out, means = {}, []
        for s, x in zip(STREAMS, streams):
            x = self.ln("norm." + s, x)
            means.append(x.mean(0))
            out["tokens." + s] = x if s == "report" else inputs[s][i] + self.lin("output." + s, x)
        return out, sum(means) / len(means)


def concat(m, declare):
    if declare:
        return m.linear("hidden", len(STREAMS) * D, D)
    def fuse(i, x):
        h = F.gelu(m.lin("hidden", torch.cat([s.mean(0) for s in x])))
        return m.finish(i, [s + h for s in x])[0], h
    return fuse


def gated(m, declare):
    if declare:
        for s in STREAMS:
            m.linear("hidden." + s, D, D), m.linear("gate." + s, len(STREAMS) * D, D)
        return None
    def fuse(i, x):
        everything = torch.cat([s.mean(0) for s in x])
        h = sum(torch.sigmoid(m.lin("gate." + n, everything)) * torch.tanh(m.lin("hidden." + n, s.mean(0))) for n, s in zip(STREAMS, x))
        return m.finish(i, [s + h for s in x])[0], h
    return fuse


def film(m, declare):
    if declare:
        return [m.linear("generator." + s, D, 2 * D) for s in SIZES]
    def fuse(i, x):
        for k, s in enumerate(SIZES):
            both = m.lin("generator." + s, x[-1].mean(0))
            x[k] = (1 + both[:D]) * x[k] + both[D:]
        return m.finish(i, x)
    return fuse


def crossattn(m, declare):
    if declare:
        for s in STREAMS:
            for n in ("norm", "norm_context", "norm_feed"):
                m.norm(f"layers.0.{s}.{n}")
            for n in ("query", "key", "value", "output"):
                m.linear(f"layers.0.{s}.{n}", D, D)
            m.linear(f"layers.0.{s}.linear1", D, 2 * D), m.linear(f"layers.0.{s}.linear2", 2 * D, D)
        return None
    def fuse(i, x):
        new = []
        for k, s in enumerate(STREAMS):
            at = f"layers.0.{s}."
            c = m.ln(at + "norm_context", torch.cat([y for j, y in enumerate(x) if j != k]))
            q, key, v = m.lin(at + "query", m.ln(at + "norm", x[k])), m.lin(at + "key", c), m.lin(at + "value", c)
            h = D // HEADS
            seen = [torch.softmax(q[:, a:a + h] @ key[:, a:a + h].T / h ** 0.5, 1) @ v[:, a:a + h] for a in range(0, D, h)]
            y = x[k] + m.lin(at + "output", torch.cat(seen, 1))
            new.append(y + m.lin(at + "linear2", F.gelu(m.lin(at + "linear1", m.ln(at + "norm_feed", y)))))
        return m.finish(i, new)
    return fuse


def lowrank(m, declare):
    if declare:
        for s in STREAMS:
            m.linear("factors." + s, D, RANK * D)
        m.single("rank.weight", RANK, 1), m.single("rank.bias", D)
        return None
    def fuse(i, x):
        h = m.params["rank.bias"]
        for r in range(RANK):
            term = torch.ones(D)
            for n, s in zip(STREAMS, x):
                term = term * m.lin("factors." + n, s.mean(0))[r * D:(r + 1) * D]
            h = h + m.params["rank.weight"][r] * term
        return m.finish(i, [s + h for s in x])[0], h
    return fuse


def late(m, declare):
    if declare:
        for s in STREAMS:
            m.linear("decision.diagnosis." + s, D, CLASSES)
        return m.single("weights.diagnosis", len(STREAMS), 1)
    def fuse(i, x):
        w = torch.softmax(m.params["weights.diagnosis"][:, 0], 0)
        z = [m.lin("decision.diagnosis." + n, s.mean(0)) for n, s in zip(STREAMS, x)]
        p = sum(w[k] * torch.softmax(z[k], 0) for k in range(3))
        if target[i] >= 0:
            losses.append(sum(-torch.log_softmax(y, 0)[target[i]] for y in z) / 3 - torch.log(p[target[i]]))
        return m.finish(i, x)[0], p
    return fuse


def mbt(m, declare):
    if declare:
        m.single("bottlenecks", B, D)
        for layer in range(2):
            for s in STREAMS:
                at = f"layers.{layer}.{s}."
                m.norm(at + "norm1"), m.norm(at + "norm2")
                m.single(at + "self_attn.in_proj_weight", 3 * D, D), m.single(at + "self_attn.in_proj_bias", 3 * D)
                m.linear(at + "self_attn.out_proj", D, D), m.linear(at + "linear1", D, 2 * D), m.linear(at + "linear2", 2 * D, D)
        return None

    def layer_of(at, x):
        layer = nn.TransformerEncoderLayer(D, HEADS, 2 * D, 0.0, activation="gelu", batch_first=True, norm_first=True)
        names = [n for n, _ in layer.named_parameters()]
        return torch.nn.utils.stateless.functional_call(layer, {n: m.params[at + n] for n in names}, (x[None],))[0]
    def fuse(i, x):
        z = m.params["bottlenecks"]
        x = [layer_of(f"layers.0.{n}.", s) for n, s in zip(STREAMS, x)]
        both = [layer_of(f"layers.1.{n}.", torch.cat([s, z])) for n, s in zip(STREAMS, x)]
        return m.finish(i, [y[:-B] for y in both])
    return fuse


def hyper(m, declare):
    if declare:
        return [(m.linear("generator." + s, D, RANK * (D + 1)), m.linear("out." + s, RANK, D)) for s in SIZES]
    def fuse(i, x):
        for k, s in enumerate(SIZES):
            made = m.lin("generator." + s, x[-1].mean(0))
            y = F.gelu(x[k] @ made[:RANK * D].reshape(RANK, D).T + made[RANK * D:])
            x[k] = x[k] + m.lin("out." + s, y)
        return m.finish(i, x)
    return fuse


attention = {"heads": str(HEADS), "ffn": "2", "dropout": "0"}
for which, settings in ((concat, {}), (gated, {}), (film, {}), (crossattn, attention | {"layers": "1"}), (lowrank, {"rank": str(RANK)}),
                        (late, {"alone": "false"}), (mbt, attention | {"bottlenecks": str(B)}), (hyper, {"rank": str(RANK)})):
    torch.manual_seed(3)
    inputs = {s: torch.randn(N, t, c, requires_grad=True) for s, (t, c) in SIZES.items()}
    state = torch.tensor([[1, 0, 2], [0, 0, 3], [1, 1, 1]], dtype=torch.int8)
    value = torch.tensor([[1, -1, 0], [-1, -1, 1], [0, 1, 1]])
    embedding = torch.randn(N, A, E) * (state != 0)[..., None]
    target, losses = torch.tensor([2, -1, 0]), []
    model = Model()
    which(model, True)
    fuse = which(model, False)
    cases = [fuse(i, model.read(i)) for i in range(N)]
    out = {name: torch.stack([c[0][name] for c in cases]) for name in cases[0][0]}
    out["joint"] = torch.stack([c[1] for c in cases])
    tensors = {"in.tokens." + s: x for s, x in inputs.items()}
    tensors |= {"in.report.embedding": embedding, "in.report.state": state, "in.report.value": value}
    total = 0.0
    if losses:
        tensors |= {"in.target.label": target, "loss": sum(losses)[None] / len(losses)}
        total = tensors["loss"].sum()
    for name, y in out.items():
        tensors["out." + name] = y
        g = tensors["grad.out." + name] = torch.randn_like(y)
        total = total + (y * g).sum()
    total.backward()
    for s, x in inputs.items():
        tensors["grad.in.tokens." + s] = x.grad
    for name, p in model.params.items():
        tensors["param." + name] = p
        if p.grad is not None:
            tensors["grad.param." + name] = p.grad
    fixture.write(os.path.join(here, which.__name__ + ".safetensors"), tensors,
                  {"settings": json.dumps({"width": str(D)} | settings), "schema": json.dumps(schema)})
