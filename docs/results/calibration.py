#!/usr/bin/env python3
"""Calibration of recovered attributes out of fold: what is fitted on the values that four folds
recovered is measured on the fifth.

    python3 docs/results/calibration.py STUDY METHOD RATE[,RATE…] > docs/results/calibration.json

STUDY is the folder of a study with folds (study missing or recovery).
"""
import collections
import glob
import json
import math
import sys

PENALTY = 20.0  # draws an attribute's own temperature and biases to what is common


def softmax(z):
    top = max(z)
    e = [math.exp(x - top) for x in z]
    return [x / sum(e) for x in e]


def temperature(rows, common=None):
    """The temperature of least error on rows of (logarithms, value), near the common one."""
    def loss(t):
        nll = -sum(math.log(max(softmax([z / t for z in logs])[value], 1e-12)) for logs, value in rows)
        return nll + (PENALTY * math.log(t / common) ** 2 if common else 0)
    return min((math.exp(k / 40) for k in range(-40, 41)), key=loss)


def biased(rows, common):
    """An inverse temperature and a bias for each value, by gradient descent."""
    scale, bias = 1 / common, [0.0] * len(rows[0][0])
    rate = 1 / (len(rows) + PENALTY)
    for _ in range(150):
        slope, slopes = PENALTY * (scale - 1 / common), [PENALTY * b for b in bias]
        for logs, value in rows:
            for k, p in enumerate(softmax([z * scale + b for z, b in zip(logs, bias)])):
                slope += (p - (k == value)) * logs[k]
                slopes[k] += p - (k == value)
        scale -= 0.3 * rate * slope
        bias = [b - rate * s for b, s in zip(bias, slopes)]
    return scale, bias


def error(rows):
    """The calibration error of the greatest probability in ten bins."""
    bins = [[0, 0.0] for _ in range(10)]
    for p, value in rows:
        k = max(range(len(p)), key=p.__getitem__)
        one = bins[min(9, int(10 * p[k]))]
        one[0] += k == value
        one[1] += p[k]
    return sum(abs(right - sure) for right, sure in bins) / len(rows)


def main(study, method, rates):
    table = []
    for rate in rates.split(","):
        folds = collections.defaultdict(list)
        for path in sorted(glob.glob(f"{study}/cells/{method}_tr0_fold*_te{rate}/cell.json")):
            with open(path) as f:
                for a in json.load(f)["reconstruction"]:
                    for v in a["values"]:
                        logs = [math.log(max(p, 5e-5)) for p in v["p"]]
                        folds[path.split("_fold")[1].split("_")[0]].append((a["attribute"], logs, v["value"]))
        out = collections.defaultdict(list)
        for fold, values in folds.items():
            by = collections.defaultdict(list)
            for other, rows in folds.items():
                for name, logs, value in rows if other != fold else []:
                    by[name].append((logs, value))
            common = temperature([row for rows in by.values() for row in rows])
            own = {name: temperature(rows, common) for name, rows in by.items()}
            # Folds may know other values; only those that all of them know can have biases.
            both = {name: biased(rows, common) for name, rows in by.items() if len({len(logs) for logs, _ in rows}) == 1}
            for name, logs, value in values:
                scale, bias = both.get(name, (1 / common, []))
                if len(bias) != len(logs):
                    scale, bias = 1 / common, [0.0] * len(logs)
                for candidate, z in (
                    ("as they are", logs),
                    ("one temperature", [x / common for x in logs]),
                    ("a temperature for each attribute", [x / own.get(name, common) for x in logs]),
                    ("temperature and biases for each attribute", [x * scale + b for x, b in zip(logs, bias)]),
                ):
                    out[candidate].append((name, softmax(z), value))
        for candidate, rows in out.items():
            by = collections.defaultdict(list)
            for name, p, value in rows:
                by[name].append((p, value))
            table.append([f"{100 * float(rate):g} %, {candidate}", str(len(rows))] + [
                f"{x:.3f}"[1:] for x in (
                    error([row[1:] for row in rows]),
                    sum(map(error, by.values())) / len(by),
                    -sum(math.log(max(p[value], 1e-12)) for _, p, value in rows) / len(rows),
                )])
    json.dump({"table": {"calibration": {
        "command": f"python3 docs/results/calibration.py STUDY {method} {rates}",
        "origin": "Made by `docs/results/calibration.py` of the cells of the study of five folds.",
        "columns": ["", "values", "ECE", "mean ECE of single attributes", "negative log-likelihood"],
        "rows": table}}}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
