"""Writes reference.json: what PyTorch's own optimizers, initialisers' bounds and a
two-layer network give, for the tests of this package.

    /usr/bin/python3 testdata/reference.py > testdata/reference.json
"""
import json
import torch

torch.manual_seed(0)


def network():
    w1 = torch.tensor([[0.5, -0.25, 0.75], [-0.5, 0.3, 0.1]], requires_grad=True)
    b1 = torch.tensor([0.1, -0.2], requires_grad=True)
    w2 = torch.tensor([[1.5, -0.7]], requires_grad=True)
    return [w1, b1, w2]


X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.3, 0.8], [0.0, 1.0, 1.0], [-1.0, 0.2, 0.4]])
Y = torch.tensor([[1.0], [-1.0], [0.5], [0.0]])


def forward(p, x):
    return torch.nn.functional.gelu(x @ p[0].T + p[1]) @ p[2].T


def train(make, steps=5):
    p = network()
    opt = make(p)
    losses = []
    for _ in range(steps):
        opt.zero_grad()
        loss = ((forward(p, X) - Y) ** 2).mean()
        loss.backward()
        norm = torch.sqrt(sum((q.grad ** 2).sum() for q in p))
        scale = min(1.0, 0.5 / float(norm))
        for q in p:
            q.grad.mul_(scale)
        losses.append([float(loss), float(norm)])
        opt.step()
    return {"losses": losses, "params": [q.detach().flatten().tolist() for q in p]}


def gradient():
    p = network()
    x = X.clone().requires_grad_(True)
    y = forward(p, x)
    g = torch.tensor([[1.0], [-2.0], [0.25], [3.0]])
    loss = ((y - Y) ** 2).mean()
    ((y * g).sum() + 0.5 * loss).backward()
    return {"y": y.detach().flatten().tolist(), "x": x.grad.flatten().tolist(),
            "params": [q.grad.flatten().tolist() for q in p]}


print(json.dumps({
    "sgd": train(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2)),
    "nesterov": train(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0, nesterov=True)),
    "adamw": train(lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    "gradient": gradient(),
}, indent=1))
