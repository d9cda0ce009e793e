#!/usr/bin/python3
"""Reference values for the resampling tests, computed by PyTorch and numpy.

Run in this folder: ./make_fixtures.py  (writes resample.json)
"""
import json
import math

import numpy as np
import torch
import torch.nn.functional as F

rng = np.random.default_rng(7)


def image(h, w):
    return np.round(rng.uniform(0, 255, (h, w)), 3).astype(np.float32)


def flat(a):
    return [round(float(v), 5) for v in np.asarray(a).ravel()]


resize = []
for h, w, size in [(9, 7, 18), (12, 16, 12), (16, 16, 11), (5, 5, 5)]:
    src = image(h, w)
    s = size / max(h, w)
    nh, nw = max(1, round(h * s)), max(1, round(w * s))
    out = F.interpolate(torch.tensor(src)[None, None], (nh, nw), mode="bilinear", align_corners=False)[0, 0]
    resize.append(dict(height=h, width=w, size=size, source=flat(src), out_height=nh, out_width=nw, out=flat(out)))

# A rotation by 15 degrees, scale 1.1 and shift about the centre; the map is original -> network.
h, w = 14, 18
src = image(h, w)
angle, f, dx, dy = math.radians(15), 1.1, 0.7, -1.2
cx, cy = (w - 1) / 2, (h - 1) / 2
c, s = f * math.cos(angle), f * math.sin(angle)
forward = np.array([[c, -s, cx - c * cx + s * cy + dx], [s, c, cy - s * cx - c * cy + dy], [0, 0, 1]])
inverse = np.linalg.inv(forward)
ys, xs = np.mgrid[0:h, 0:w].astype(np.float64)
u = inverse[0, 0] * xs + inverse[0, 1] * ys + inverse[0, 2]
v = inverse[1, 0] * xs + inverse[1, 1] * ys + inverse[1, 2]
grid = torch.tensor(np.stack([(2 * u + 1) / w - 1, (2 * v + 1) / h - 1], -1)[None], dtype=torch.float64)
out = F.grid_sample(torch.tensor(src, dtype=torch.float64)[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0].numpy()
outside = (u < -0.5) | (v < -0.5) | (u > w - 0.5) | (v > h - 0.5)
out[outside] = -777  # the fill value of the test
affine = dict(height=h, width=w, source=flat(src), forward=[float(v) for v in forward[:2].ravel()], out=flat(out), fill=-777)

# Slices resampled to 2 mm at several slice distances: linear interpolation of the
# stack, held constant beyond its ends.
stacks = []
for interval in [0.5, 0.6, 1, 1.5, 2, 2.5, 3, 5]:
    values = np.round(rng.uniform(-1000, 1000, 41), 2)
    key = 20
    for depth in [1, 3, 7, 9]:
        offsets = (np.arange(depth) - depth // 2) * 2.0
        stacks.append(dict(interval_mm=interval, depth=depth, key=key, values=flat(values),
                           out=flat(np.interp(key + offsets / interval, np.arange(41), values))))
short = np.round(rng.uniform(-1000, 1000, 4), 2)  # the stack ends two slices above and one below the key slice
stacks.append(dict(interval_mm=1.6, depth=7, key=1, values=flat(short),
                   out=flat(np.interp(1 + (np.arange(7) - 3) * 2 / 1.6, np.arange(4), short))))

with open("resample.json", "w") as f:
    json.dump(dict(resize=resize, affine=affine, stacks=stacks), f, separators=(",", ":"))
    f.write("\n")
