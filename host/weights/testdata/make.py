"""Checkpoints as PyTorch writes them, for the tests. Run in this folder:
/usr/bin/python3 make.py
"""

import collections
import os
import pickle

import torch

base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
state = collections.OrderedDict(
    [
        ("conv.weight", torch.nn.Parameter(base / 8)),
        ("conv.transposed", (base / 8).permute(2, 0, 1)),
        ("conv.slice", base[:, 1:, ::2]),
        ("norm.half", torch.tensor([1.5, -2.25, 65504.0]).half()),
        ("norm.bfloat", torch.tensor([1.5, -2.25, 3e38]).bfloat16()),
        ("norm.double", torch.tensor([0.1], dtype=torch.float64)),
        ("norm.num_batches_tracked", torch.tensor(7)),
        ("flags", torch.tensor([True, False])),
        ("bytes", torch.tensor([1, 255], dtype=torch.uint8)),
        ("empty", torch.zeros(0, 3)),
    ]
)
torch.save(state, "zip.pth")
torch.save(state, "legacy.pth", _use_new_zipfile_serialization=False)
wrapped = collections.OrderedDict(("module." + k, v) for k, v in state.items())
optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.02, "params": [0], "nesterov": False}]}
meta = {"epoch": 12, "iter": -70000, "config": "lr = 0.02\n", "time": "x", "none": None, "big": 1 << 40}
torch.save({"meta": meta, "state_dict": wrapped, "optimizer": optimizer}, "training.pth")
torch.save(torch.nn.Linear(2, 2), "module.pth")
torch.save([1, 2, 3], "list.pth")
torch.save({"a": float("nan") * torch.ones(2)}, "nan.pth")


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


torch.save({"w": torch.ones(1), "x": Evil()}, "evil.pth")
with open("plain.pkl", "wb") as f:
    pickle.dump({"w": 1}, f, protocol=2)
