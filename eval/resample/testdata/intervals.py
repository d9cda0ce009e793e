#!/usr/bin/env python3
"""Writes intervals.json: percentile and BCa intervals by scipy.stats.bootstrap.

The replicates that scipy drew are written too, so that the intervals can be
recomputed from them.

Usage: python3 intervals.py   (needs numpy, scipy 1.10 or later)
"""
import json

import numpy as np
from scipy import stats

rng = np.random.default_rng(11)
cases = []
for name, data, statistic in [
    ("mean of a skewed sample", rng.exponential(2, 25), np.mean),
    ("standard deviation", rng.normal(0, 1, 40), np.std),
    ("a rate, with ties", (rng.random(30) < 0.8).astype(float), np.mean),
]:
    for level in (0.95, 0.8):
        case = {"name": name, "level": level, "estimate": float(statistic(data)),
                "jackknife": [float(statistic(np.delete(data, i))) for i in range(len(data))]}
        for method in ("percentile", "BCa"):
            r = stats.bootstrap((data,), statistic, n_resamples=300, method=method, confidence_level=level,
                                random_state=np.random.default_rng(5), vectorized=False)
            case["replicates"] = r.bootstrap_distribution.tolist()
            case[method.lower()] = [float(r.confidence_interval.low), float(r.confidence_interval.high)]
        cases.append(case)
with open("intervals.json", "w") as f:
    json.dump(cases, f)
