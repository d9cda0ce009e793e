"""Writes dynamic.json: what report_guided_annotation 0.3.4 (PyPI) finds in random soft maps.

    pip install report_guided_annotation==0.3.4 && python dynamic.py [CASES]
"""
import base64
import json
import sys

import numpy as np
from report_guided_annotation import extract_lesion_candidates
from scipy import ndimage

SHAPE = (5, 10, 10)  # z, y, x
rng = np.random.default_rng(7)
cases = []
for n in range(int(sys.argv[1]) if len(sys.argv) > 1 else 9):
    noise = ndimage.gaussian_filter(rng.random(SHAPE), rng.choice([0.5, 0.8, 1.2]))
    soft = np.clip((noise - np.quantile(noise, rng.choice([0.5, 0.7, 0.85]))) * rng.choice([0.05, 1, 3]), 0, 1)
    soft = soft.astype(np.float32)
    if n % 3 == 1:  # few levels: ties
        soft = np.round(soft * 16) / 16
    case = {"map": base64.b64encode(soft.astype("<f4").tobytes()).decode()}
    for rule in ("dynamic", "dynamic-v2", "dynamic-fast"):
        blobs, _, index = extract_lesion_candidates(soft, threshold=rule)
        case[rule] = []
        for k in range(1, int(index.max()) + 1):
            part = np.flatnonzero((index == k) & (blobs > 0))
            if len(part):  # the package's rule 1 may end with a candidate of confidence 0 that is nowhere
                case[rule].append([float(blobs.flat[part[0]]), len(part), int(part[0]), int(part.sum())])
    cases.append(case)
with open("dynamic.json", "w") as f:
    json.dump({"shape": SHAPE[::-1], "cases": cases}, f)
