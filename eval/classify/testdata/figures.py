#!/usr/bin/env python3
"""Writes figures.json: figures of metrics.json's predictions by scikit-learn and scipy; DeLong's and Obuchowski's
variances from the matrix of all pairs.

Usage: python3 figures.py   (needs numpy, scipy, scikit-learn)
"""
import json
import warnings

import numpy as np
from scipy.optimize import minimize, root
from sklearn import metrics as m

warnings.simplefilter("ignore")
EPS = np.finfo(float).eps


def calibration(y, p, with_slope):
    x = np.log(np.clip(p, EPS, 1 - EPS) / (1 - np.clip(p, EPS, 1 - EPS)))

    def loss(v):
        z = v[0] + (v[1] if with_slope else 1) * x
        return (np.logaddexp(0, z) - y * z).sum()

    def slope(v):
        z = v[0] + (v[1] if with_slope else 1) * x
        e = 1 / (1 + np.exp(-z)) - y
        return np.array([e.sum(), (e * x).sum()]) if with_slope else np.array([e.sum()])

    found = minimize(loss, [0.0, 1.0] if with_slope else [0.0], jac=slope, method="BFGS")
    exact = root(slope, found.x, tol=1e-14)  # to the last digits: BFGS stops where the loss is flat
    return float(exact.x[1] if with_slope else exact.x[0])


def pairs(y, p):
    a, b = p[y][:, None], p[~y][None, :]
    return (a > b) + 0.5 * (a == b)


def clustered(y, patients, one, two):
    """Obuchowski 1997: covariance of two areas whose cases belong to patients."""
    psi = [pairs(y, one), pairs(y, two)]
    theta = [k.mean() for k in psi]
    names = np.unique(patients)
    x = [np.array([(k.mean(1)[patients[y] == n] - t).sum() for n in names]) for k, t in zip(psi, theta)]
    z = [np.array([(k.mean(0)[patients[~y] == n] - t).sum() for n in names]) for k, t in zip(psi, theta)]
    i10, i01, i = len(np.unique(patients[y])), len(np.unique(patients[~y])), len(names)
    mm, nn = y.sum(), (~y).sum()
    s10 = i10 / ((i10 - 1) * mm) * (x[0] * x[1]).sum()
    s01 = i01 / ((i01 - 1) * nn) * (z[0] * z[1]).sum()
    s11 = i / (i - 1) * ((x[0] * z[1]).sum() + (x[1] * z[0]).sum())
    return s10 / mm + s01 / nn + s11 / (mm * nn)


def best(y, p, at, sensitivity):
    fpr, tpr, _ = m.roc_curve(y, p, drop_intermediate=False)
    se, sp = (tpr, 1 - fpr) if sensitivity else (1 - fpr, tpr)
    return float(se[sp >= at - 1e-12].max())


def figures(labels, p):
    k = p.shape[1]
    called = p.argmax(1)
    out = {
        "accuracy": m.accuracy_score(labels, called), "balanced_accuracy": m.balanced_accuracy_score(labels, called),
        "macro_f1": m.f1_score(labels, called, average="macro"), "kappa": m.cohen_kappa_score(labels, called, labels=range(k)),
        "quadratic_kappa": m.cohen_kappa_score(labels, called, labels=range(k), weights="quadratic"),
        "linear_kappa": m.cohen_kappa_score(labels, called, labels=range(k), weights="linear"),
        "micro_auroc": m.roc_auc_score(np.eye(k)[labels].ravel(), p.ravel()),
        "micro_ap": m.average_precision_score(np.eye(k)[labels].ravel(), p.ravel()),
        "mae": m.mean_absolute_error(labels, called),
        "mcc": m.matthews_corrcoef(labels, called),
        "log_loss": float(-np.log(np.clip(p[np.arange(len(labels)), labels], EPS, 1)).mean()),
        "brier": float(((p - np.eye(k)[labels]) ** 2).sum(1).mean() / (2 if k == 2 else 1)),
        "macro_ap": float(np.mean([m.average_precision_score(labels == c, p[:, c]) for c in range(k)])),
    }
    if k == 2:
        assert abs(out["brier"] - m.brier_score_loss(labels, p[:, 1])) < 1e-12
    for c in range(k):
        y, q, is_called = labels == c, p[:, c], called == c
        n = len(y)
        out |= {
            f"auroc:{c}": m.roc_auc_score(y, q), f"ap:{c}": m.average_precision_score(y, q), f"f1:{c}": m.f1_score(y, is_called),
            f"precision:{c}": m.precision_score(y, is_called), f"recall:{c}": m.recall_score(y, is_called),
            f"specificity:{c}": m.recall_score(~y, ~is_called),
            f"sensitivity@0.8:{c}": best(y, q, 0.8, True), f"specificity@0.9:{c}": best(y, q, 0.9, False),
            f"net_benefit@0.3:{c}": float((y & (q >= 0.3)).sum() / n - (~y & (q >= 0.3)).sum() / n * 0.3 / 0.7),
            f"calibration_slope:{c}": calibration(y, q, True), f"calibration_intercept:{c}": calibration(y, q, False),
        }
    return {name: float(v) for name, v in out.items()}


cases = []
rng = np.random.default_rng(3)
for case in json.load(open("metrics.json")):
    labels = np.array(case["a"]["labels"])
    a, b = np.array(case["a"]["probabilities"]), np.array(case["b"]["probabilities"])
    patients = rng.integers(0, len(labels) // 2, len(labels))
    delong = []
    for c in range(a.shape[1]):
        y = labels == c
        row = {}
        for name, who in [("cases", np.arange(len(y))), ("patients", patients)]:
            cov = [[clustered(y, who, s[:, c], t[:, c]) for t in (a, b)] for s in (a, b)]
            row[name] = [cov[0][0], cov[1][1], cov[0][0] + cov[1][1] - 2 * cov[0][1]]
        delong.append(row)
    cases.append({"a": figures(labels, a), "b": figures(labels, b), "patients": patients.tolist(), "variances": delong})
json.dump(cases, open("figures.json", "w"))
