#!/usr/bin/env python3
"""Writes small NIfTI files with nibabel, and volumes.json with their voxels and
the millimetres of two of them, and the connected components by scipy.

Usage: python3 volumes.py   (needs numpy, scipy, nibabel)
"""
import json

import nibabel as nib
import numpy as np
from scipy import ndimage

rng = np.random.default_rng(3)
AFFINE = np.array([[-0.7, 0.1, 0, 90], [0.05, 0.8, 0.2, -120], [0, -0.1, 2.5, 33], [0, 0, 0, 1]])


def sparse(dtype, size=(7, 5, 4), share=0.25, labels=3):
    return (rng.integers(1, labels + 1, size) * (rng.random(size) < share)).astype(dtype)


def save(name, image, out):
    nib.save(image, name)
    again = nib.load(name)
    data = again.get_fdata()
    flat = data.ravel(order="F")
    index = np.flatnonzero(flat)
    components, n = ndimage.label(data.reshape(data.shape[:3]) != 0, structure=np.ones((3, 3, 3)))
    labels = components.ravel(order="F")[index]
    out[name] = {
        "size": list(data.shape[:3]),
        "indices": index.tolist(),
        "values": flat[index].tolist(),
        "components": n,
        "labels": labels.tolist(),
        "voxel": [1, 2, 3],
        "point": nib.affines.apply_affine(again.affine, [1, 2, 3]).tolist(),
    }


out = {}
save("uint8.nii.gz", nib.Nifti1Image(sparse(np.uint8), AFFINE), out)
i = nib.Nifti1Image(sparse(np.int16), AFFINE)
i.header.set_slope_inter(0.5, 0)
save("int16_scaled.nii", i, out)
i = nib.Nifti1Image(sparse(np.float32), None)
i.header.set_zooms((0.7, 0.8, 2.5))
rotation = nib.eulerangles.euler2mat(0.1, 0.2, 0.3)
i.set_qform(np.block([[rotation @ np.diag([0.7, 0.8, -2.5]), np.array([[5], [6], [7]])], [np.zeros((1, 3)), 1]]), 1)
i.set_sform(None, 0)
save("float32_qform.nii.gz", i, out)
i = nib.Nifti1Image(sparse(np.int32, (3, 4, 5, 1)), AFFINE)
save("int32_4d.nii.gz", i, out)
i = nib.Nifti2Image(sparse(np.float64), AFFINE)
save("float64_nifti2.nii.gz", i, out)
header = nib.Nifti1Header(endianness=">")
header.set_data_dtype(">u2")
i = nib.Nifti1Image(sparse(np.uint16).astype(">u2"), AFFINE, header)
save("uint16_big.nii.gz", i, out)
with open("volumes.json", "w") as f:
    json.dump(out, f)
