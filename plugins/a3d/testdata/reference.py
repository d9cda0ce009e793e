"""Reference values for the A3D detector, computed with PyTorch and torchvision.

    /usr/bin/python3 reference.py            writes the fixtures of this folder
    /usr/bin/python3 reference.py bench 7    times the backbone at 7x512x512 (MODE=train too, on DEVICE,
                                             with BF16=1 by autocast)

Written from the published architecture (slice-wise conv3d on N,C,D,H,W, as the
reference implementation computes it); it shares no code with the plugin. Weights are
a formula of their names, so that none are stored.
"""

import json
import os
import resource
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

try:
    import torchvision
except ImportError:  # the backbone's bench does without
    torchvision = None

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

PRESETS = {
    "densenet121": dict(stem=64, growth=32, bottle=4, layers=(6, 12, 24), pyramid=512, rpn=512, fc=2048, mask=256),
    "tiny": dict(stem=32, growth=16, bottle=2, layers=(2, 2, 2), pyramid=32, rpn=32, fc=64, mask=16),
}


class Conv(nn.Module):
    """2-D weights applied to every slice; before that the slices are mixed per channel."""

    def __init__(self, cin, cout, kernel, stride=1, operator=None, slices=1):
        super().__init__()
        inflated = operator == "conv3d" and kernel == 3
        self.weight = nn.Parameter(torch.empty(cout, cin, *([3] if inflated else []), kernel, kernel))
        self.kernel, self.stride, self.operator = kernel, stride, operator
        if operator == "a3d":
            self.adaptive_align_weights = nn.Parameter(torch.empty(slices, slices, cin))

    def forward(self, x, spacing):
        if self.operator == "a3d":
            x = torch.einsum("bcdhw,dkc->bckhw", x, self.adaptive_align_weights)
        elif self.operator in ("tsm", "alignshift"):
            x = self.shift(x, spacing)
        p, s = self.kernel // 2, self.stride
        if self.weight.dim() == 5:
            return F.conv3d(x, self.weight, None, (1, s, s), (1, p, p))
        return F.conv3d(x, self.weight.unsqueeze(2), None, (1, s, s), (0, p, p))

    def shift(self, x, spacing):
        fold = x.shape[1] // 8
        if self.operator == "tsm":
            own = torch.zeros(x.shape[0])
            edge = own
        else:
            own = 1 - (2.0 / spacing[:, 0]).clamp(0, 1)
            edge = torch.ones(x.shape[0])
        own, edge = own.view(-1, 1, 1, 1, 1), edge.view(-1, 1, 1, 1, 1)
        ahead, behind, rest = x[:, :fold], x[:, fold : 2 * fold], x[:, 2 * fold :]
        ahead = torch.cat([ahead[:, :, :-1] * own + ahead[:, :, 1:] * (1 - own), ahead[:, :, -1:] * edge], 2)
        behind = torch.cat([behind[:, :, :1] * edge, behind[:, :, 1:] * own + behind[:, :, :-1] * (1 - own)], 2)
        return torch.cat([ahead, behind, rest], 1)


class DenseLayer(nn.Module):
    def __init__(self, cin, growth, bottle, operator, slices):
        super().__init__()
        self.norm1 = nn.BatchNorm3d(cin)
        self.conv1 = Conv(cin, bottle * growth, 1, operator=operator, slices=slices)
        self.norm2 = nn.BatchNorm3d(bottle * growth)
        self.conv2 = Conv(bottle * growth, growth, 3, operator=operator, slices=slices)

    def forward(self, x, spacing):
        y = self.conv1(F.relu(self.norm1(x)), spacing)
        return self.conv2(F.relu(self.norm2(y)), spacing)


