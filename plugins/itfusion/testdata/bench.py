"""Time a training step of the same module in PyTorch: compare with

    go test ./plugins/itfusion -run xxx -bench TrainStep -benchtime 20x
    /usr/bin/python3 plugins/itfusion/testdata/bench.py
"""

import time

import torch

import reference

N, TOKENS, A, K, E = 2, 1024, 13, 5, 768


def bench(width, threads, steps=20):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    reference.SCHEMA["attributes"] = [
        {"name": f"a{i}", "kind": "categorical", "values": list("12345")} for i in range(A)]
    model = reference.Fusion({"image": width}, E, width=width, heads=8)
    for m in model.modules():
        if isinstance(m, torch.nn.TransformerEncoderLayer):
            m.dropout.p = m.dropout1.p = m.dropout2.p = 0.1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    image = torch.randn(N, TOKENS, width)
    embedding, values = torch.randn(N, A, E), torch.randn(A, K, E)
    flat = torch.arange(N * A)
    state = (flat % 4 != 0).view(N, A).to(torch.int8)
    value = torch.where(flat % 4 != 0, flat % K, -1).view(N, A)
    grads = [torch.randn(N, TOKENS, width), torch.randn(N, A, width), torch.randn(N, width)]
    times = []
    for i in range(steps + 2):
        start = time.perf_counter()
        leaf = image.clone().requires_grad_()
        r = model({"image": leaf}, embedding, state, value, values, torch.rand(N, A) < 0.3)
        outputs = [r["tokens.image"], r["tokens.report"], r["joint"]]
        total = r["loss"] + sum((y * g).sum() for y, g in zip(outputs, grads))
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    times = sorted(times[2:])
    print(f"width={width} threads={threads}: mean {1e3 * sum(times) / steps:.1f} ms, median {1e3 * times[steps // 2]:.1f} ms")


if __name__ == "__main__":
    for threads in (1, 2):
        for width in (64, 256):
            bench(width, threads)
