#!/usr/bin/env python3
"""Writes metrics.json: figures by scikit-learn and scipy on random predictions.

Usage: python3 metrics.py   (needs numpy, scipy, scikit-learn)
"""
import json

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, recall_score, roc_auc_score

rng = np.random.default_rng(7)


def draw(n, classes, skill, labels=None, digits=2):
    labels = rng.integers(0, classes, n) if labels is None else labels
    logits = rng.normal(0, 1, (n, classes)) + skill * np.eye(classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = np.round(p, digits)  # ties
    p[:, 0] += 1 - p.sum(1)
    return labels, np.clip(p, 0, 1)


def ece(labels, p, bins=15):
    confidence, predicted = p.max(1), p.argmax(1)
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        here = (confidence > low) & (confidence <= high)
        if here.any():
            total += here.mean() * abs((predicted == labels)[here].mean() - confidence[here].mean())
    return total


def figures(labels, p):
    classes = p.shape[1]
    auroc = [roc_auc_score(labels == c, p[:, c]) for c in range(classes)]
    return {
        "labels": labels.tolist(), "probabilities": p.tolist(),
        "accuracy": accuracy_score(labels, p.argmax(1)),
        "balanced_accuracy": balanced_accuracy_score(labels, p.argmax(1)),
        "macro_auroc": float(np.mean(auroc)), "auroc": auroc,
        "recall": recall_score(labels, p.argmax(1), average=None, labels=range(classes)).tolist(),
        "confusion": confusion_matrix(labels, p.argmax(1), labels=range(classes)).tolist(),
        "ece": ece(labels, p),
    }


cases = []
for n, classes, skill in [(60, 2, 1.0), (120, 4, 1.5), (90, 6, 0.3)]:
    labels, a = draw(n, classes, skill)
    _, b = draw(n, classes, skill + 0.8, labels)
    right_a, right_b = a.argmax(1) == labels, b.argmax(1) == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    cases.append({
        "a": figures(labels, a), "b": figures(labels, b), "only_a": only_a, "only_b": only_b,
        "mcnemar": binomtest(only_a, only_a + only_b, 0.5).pvalue,
    })
with open("metrics.json", "w") as f:
    json.dump(cases, f)