class Transition(nn.Module):
    def __init__(self, cin):
        super().__init__()
        self.norm = nn.BatchNorm3d(cin)
        self.conv = Conv(cin, cin // 2, 1)

    def forward(self, x):
        return F.avg_pool3d(self.conv(F.relu(self.norm(x)), None), (1, 2, 2), (1, 2, 2))


class Reduction(nn.Module):
    def __init__(self, channels, slices):
        super().__init__()
        self.reduction_z_conv = nn.Conv3d(channels, channels, (slices, 1, 1), bias=False)


class Backbone(nn.Module):
    def __init__(self, preset, slices, operator="a3d"):
        super().__init__()
        c = PRESETS[preset]
        self.flat = operator == "2.5d"
        depth = 1 if self.flat else slices
        inner = None if self.flat else operator
        self.conv0 = Conv(slices if self.flat else 1, c["stem"], 7, 2)
        self.norm0 = nn.BatchNorm3d(c["stem"])
        width = c["stem"]
        self.blocks = []
        for i, layers in enumerate(c["layers"]):
            block = nn.Module()
            for k in range(layers):
                block.add_module(f"denselayer{k + 1}", DenseLayer(width, c["growth"], c["bottle"], inner, depth))
                width += c["growth"]
            self.add_module(f"denseblock{i + 1}", block)
            if not self.flat:
                self.add_module(f"reductionz{i + 1}", Reduction(width, slices))
            self.add_module(f"lateral{i + 2}", nn.Conv2d(width, c["pyramid"], 1))
            if i < 2:
                self.add_module(f"transition{i + 1}", Transition(width))
                width //= 2

    def maps(self, volume, spacing=None):
        if self.flat:
            volume = volume.transpose(1, 2)
        x = F.relu(self.norm0(self.conv0(volume, spacing)))
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        out = []
        for i in (1, 2, 3):
            for layer in getattr(self, f"denseblock{i}").children():
                x = torch.cat([x, layer(x, spacing)], 1)
            y = x if self.flat else getattr(self, f"reductionz{i}").reduction_z_conv(x)
            out.append(y.squeeze(2))
            if i < 3:
                x = getattr(self, f"transition{i}")(x)
        return out

    def pyramid(self, maps):
        x = self.lateral4(maps[2])
        x = F.interpolate(x, scale_factor=2, mode="nearest") + self.lateral3(maps[1])
        return F.interpolate(x, scale_factor=2, mode="nearest") + self.lateral2(maps[0])

    def forward(self, volume, spacing=None):
        return self.pyramid(self.maps(volume, spacing))


def value(name, shape):
    """fixture.formula with values that suit these layers."""
    v = torch.from_numpy(fixture.formula(name, list(shape)))
    if name.endswith("running_var"):
        return 0.1 + 0.6 * v  # 0.7 to 1.3
    if name.endswith("adaptive_align_weights"):
        return v + torch.eye(shape[0]).unsqueeze(-1)
    if "norm" in name and name.endswith(".weight"):
        return 1 + v if name.endswith("norm0.weight") else v
    return v


def fill(module, prefix):
    """Give every tensor its formula values; return the shapes by full name."""
    shapes, state = {}, module.state_dict()
    for name, t in state.items():
        if t.is_floating_point():
            shapes[prefix + name] = list(t.shape)
            state[name] = value(prefix + name, t.shape)
    module.load_state_dict(state)
    return shapes


def sample(t, count=512):
    """At most count values of a tensor, evenly spaced: index i*size//n."""
    flat = t.detach().contiguous().flatten()
    n = min(count, flat.numel())
    return flat[(torch.arange(n) * flat.numel()) // n].clone()


def volume_of(slices, n, rows, columns):
    v = fixture.formula("in.volume", [n, 1, slices, rows, columns])
    return torch.from_numpy(v * 255 - 50)


def gate(net):
    """Move every batch normalisation's bias to +10 and -10 in turn: every second channel
    passes its ReLU whole, the others not at all.

    A gradient is not defined where a ReLU's input is zero, and among millions of inputs
    some are zero up to rounding: two right computations then differ. With gates the
    gradient is defined everywhere, and ReLU's part in it still shows.
    """
    for name, p in net.named_parameters():
        if "norm" in name and name.endswith("bias"):
            p.data = torch.where(torch.arange(len(p)) % 2 == 0, 10.0, -10.0).to(p.dtype)


def backbone_fixture(preset, slices, operator="a3d", n=2, rows=64, columns=96):
    net = Backbone(preset, slices, operator)
    shapes = fill(net, "backbone.")
    net = net.double()  # reference values are double precision, rounded once
    spacing = torch.tensor([[5.0, 1, 1], [1.0, 1, 1]])[:n].double()
    volume = volume_of(slices, n, rows, columns).double()
    out = {}
    net.eval()
    with torch.no_grad():
        out["eval.features"] = sample(net(volume, spacing), 4096)
    net.train()
    with torch.no_grad():
        for stride, m in zip((4, 8, 16), net.maps(volume, spacing)):
            out[f"train.map{stride}"] = sample(m, 2048)
    for name, b in net.named_buffers():
        if name.startswith(("norm0", "denseblock3.denselayer1.", "transition2")) and b.is_floating_point():
            out["buffer.backbone." + name] = sample(b, 64)
    # Gradients of the gated network, from a fixed weighing of its maps.
    gate(net)
    loss = 0
    for i, m in enumerate(net.maps(volume, spacing)):
        loss = loss + (m * torch.from_numpy(fixture.formula(f"weigh.{i}", list(m.shape)))).sum()
    loss.backward()
    for name, p in net.named_parameters():
        if p.grad is None:
            continue
        if preset == "tiny" or any(k in name for k in ("conv0", "norm0", "denselayer1.", "denselayer6.", "denselayer12.", "transition", "reductionz")):
            out["grad.backbone." + name] = sample(p.grad, 64)
    settings = {"preset": preset, "slices": str(slices), "operator": operator}
    fixture.write(os.path.join(here, f"backbone_{preset}_{operator}_{slices}.safetensors"), {k: v.float() for k, v in out.items()},
                  {"settings": json.dumps(settings), "shapes": json.dumps(shapes), "volume": json.dumps(list(volume.shape))})


# Boxes ---------------------------------------------------------------------------


def anchors(rows, columns, sides, ratios, legacy):
    """Every anchor, y then x then ratio then side."""
    out = []
    for y in range(rows):
        for x in range(columns):
            for r in ratios:
                for s in sides:
                    w, h = s / np.sqrt(r), s * np.sqrt(r)
                    if legacy:
                        c = 1.5
                        b = np.round(np.array([c - (w - 1) / 2, c - (h - 1) / 2, c + (w - 1) / 2, c + (h - 1) / 2]))
                    else:
                        b = np.array([2 - w / 2, 2 - h / 2, 2 + w / 2, 2 + h / 2])
                    out.append(b + np.array([4 * x, 4 * y, 4 * x, 4 * y]))
    return torch.tensor(np.array(out), dtype=torch.float32)


def iou(a, b, one):
    w = (torch.minimum(a[:, None, 2], b[None, :, 2]) - torch.maximum(a[:, None, 0], b[None, :, 0]) + one).clamp(min=0)
    h = (torch.minimum(a[:, None, 3], b[None, :, 3]) - torch.maximum(a[:, None, 1], b[None, :, 1]) + one).clamp(min=0)

    def area(t):
        return (t[:, 2] - t[:, 0] + one) * (t[:, 3] - t[:, 1] + one)

    return w * h / (area(a)[:, None] + area(b)[None] - w * h)


def encode(reference, box, one):
    rw, rh = reference[:, 2] - reference[:, 0] + one, reference[:, 3] - reference[:, 1] + one
    bw, bh = box[:, 2] - box[:, 0] + one, box[:, 3] - box[:, 1] + one
    rx, ry = (reference[:, 0] + reference[:, 2]) / 2, (reference[:, 1] + reference[:, 3]) / 2
    bx, by = (box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2
    return torch.stack([(bx - rx) / rw, (by - ry) / rh, torch.log(bw / rw), torch.log(bh / rh)], 1)


def decode(reference, deltas, one):
    limit = abs(np.log(16 / 1000))
    rw, rh = reference[:, 2] - reference[:, 0] + one, reference[:, 3] - reference[:, 1] + one
    rx, ry = (reference[:, 0] + reference[:, 2]) / 2, (reference[:, 1] + reference[:, 3]) / 2
    x, y = rx + rw * deltas[:, 0], ry + rh * deltas[:, 1]
    w, h = rw * deltas[:, 2].clamp(-limit, limit).exp(), rh * deltas[:, 3].clamp(-limit, limit).exp()
    o = one / 2
    return torch.stack([x - w / 2 + o, y - h / 2 + o, x + w / 2 - o, y + h / 2 - o], 1)


def random_boxes(n, side, generator):
    centre = torch.rand(n, 2, generator=generator) * side
    size = torch.exp(torch.rand(n, 2, generator=generator) * 3 + 1)
    return torch.cat([centre - size / 2, centre + size / 2], 1)


def boxes_fixture():
    g = torch.Generator().manual_seed(7)
    out = {}
    sides, ratios = [16.0, 24.0, 32.0, 48.0, 96.0, 192.0], [0.5, 1.0, 2.0]
    a, b = random_boxes(40, 64, g), random_boxes(30, 64, g)
    deltas = torch.randn(40, 4, generator=g) * torch.tensor([0.5, 0.5, 1, 4.0])
    out.update({"a": a, "b": b, "deltas": deltas})
    for legacy in (0, 1):
        out[f"anchors.{legacy}"] = anchors(3, 2, sides, ratios, legacy == 1)
        out[f"iou.{legacy}"] = iou(a, b, legacy)
        out[f"encode.{legacy}"] = encode(a[:30], b, legacy)
        out[f"decode.{legacy}"] = decode(a, deltas, legacy)
    many = random_boxes(600, 96, g)
    out["nms.boxes"] = many
    for threshold in (0.01, 0.3, 0.5, 0.7):
        out[f"nms.{threshold}"] = torchvision.ops.nms(many, torch.arange(600, 0, -1).float(), threshold)
    # RoIAlign over a map of 2 images; some regions leave the map, some have no extent.
    features = torch.randn(2, 5, 12, 16, generator=g)
    regions = torch.cat([random_boxes(20, 60, g), torch.tensor([[8.0, 8, 8, 8], [-30, -20, 90, 70], [60, 40, 70, 60]])])
    image = torch.arange(len(regions)) % 2
    rois = torch.cat([image[:, None].float(), regions], 1)
    weigh = torch.randn(len(regions), 5, 7, 7, generator=g)
    out.update({"align.features": features, "align.regions": regions, "align.image": image, "align.weigh": weigh})
    x = features.clone().requires_grad_()
    y = torchvision.ops.roi_align(x, rois, 7, 0.25, 2, aligned=True)
    (y * weigh).sum().backward()
    out["align.out"], out["align.grad"] = y, x.grad
    # The legacy form ends at x2+1 and has no half-pixel shift; torchvision's
    # aligned=False is that for regions of at least a cell.
    big = regions.clone()
    big[:, 2:] = torch.maximum(big[:, 2:], big[:, :2] + 8)
    legacy = torch.cat([image[:, None].float(), big[:, :2], big[:, 2:] + 1], 1)
    out["align.legacy.regions"] = big
    out["align.legacy.out"] = torchvision.ops.roi_align(features, legacy, 7, 0.25, 2, aligned=False)
    fixture.write(os.path.join(here, "boxes.safetensors"), out)


# Heads ---------------------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self, preset, anchors_per_cell=18, classes=1):
        super().__init__()
        c = PRESETS[preset]
        k = classes + 1
        self.rpn_head = nn.ModuleDict({
            "rpn_conv": nn.Conv2d(c["pyramid"], c["rpn"], 3, padding=1),
            "rpn_cls": nn.Conv2d(c["rpn"], anchors_per_cell, 1),
            "rpn_reg": nn.Conv2d(c["rpn"], 4 * anchors_per_cell, 1),
        })
        self.bbox_head = nn.ModuleDict({
            "shared_fcs": nn.ModuleList([nn.Linear(c["pyramid"] * 49, c["fc"]), nn.Linear(c["fc"], c["fc"])]),
            "fc_cls": nn.Linear(c["fc"], k),
            "fc_reg": nn.Linear(c["fc"], 4 * k),
        })
        convs = nn.ModuleList()
        width = c["pyramid"]
        for _ in range(4):
            convs.append(nn.ModuleDict({"conv": nn.Conv2d(width, c["mask"], 3, padding=1)}))
            width = c["mask"]
        self.mask_head = nn.ModuleDict({
            "convs": convs,
            "upsample": nn.ConvTranspose2d(width, c["mask"], 2, 2),
            "conv_logits": nn.Conv2d(c["mask"], k, 1),
        })

    def rpn(self, f):
        x = F.relu(self.rpn_head["rpn_conv"](f))
        n = f.shape[0]
        return (self.rpn_head["rpn_cls"](x).permute(0, 2, 3, 1).reshape(n, -1),
                self.rpn_head["rpn_reg"](x).permute(0, 2, 3, 1).reshape(n, -1, 4))

    def box(self, f, rois, legacy):
        r = rois.clone()
        if legacy:
            r[:, 3:] += 1
        x = torchvision.ops.roi_align(f, r, 7, 0.25, 2, aligned=not legacy).flatten(1)
        for fc in self.bbox_head["shared_fcs"]:
            x = F.relu(fc(x))
        return self.bbox_head["fc_cls"](x), self.bbox_head["fc_reg"](x).view(len(rois), -1, 4)

    def mask(self, f, rois):
        x = torchvision.ops.roi_align(f, rois, 14, 0.25, 2, aligned=True)
        for m in self.mask_head["convs"]:
            x = F.relu(m["conv"](x))
        return self.mask_head["conv_logits"](F.relu(self.mask_head["upsample"](x)))


def head_fixture(legacy):
    """RPN, proposals, box head and losses on a random feature map, for samples given."""
    g = torch.Generator().manual_seed(11)
    net = Heads("tiny")
    shapes = fill(net, "")
    rows, columns, one = 16, 20, 1 if legacy else 0
    f = torch.randn(2, 32, rows, columns, generator=g).requires_grad_()
    logits, deltas = net.rpn(f)
    grid = anchors(rows, columns, [6.0, 9, 13, 19, 28, 42], [0.5, 1, 2], legacy)
    out = {"features": f, "logits": sample(logits, 2048), "deltas": sample(deltas, 2048)}
    for n in range(2):
        k = 400
        top = logits[n].detach().topk(k).indices
        boxes = decode(grid[top], deltas[n].detach()[top], one)
        limit = torch.tensor([columns * 4 - one, rows * 4 - one] * 2).float()
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        shifted = boxes + torch.tensor([0, 0, one, one])
        keep = torchvision.ops.nms(shifted, torch.arange(k, 0, -1).float(), 0.7)[:60]
        out[f"proposals.{n}"] = boxes[keep]
    # RPN loss for chosen anchors
    lesions = torch.tensor([[10.0, 12, 30, 28], [40, 20, 52, 36]])
    chosen = torch.arange(37, logits.numel(), 331)
    positive = chosen[::3]
    target = encode(grid[positive % len(grid)], lesions[positive % 2], one)
    cls = F.binary_cross_entropy_with_logits(logits.flatten()[chosen], (torch.arange(len(chosen)) % 3 == 0).float(), reduction="sum")
    box = F.smooth_l1_loss(deltas.reshape(-1, 4)[positive], target, beta=1 / 9, reduction="sum")
    out["rpn_cls"], out["rpn_box"] = cls / len(chosen), box / len(chosen)
    # Box head on chosen regions
    rois = torch.cat([torch.arange(12)[:, None].float() % 2, random_boxes(12, 60, g)], 1)
    if legacy:
        rois[:, 3:] = torch.maximum(rois[:, 3:], rois[:, 1:3] + 8)
    out["rois"] = rois
    scores, refine = net.box(f, rois, legacy)
    labels = torch.zeros(12, dtype=torch.long)
    labels[:4] = 1
    matched = lesions[torch.arange(4) % 2]
    std = torch.tensor([0.1, 0.1, 0.2, 0.2])
    out["scores"], out["refine"] = scores, refine
    out["rcnn_cls"] = F.cross_entropy(scores, labels)
    out["rcnn_box"] = F.smooth_l1_loss(refine[:4, 1], encode(rois[:4, 1:], matched, one) / std, beta=1.0, reduction="sum") / 12
    out["decoded"] = decode(rois[:, 1:], refine[:, 1].detach() * std, one)
    loss = out["rpn_cls"] + out["rpn_box"] + out["rcnn_cls"] + out["rcnn_box"]
    if not legacy:
        p = net.mask(f, rois[:4])[:, 1].sigmoid().flatten(1)
        t = (torch.rand(4, 28 * 28, generator=g) < 0.5).float()
        out["mask.target"] = t
        out["mask"] = (1 - (2 * (p * t).sum(1) + 0.01) / (p.sum(1) + t.sum(1) + 0.01)).mean()
        loss = loss + out["mask"]
    loss.backward()
    out["grad.features"] = sample(f.grad, 2048)
    for name, p in net.named_parameters():
        if p.grad is not None:
            out["grad." + name] = sample(p.grad, 64)
    fixture.write(os.path.join(here, f"head_{'mmdet1' if legacy else 'none'}.safetensors"), out, {"shapes": json.dumps(shapes)})


# Benchmarks ----------------------------------------------------------------------


def bench(slices, side=512, steps=3):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    device = torch.device(os.environ.get("DEVICE", "cpu"))
    half = os.environ.get("BF16") == "1"
    net = Backbone("densenet121", slices)
    fill(net, "backbone.")
    net, volume = net.to(device), volume_of(slices, 1, side, side).to(device)
    result = {"slices": slices, "side": side, "threads": torch.get_num_threads(), "torch": torch.__version__, "device": str(device), "bf16": half}

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def once():
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return net(volume)

    def timed(f):
        times, cpu = [], time.process_time()
        for _ in range(steps):
            start = time.perf_counter()
            f()
            wait()
            times.append(time.perf_counter() - start)
        return {"median_seconds": sorted(times)[len(times) // 2], "min_seconds": min(times), "max_seconds": max(times),
                "cpu_seconds": (time.process_time() - cpu) / steps}

    if os.environ.get("MODE", "eval") == "eval":
        net.eval()
        with torch.no_grad():
            once()
            wait()
            result["eval"] = timed(once)
    else:
        net.train()

        def step():
            net.zero_grad()
            once().float().sum().backward()

        step()
        wait()
        result["train"] = timed(step)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


def bench_boxes(steps=5):
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    g = torch.Generator().manual_seed(3)
    boxes = random_boxes(12000, 512, g)
    scores = torch.rand(12000, generator=g)
    features = torch.randn(1, 512, 128, 128, generator=g)
    rois = torch.cat([torch.zeros(1000, 1), random_boxes(1000, 512, g)], 1)
    for name, f in (("nms_12000", lambda: torchvision.ops.nms(boxes, scores, 0.7)),
                    ("roi_align_1000x512", lambda: torchvision.ops.roi_align(features, rois, 7, 0.25, 2, aligned=True))):
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            f()
            times.append(time.perf_counter() - start)
        print(json.dumps({"what": name, "median_seconds": sorted(times)[steps // 2], "min_seconds": min(times)}))


def main():
    if sys.argv[1:2] == ["bench"]:
        return bench(int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 512)
    if sys.argv[1:2] == ["bench-boxes"]:
        return bench_boxes()
    torch.set_num_threads(2)
    boxes_fixture()
    for legacy in (False, True):
        head_fixture(legacy)
    for slices, rows, columns in ((1, 64, 64), (3, 32, 64), (7, 32, 32)):
        backbone_fixture("densenet121", slices, rows=rows, columns=columns)
    for operator in ("alignshift", "tsm", "2.5d", "conv3d", "a3d"):
        backbone_fixture("tiny", 3, operator)
    return None


if __name__ == "__main__":
    main()
