#!/usr/bin/env python3
"""Writes measures.json: answers to questions for numbers and times with their figures by scikit-learn 1.7, SciPy,
lifelines 0.30 and scikit-survival 0.28.

Usage: python3 measures.py   (needs numpy, scipy, scikit-learn, lifelines, scikit-survival)
"""
import json

import numpy as np
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index
from scipy import stats
from sklearn import metrics as m
from sksurv.metrics import brier_score, integrated_brier_score
from sksurv.util import Surv


def numbers(rng, n, noise, step):
    x = np.round(rng.gamma(3, 7, n) / step) * step
    y = np.round((x * 0.9 + 2 + rng.normal(0, noise, n)) / step) * step
    d = y - x
    half = 1.96 * d.std(ddof=1)
    want = {"mae": m.mean_absolute_error(x, y), "rmse": m.root_mean_squared_error(x, y), "r2": m.r2_score(x, y),
            "pearson": stats.pearsonr(x, y).statistic, "spearman": stats.spearmanr(x, y).statistic,
            "bias": d.mean(), "loa_low": d.mean() - half, "loa_high": d.mean() + half}
    return {"truth": x.tolist(), "predicted": y.tolist(), "want": {k: float(v) for k, v in want.items()}}


def times(rng, n, bounds, step, at):
    risk = rng.normal(0, 1, n)
    happens = rng.exponential(12 * np.exp(-risk))
    followed = rng.uniform(1, 40, n)
    event = happens <= followed
    time = np.maximum(step, np.ceil(np.minimum(happens, followed) / step) * step)
    edges = np.array([0.0] + bounds)
    curve = np.exp(-edges[None, :] / (14 * np.exp(-0.8 * risk + rng.normal(0, 0.4, n)))[:, None]).round(3)
    p = np.concatenate([curve[:, :-1] - curve[:, 1:], curve[:, -1:]], 1)
    expected = ((curve[:, :-1] + curve[:, 1:]) / 2 * np.diff(edges)).sum(1)
    y = Surv.from_arrays(event, time)
    grid = [b for b in bounds if b < time.max()]
    inside = np.array([np.interp(at, edges, row) for row in curve])
    kaplan = KaplanMeierFitter().fit(time, event)
    want = {"concordance": concordance_index(time, expected.round(12), event),
            "integrated_brier": integrated_brier_score(y, y, curve[:, 1:1 + len(grid)], grid),
            "brier@%g" % at: brier_score(y, y, inside[:, None], [at])[1][0],
            "calibration@%g" % at: (1 - float(kaplan.predict(at))) / (1 - inside).mean()}
    return {"time": time.tolist(), "event": [bool(e) for e in event], "bounds": bounds, "probabilities": p.tolist(),
            "want": {k: float(v) for k, v in want.items()}}


rng = np.random.default_rng(20)
out = {"numbers": [numbers(rng, 60, 4, 1), numbers(rng, 200, 20, 0.01)],
       "times": [times(rng, 80, [3.0, 6.0, 12.0, 24.0], 1, 9.0), times(rng, 200, [0.5, 1.5, 4.0, 10.0, 20.0, 30.0], 0.01, 20.0)]}
with open("measures.json", "w") as f:
    json.dump(out, f)
