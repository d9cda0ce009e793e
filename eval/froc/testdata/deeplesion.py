#!/usr/bin/env python3
"""Writes deeplesion.csv.gz: the published DeepLesion FROC on random cases.

An independent computation of the rule that 3DCE, MULAN, AlignShift and SATr
share: pool the boxes of all key slices, walk down by score, count every lesion
that a box newly hits (IoU >= 0.5 with widths x2 - x1 + 1) and one false positive
for every box that hits no lesion at all; divide by the number of slices;
interpolate linearly with numpy.interp. Two things are undefined there and made
definite here: the curve starts at (0, 0), and a threshold cannot separate equal
scores, so that only the last point of a score belongs to the curve.

Cases are drawn by splitmix64, seeded with the case's number, which the Go test
repeats. Columns: lesions found, false positives, sensitivity at each of FPPI.

Usage: python3 deeplesion.py   (needs numpy)
"""
import gzip

import numpy as np

CASES = 10000
FPPI = [0.25, 0.5, 1, 2, 4]
MASK = (1 << 64) - 1


class Random:
    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % n


def draw(case):
    """Returns per slice the lesions [x1, y1, x2, y2] and boxes [x1, y1, x2, y2, score]."""
    r = Random(case)
    slices = 1 + r.below(5)
    lesions, boxes = [], []
    for _ in range(slices):
        here = []
        for _ in range(r.below(3)):
            x, y = r.below(20), r.below(20)
            here.append([x, y, x + 4 + r.below(12), y + 4 + r.below(12)])
        marks = []
        for _ in range(r.below(5)):
            if here and r.below(2) == 0:
                box = [v + r.below(5) - 2 for v in here[r.below(len(here))]]
            else:
                x, y = r.below(30), r.below(30)
                box = [x, y, x + r.below(16), y + r.below(16)]
            # even cases have ties, odd ones have none
            score = r.below(6) / 8 if case % 2 == 0 else r.below(1 << 40) / 2**40
            marks.append(box + [score])
        lesions.append(here)
        boxes.append(marks)
    if not any(lesions):
        lesions[0].append([3, 3, 12, 12])
    return lesions, boxes


def iou(box, lesion):
    w = min(box[2], lesion[2]) - max(box[0], lesion[0]) + 1
    h = min(box[3], lesion[3]) - max(box[1], lesion[1]) + 1
    if w <= 0 or h <= 0:
        return 0.0
    area = lambda b: (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return w * h / (area(box) + area(lesion) - w * h)


def froc(lesions, boxes):
    pool = [(b[4], i, b) for i, marks in enumerate(boxes) for b in marks]
    pool.sort(key=lambda p: -p[0])
    hit = [[False] * len(here) for here in lesions]
    total = sum(len(here) for here in lesions)
    found = fp = 0
    fps, sens = [0.0], [0.0]
    for k, (score, i, box) in enumerate(pool):
        hits = [j for j, lesion in enumerate(lesions[i]) if iou(box, lesion) >= 0.5]
        if not hits:
            fp += 1
        for j in hits:
            if not hit[i][j]:
                hit[i][j] = True
                found += 1
        if k + 1 == len(pool) or pool[k + 1][0] != score:
            fps.append(fp / len(lesions))
            sens.append(found / total)
    return found, fp, np.interp(FPPI, fps, sens)


if __name__ == "__main__":
    with open("deeplesion.csv.gz", "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=9) as out:
        for case in range(CASES):
            found, fp, sens = froc(*draw(case))
            row = [str(found), str(fp)] + ["%.12g" % s for s in sens]
            out.write((",".join(row) + "\n").encode())
