"""An estimate, not a measurement: an epoch of DeepLesion's 22,000 training slices with the published detector
(densenet121, 7 x 512 x 512, one mask head, 512 regions) on one H100.

    python3 docs/results/epoch.py [MS]   needs PyTorch 2.1 or later; computes nothing, on the device `meta`

MS are the milliseconds that transport takes of a step, as `go test -run xxx -bench
TransportOfATrainingStep/7x512x512/tiny -benchtime 20x ./host/workflow` measures it here.

Counted are the operations of the reference (plugins/a3d/testdata/reference.py) by PyTorch's own counter, and the bytes
that its operators read and write one by one; a fused block reads and writes less.
"""
import os
import sys
import types

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

SLICES, SIDE, CASES, REGIONS, MASKS = 7, 512, 22_000, 512, 128
TRANSPORT = float(sys.argv[1] if len(sys.argv) > 1 else 3.7) / 1e3  # seconds a step of one case, measured (benchmarks.md)
PEAK, BANDWIDTH = 989e12, 3.35e12  # H100 SXM, NVIDIA's data sheet: dense bfloat16 a second, bytes a second
VIEWS = ("view", "expand", "detach", "transpose", "permute", "squeeze", "slice", "select", "as_strided", "alias", "t.", "split")

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "plugins", "a3d", "testdata")
for name in ("torchvision", "fixture"):  # the reference's own data and checks are not asked for
    sys.modules.setdefault(name, types.ModuleType(name))
sys.path.insert(0, here)
import reference  # noqa: E402


class Bytes(TorchDispatchMode):
    total = operators = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if not any(v in str(op) for v in VIEWS):
            self.operators += 1
            for t in tree_leaves((args, kwargs, out)):
                if isinstance(t, torch.Tensor):
                    self.total += t.numel() * 2  # bfloat16
        return out


def step():
    """Forward and backward of one case: backbone, pyramid, proposals, box and mask head."""
    f = net(torch.zeros(1, 1, SLICES, SIDE, SIDE))
    loss = sum(t.sum() for t in heads.rpn(f))
    x = torch.zeros(REGIONS, f.shape[1] * 49) + f.mean()
    for fc in heads.bbox_head["shared_fcs"]:
        x = fc(x).relu()
    m = torch.zeros(MASKS, f.shape[1], 14, 14) + f.mean()
    for layer in heads.mask_head["convs"]:
        m = layer["conv"](m).relu()
    loss += x.sum() + heads.mask_head["conv_logits"](heads.mask_head["upsample"](m).relu()).sum()
    loss.backward()


with torch.device("meta"):
    net, heads = reference.Backbone("densenet121", SLICES), reference.Heads("densenet121")
    with FlopCounterMode(display=False) as flops:
        step()
    with Bytes() as moved:
        step()
work, traffic = flops.get_total_flops(), moved.total
print(f"a step of one case: {work / 1e12:.2f} Tflop, {moved.operators} operators, {traffic / 1e9:.0f} GB read and written one by one in bfloat16")
# What is assumed: shares of the two peaks that networks like it reach, how much of the traffic a fused block saves, and
# what a call of an operator and its kernels cost the processor. What was measured: transport, docs/results/benchmarks.md.
for busy, share, fused, call in ((0.4, 0.8, 3, 5e-6), (0.3, 0.7, 2, 8e-6), (0.2, 0.6, 1, 12e-6)):
    arithmetic, memory, calls = work / PEAK / busy, traffic / fused / BANDWIDTH / share, moved.operators * call
    network = max(arithmetic, memory, calls)
    print(f"arithmetic {arithmetic * 1e3:.1f} ms ({busy:.0%} of the peak), memory {memory * 1e3:.1f} ms ({share:.0%}, a traffic of 1/{fused}), "
          f"calls {calls * 1e3:.1f} ms ({call * 1e6:.0f} us each): {CASES * network / 60:.1f} min an epoch, {CASES * (network + TRANSPORT) / 60:.1f} with transport, "
          f"{TRANSPORT / (network + TRANSPORT):.0%} of it")
