"""Reference values for the classifier plugin, from torchvision and PyTorch.

Run in this folder: /usr/bin/python3 reference.py
"""

import json
import os
import struct
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import swin_t, vision_transformer
from torchvision.models.video import r3d_18

here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "internal", "fixture"))
import fixture  # noqa: E402

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def vit_tokens(model, image):
    x = model._process_input((image - MEAN) / STD)
    return model.encoder(torch.cat([model.class_token.expand(x.shape[0], -1, -1), x], 1))


def store(name, model, tokens, shape, settings, skip, train=False):
    """Weights and input follow the formula: only shapes and some outputs are stored. train: those
    in training mode, too."""
    model.eval()
    shapes = fixture.fill(model, skip)
    image = torch.from_numpy(fixture.formula("in.image", shape))
    with torch.no_grad():
        y = tokens(model, image)
        out = {"tokens.some": y[:, ::20].clone(), "tokens.mean": y.mean(1)}
        if train:
            model.train()
            y = tokens(model, image)
            out |= {"train.some": y[:, ::20].clone(), "train.mean": y.mean(1)}
    fixture.write(os.path.join(here, name + ".safetensors"), out,
                  {"settings": json.dumps(settings), "shapes": json.dumps(shapes), "input": json.dumps(shape)})


def r3d_tokens(model, volume):
    x = volume.repeat(1, 3, 1, 1, 1)
    mean, std = torch.tensor([0.43216, 0.394666, 0.37645]), torch.tensor([0.22803, 0.22145, 0.216989])
    x = model.stem((x - mean.view(1, 3, 1, 1, 1)) / std.view(1, 3, 1, 1, 1))
    return model.layer4(model.layer3(model.layer2(model.layer1(x)))).flatten(2).transpose(1, 2)


class MobileNet(nn.Module):
    """MobileNet v1 under Keras's names of layers, padded as TensorFlow does."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, bias=False)
        self.conv1_bn = nn.BatchNorm2d(width, eps=1e-3)
        self.names, c = ["conv1"], width
        for i, (out, stride) in enumerate(
                [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)], 1):
            out = out * width // 32
            for name, conv in ((f"conv_dw_{i}", nn.Conv2d(c, c, 3, stride, groups=c, bias=False)), (f"conv_pw_{i}", nn.Conv2d(c, out, 1, bias=False))):
                setattr(self, name, conv)
                setattr(self, name + "_bn", nn.BatchNorm2d(conv.out_channels, eps=1e-3))
                self.names.append(name)
            c = out

    def forward(self, x):
        x = 2 * x - 1
        for name in self.names:
            conv = getattr(self, name)
            pads = []
            for n in (x.shape[3], x.shape[2]):
                k, s = conv.kernel_size[0], conv.stride[0]
                total = max(0, (-(-n // s) - 1) * s + k - n)
                pads += [total // 2, total - total // 2]
            x = F.relu6(getattr(self, name + "_bn")(conv(F.pad(x, pads))))
        return x.flatten(2).transpose(1, 2)


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {k: np.frombuffer(data[v["data_offsets"][0]:v["data_offsets"][1]], np.float32).reshape(v["shape"])
            for k, v in header.items() if k != "__metadata__"}


def mobilenet_published(path):
    """What the published weights, in TensorFlow's order of axes, make of the formula's picture."""
    net, state = MobileNet(24), {}
    ours = {"kernel": "weight", "depthwise_kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for name, v in read_safetensors(path).items():
        layer, kind = name.rsplit(".", 1)
        if layer != "conv_preds":
            v = v.transpose(3, 2, 0, 1) if kind == "kernel" else v.transpose(2, 3, 0, 1) if kind == "depthwise_kernel" else v
            state[layer + "." + ours[kind]] = torch.from_numpy(v.copy())
    net.load_state_dict(state, strict=False)
    assert not set(k for k in net.state_dict() if not k.endswith("num_batches_tracked")) - set(state)
    net.eval()
    with torch.no_grad():
        y = net(torch.from_numpy(fixture.formula("in.image", [2, 3, 224, 224])))
    fixture.write(os.path.join(here, "mobilenet_published.safetensors"), {"tokens.some": y[:, ::20].clone(), "tokens.mean": y.mean(1)},
                  {"settings": json.dumps({"kind": "mobilenet"}), "input": json.dumps([2, 3, 224, 224])})


def efficientnet(size):
    """The peer: PyPI's efficientnet-lite-pytorch, its grey values those of the TensorFlow original."""
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0", image_size=size, drop_connect_rate=0)
    return net, lambda m, x: m.extract_features((255 * x - 127) / 128).flatten(2).transpose(1, 2)


