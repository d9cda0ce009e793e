#!/usr/bin/python3
"""Small NIfTI volumes of every datatype and byte order with their voxels, written
with struct and numpy after the NIfTI-1 and NIfTI-2 headers (nifti1.h, nifti2.h).

Run in this folder: ./make_fixtures.py  (writes *.nii, *.nii.gz and expected.json)
"""
import gzip
import json
import struct

import numpy as np

rng = np.random.default_rng(3)
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
expected = {}


def header1(e, dim, code, pixdim, slope, inter, qform=0, sform=0, quat=(0, 0, 0), qoff=(0, 0, 0), srow=(0,) * 12, units=2):
    h = bytearray(352)
    struct.pack_into(e + "i", h, 0, 348)
    struct.pack_into(e + "8h", h, 40, *(list(dim) + [1] * (8 - len(dim))))
    struct.pack_into(e + "hh", h, 70, code, np.dtype(TYPES[code]).itemsize * 8)
    struct.pack_into(e + "8f", h, 76, *(list(pixdim) + [0] * (8 - len(pixdim))))
    struct.pack_into(e + "fff", h, 108, 352, slope, inter)
    h[123] = units
    struct.pack_into(e + "hh", h, 252, qform, sform)
    struct.pack_into(e + "6f", h, 256, *quat, *qoff)
    struct.pack_into(e + "12f", h, 280, *srow)
    h[344:348] = b"n+1\0"
    return bytes(h)


def header2(e, dim, code, pixdim, slope, inter, sform, srow):
    h = bytearray(544)
    struct.pack_into(e + "i", h, 0, 540)
    h[4:12] = b"n+2\0\r\n\x1a\n"
    struct.pack_into(e + "hh", h, 12, code, np.dtype(TYPES[code]).itemsize * 8)
    struct.pack_into(e + "8q", h, 16, *(list(dim) + [1] * (8 - len(dim))))
    struct.pack_into(e + "8d", h, 104, *(list(pixdim) + [0] * (8 - len(pixdim))))
    struct.pack_into(e + "qdd", h, 168, 544, slope, inter)
    struct.pack_into(e + "ii", h, 344, 0, sform)
    struct.pack_into(e + "12d", h, 400, *srow)
    struct.pack_into(e + "i", h, 500, 2)
    return bytes(h)


def write(name, raw, volume, spacing_zyx, world):
    """volume is [z, y, x] as it is to be shown: x to the left, y to the back, z to the head."""
    with open(name, "wb") as f:
        f.write(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    expected[name] = dict(shape=list(volume.shape), data=[float(v) for v in volume.ravel()], spacing_mm=list(spacing_zyx),
                          world_ras=None if world is None else [float(v) for v in np.asarray(world).ravel()])


# Every datatype and byte order, i j k = 4 3 2, no orientation: stored order is shown.
for code, kind in TYPES.items():
    for e, order in (("<", "little"), (">", "big")):
        info = np.iinfo(kind) if kind[0] in "iu" else None
        v = rng.integers(info.min, info.max, (2, 3, 4), endpoint=True) if info else rng.normal(0, 500, (2, 3, 4))
        v = v.astype(e + kind)
        raw = header1(e, (3, 4, 3, 2), code, (1, 0.5, 0.75, 2), 0, 99) + v.tobytes()  # slope 0: no scaling
        write(f"type{code}_{order}.nii", raw, v.astype(np.float32), (2, 0.75, 0.5), None)

v = rng.integers(0, 4000, (3, 2, 2)).astype("<i2")
write("scaled.nii.gz", header1("<", (4, 2, 2, 3, 1), 4, (1, 1, 1, 1), 0.5, -1024) + v.tobytes(), v * np.float32(0.5) - 1024, (1, 1, 1), None)
write("nan_slope.nii", header1("<", (3, 2, 2, 3), 4, (1, 1, 1, 1), float("nan"), 5) + v.tobytes(), v.astype(np.float32), (1, 1, 1), None)
write("metres.nii", header1("<", (3, 2, 2, 3), 4, (1, 0.001, 0.002, 0.003), 1, 0, units=1) + v.tobytes(), v.astype(np.float32), (3, 2, 1), None)

# RAS+ (i right, j anterior, k superior): shown with columns to the left and rows to the back.
v = rng.integers(-1000, 1000, (3, 4, 5)).astype("<i2")  # k j i
ras = (0.7, 0, 0, -10, 0, 0.8, 0, -20, 0, 0, 2.5, -30)
world = [[-0.7, 0, 0, -10 + 4 * 0.7], [0, -0.8, 0, -20 + 3 * 0.8], [0, 0, 2.5, -30]]
write("ras.nii", header1("<", (3, 5, 4, 3), 4, (1, 0.7, 0.8, 2.5), 1, 0, sform=1, srow=ras) + v.tobytes(), v[:, ::-1, ::-1], (2.5, 0.8, 0.7), world)
write("ras_v2.nii.gz", header2("<", (3, 5, 4, 3), 4, (1, 0.7, 0.8, 2.5), 1, 0, 1, ras) + v.tobytes(), v[:, ::-1, ::-1], (2.5, 0.8, 0.7), world)
write("ras_v2_big.nii", header2(">", (3, 5, 4, 3), 4, (1, 0.7, 0.8, 2.5), 1, 0, 1, ras) + v.astype(">i2").tobytes(), v[:, ::-1, ::-1], (2.5, 0.8, 0.7), world)

# LPS by quaternion: half a turn about z (b = c = 0, d = 1): nothing is to be turned.
write("lps_quaternion.nii", header1("<", (3, 5, 4, 3), 4, (1, 0.7, 0.8, 2.5), 1, 0, qform=1, quat=(0, 0, 1), qoff=(1, 2, 3)) + v.tobytes(),
      v, (2.5, 0.8, 0.7), [[-0.7, 0, 0, 1], [0, -0.8, 0, 2], [0, 0, 2.5, 3]])
# qfac -1 turns k round.
write("lps_qfac.nii", header1("<", (3, 5, 4, 3), 4, (-1, 0.7, 0.8, 2.5), 1, 0, qform=1, quat=(0, 0, 1), qoff=(1, 2, 3)) + v.tobytes(),
      v[::-1], (2.5, 0.8, 0.7), [[-0.7, 0, 0, 1], [0, -0.8, 0, 2], [0, 0, 2.5, 3 - 2 * 2.5]])

# Sagittal acquisition: i runs to the back, j to the head, k to the left.
sagittal = (0, 0, -3, 9, -0.5, 0, 0, 8, 0, 0.6, 0, 7)
shown = v.transpose(1, 2, 0)  # z = j, y = i, x = k
write("sagittal.nii", header1("<", (3, 5, 4, 3), 4, (1, 0.5, 0.6, 3), 1, 0, sform=2, srow=sagittal) + v.tobytes(),
      shown, (0.6, 0.5, 3), [[-3, 0, 0, 9], [0, -0.5, 0, 8], [0, 0, 0.6, 7]])

with open("expected.json", "w") as f:
    json.dump(expected, f, separators=(",", ":"), allow_nan=False)
    f.write("\n")
