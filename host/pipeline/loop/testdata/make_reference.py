"""Learning rates of torch.optim.lr_scheduler, the reference for schedule_test.go.

Run: /usr/bin/python3 make_reference.py > reference.json
"""
import json
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR


def rates(make, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = make(optimizer)
    out = []
    for _ in range(steps):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for s in schedulers:
            s.step()
    return out


print(json.dumps({
    "torch": torch.__version__,
    "cosine_100_min_0.05": rates(lambda o: [CosineAnnealingLR(o, T_max=100, eta_min=0.05)], 101),
    "step_30_60_gamma_0.1": rates(lambda o: [MultiStepLR(o, [30, 60], gamma=0.1)], 100),
    "warmup_20_from_0.01": rates(lambda o: [LinearLR(o, start_factor=0.01, total_iters=20)], 40),
    "warmup_20_from_0.01_step_30_60": rates(
        lambda o: [LinearLR(o, start_factor=0.01, total_iters=20), MultiStepLR(o, [30, 60], gamma=0.1)], 100),
}))