def conv(width, layers, deep):
    """A residual network with the plugin's names, for pictures or, deep, for volumes."""
    convolution, norm, first = (nn.Conv3d, nn.BatchNorm3d, 1) if deep else (nn.Conv2d, nn.BatchNorm2d, 3)

    class Block(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.conv1 = convolution(i, o, 3, 2, 1, bias=False)
            self.norm1 = norm(o)
            self.conv2 = convolution(o, o, 3, 1, 1, bias=False)
            self.norm2 = norm(o)
            self.short = convolution(i, o, 1, 2, bias=False)

        def forward(self, x):
            return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.short(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            c = [first] + [width << i for i in range(layers)]
            self.blocks = nn.ModuleList([Block(c[i], c[i + 1]) for i in range(layers)])

        def forward(self, x):
            x = 2 * x - 1
            for b in self.blocks:
                x = b(x)
            return x.flatten(2).transpose(1, 2)

    return Net()


def conv_case(kind, layers, port, shape):
    torch.manual_seed(1)
    net = conv(4, layers, kind == "conv3d")
    with torch.no_grad():
        for n, p in net.state_dict().items():
            if p.is_floating_point():
                p.add_(0.3 * torch.rand_like(p))
    params = {"param." + n: p.clone() for n, p in net.state_dict().items() if p.is_floating_point()}
    image = torch.rand(shape)
    net.eval()
    out = {"in." + port: image, "eval.tokens": net(image)}
    net.train()
    y = net(image)
    g = torch.randn_like(y)
    (y * g).sum().backward()
    out |= params | {"train.tokens": y, "train.grad": g}
    out |= {"grad.param." + n: p.grad for n, p in net.named_parameters()}
    out |= {"after." + n: b for n, b in net.named_buffers() if b.is_floating_point()}
    fixture.write(os.path.join(here, kind + ".safetensors"), out,
                  {"settings": json.dumps({"kind": kind, "width": "4", "layers": str(layers)})})


def head_case(name, kind, labels, with_report):
    torch.manual_seed(len(name))
    n, d = 5, 6
    x = {"tokens.photo": torch.randn(n, 7, 4)}
    if with_report:
        x = {"tokens.report": torch.randn(n, 3, d), "joint": torch.randn(n, d)} | (x if "photo" in with_report else {})
    order = [p for p in ("tokens.photo", "tokens.report", "joint") if p in x]
    width = sum(x[p].shape[-1] for p in order)
    norm = nn.LayerNorm(width)
    parts = {"norm": norm}
    if kind == "mlp":
        parts["hidden"] = nn.Linear(width, 9)
    last = 9 if kind == "mlp" else width
    for task in labels:
        parts["classifier" + ("." + task["name"] if len(labels) > 1 else "")] = nn.Linear(last, len(task["classes"]))
    with torch.no_grad():
        for m in parts.values():
            for p in m.parameters():
                p.add_(0.3 * torch.randn_like(p))
    leaves = {p: x[p].clone().requires_grad_() for p in order}
    pooled = [leaves[p] if p == "joint" else leaves[p].mean(1) for p in order]
    y = norm(torch.cat(pooled, 1))
    if kind == "mlp":
        y = F.gelu(parts["hidden"](y))
    out, losses = {}, []
    for task in labels:
        suffix = "." + task["name"] if len(labels) > 1 else ""
        logits = parts["classifier" + suffix](y)
        target = torch.tensor(task["target"])
        weight = torch.tensor(task["weights"]) if task["weights"] else None
        losses.append(F.cross_entropy(logits, target, weight, ignore_index=-1, label_smoothing=0.1))
        out["out.logits" + suffix] = logits
        out["in.target.label" + suffix] = target
    loss = torch.stack(losses).mean()
    loss.backward()
    out["loss"] = loss
    for p in order:
        out["in." + p] = x[p]
        out["grad.in." + p] = leaves[p].grad
    for k, m in parts.items():
        for s, p in m.named_parameters():
            out[f"param.{k}.{s}"] = p
            out[f"grad.param.{k}.{s}"] = p.grad
    fixture.write(os.path.join(here, name + ".safetensors"), out,
                  {"settings": json.dumps({"kind": kind, "hidden": "9", "label_smoothing": "0.1"}), "labels": json.dumps(labels)})


if __name__ == "__main__":
    conv_case("conv", 3, "image.photo", (3, 3, 20, 24))
    conv_case("conv3d", 2, "volume", (2, 1, 6, 9, 10))
    diag = {"name": "diag", "classes": ["a", "b", "c"], "weights": [1.0, 2.0, 0.5], "target": [0, 2, -1, 1, 1]}
    crit = {"name": "crit", "classes": ["x", "y"], "weights": [], "target": [1, 0, 0, -1, 1]}
    head_case("head_linear", "linear", [diag], "report and photo")
    head_case("head_mlp_tasks", "mlp", [diag, crit], "report and photo")
    head_case("head_attributes", "linear", [crit], "report")
    small = vision_transformer.VisionTransformer(32, 8, 2, 2, 16, 64)
    store("vit_small", small, vit_tokens, [2, 3, 32, 32],
          {"kind": "vit", "image_size": "32", "patch": "8", "width": "16", "layers": "2", "heads": "2"}, ("heads.",))
    store("vit_b_16", vision_transformer.vit_b_16(), vit_tokens, [1, 3, 224, 224], {"kind": "vit"}, ("heads.",))
    store("r3d_18", r3d_18(), r3d_tokens, [1, 1, 8, 40, 48], {"kind": "r3d_18"}, ("fc.",))
    swin = swin_t()
    store("swin_t", swin, lambda m, x: m.norm(m.features((x - MEAN) / STD)).flatten(1, 2), [1, 3, 224, 224],
          {"kind": "swin_t"}, ("head.",))
    store("swin_t_odd", swin, lambda m, x: m.norm(m.features((x - MEAN) / STD)).flatten(1, 2), [1, 3, 236, 180],
          {"kind": "swin_t"}, ("head.",))
    store("mobilenet", MobileNet(16), lambda m, x: m(x), [2, 3, 75, 75], {"kind": "mobilenet", "width": "16", "image_size": "75"}, (), True)
    mobilenet_published(os.path.join(here, "../../../../shared/data/models/mobilenet_v1_075_224.safetensors"))
    net, tokens = efficientnet(75)
    store("efficientnet_lite0", net, tokens, [2, 3, 75, 75], {"kind": "efficientnet_lite0", "image_size": "75"}, ("_fc.",), True)
